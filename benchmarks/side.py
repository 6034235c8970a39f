"""Compare this checkout with another one in one run, so that other load on the machine affects both.

python -m benchmarks.side OTHER_CHECKOUT [--rounds 6] [--seconds 2]

Each round measures one after the other; the medians of all rounds are printed, with the ratio of this checkout to the
other one.  CPU ratios hold on a busy machine too; rates and times only roughly.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from benchmarks import load, processes
from tests.e2e.server import ROOT, Router

Figure = tuple[str, float]
_MANY = 256  # connections


def burst(router: Router, seconds: float) -> Iterator[Figure]:
    """Yield CPU, rate and the spread of latencies with many requests at the same time."""
    for name, bodies in (("short prompt", load.SHORT), ("real prompts", load.REAL)):
        rate = load.throughput(router.port, seconds, router.worker_pids(), bodies=bodies)
        yield f"{name}: CPU us a request", rate["cpu_us"]
        yield f"{name}: requests a second", rate["per_second"]
        yield f"{name}: p99 / p50", rate["p99_ms"] / rate["p50_ms"]
    many = load.throughput(router.port, seconds, connections=_MANY)
    yield f"{_MANY} connections: requests a second", many["per_second"]
    yield f"{_MANY} connections: p99 ms", many["p99_ms"]


def sequential(ports: dict[str, int], direct: int) -> Iterator[tuple[str, Figure]]:
    """Yield the time that each router adds to a request, of which there is one at a time."""
    for name, rounds, bodies in (("short prompt", 200, load.SHORT), ("200,000 tokens", 15, (load.long_body(),))):
        times = load.sequential({"direct": direct, **ports}, rounds, bodies)
        for root in ports:
            yield root, (f"{name}: added p50 ms", times[root]["p50_ms"] - times["direct"]["p50_ms"])


def compare(other: Path, rounds: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return the median of each figure, by its name and by `other` and `this`."""
    figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with (
        processes.upstream() as direct,
        processes.router(direct, other) as old,
        processes.router(direct, ROOT) as new,
    ):
        routers = {"other": old, "this": new}
        for router in routers.values():
            load.throughput(router.port, 1)  # warm
        for _ in range(rounds):
            for root, router in routers.items():
                for name, figure in burst(router, seconds):
                    figures[name][root].append(figure)
            for root, (name, figure) in sequential({root: routers[root].port for root in routers}, direct):
                figures[name][root].append(figure)
    return {
        name: {root: statistics.median(values) for root, values in by_root.items()} for name, by_root in figures.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare this checkout with another one, side by side.")
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    print(f"{'':40} {'other':>10} {'this':>10} {'ratio':>7}")
    for name, medians in compare(options.other.resolve(), options.rounds, options.seconds).items():
        other, this = medians["other"], medians["this"]
        print(f"{name:40} {other:10.2f} {this:10.2f} {this / other:7.2f}")


if __name__ == "__main__":
    main()

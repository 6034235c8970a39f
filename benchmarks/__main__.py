"""`make bench`: measure the cost of the router, and compare each figure with a direct call in the same run.

python -m benchmarks [--runs 5] [--root OTHER_CHECKOUT] [--save FILE] [--only requests,streams,start,history]
python -m benchmarks compare OLD.json NEW.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import history, load, processes, streams
from tests.e2e.server import ROOT, Router, wait_until

Figures = dict[str, float]
_RATES = (100, 67, 40, 33, 25, 20)  # ms between chunks; 200 streams each
_LATE_MS = 50.0


def requests(root: Path) -> Figures:
    """Measure sequential latency, throughput and CPU."""
    with (
        processes.upstream() as direct,
        processes.bare("noop", direct) as (noop, noop_pids),
        processes.bare("forward", direct) as (forward, forward_pids),
        processes.router(direct, root) as router,
    ):
        load.throughput(router.port, 1)  # warm
        load.throughput(forward, 1)
        ports = {"direct": direct, "noop": noop, "forward": forward, "router": router.port}
        times = load.sequential(ports, 400)
        rates = {
            "noop": load.throughput(noop, 3, noop_pids),
            "forward": load.throughput(forward, 3, forward_pids),
            "router": load.throughput(router.port, 4, router.worker_pids()),
        }
        both = {"direct": direct, "router": router.port}
        real = load.sequential(both, 400, load.REAL)
        real_rate = load.throughput(router.port, 4, router.worker_pids(), bodies=load.REAL)
        long_ms = load.sequential(both, 10, (load.long_body(),))
    return {
        "direct p50 ms": times["direct"]["p50_ms"],
        "short prompt: added p50 ms": times["router"]["p50_ms"] - times["direct"]["p50_ms"],
        "short prompt: added p95 ms": times["router"]["p95_ms"] - times["direct"]["p95_ms"],
        "noop added p50 ms": times["noop"]["p50_ms"] - times["direct"]["p50_ms"],
        "forward added p50 ms": times["forward"]["p50_ms"] - times["direct"]["p50_ms"],
        "short prompt: requests a second": rates["router"]["per_second"],
        "noop requests a second": rates["noop"]["per_second"],
        "forward requests a second": rates["forward"]["per_second"],
        "requests a second / noop": rates["router"]["per_second"] / rates["noop"]["per_second"],
        "requests a second / forward": rates["router"]["per_second"] / rates["forward"]["per_second"],
        "short prompt: CPU us a request": rates["router"]["cpu_us"],
        "noop CPU us a request": rates["noop"]["cpu_us"],
        "forward CPU us a request": rates["forward"]["cpu_us"],
        "real prompts: added p50 ms": real["router"]["p50_ms"] - real["direct"]["p50_ms"],
        "real prompts: added p95 ms": real["router"]["p95_ms"] - real["direct"]["p95_ms"],
        "real prompts: requests a second": real_rate["per_second"],
        "real prompts: CPU us a request": real_rate["cpu_us"],
        "200,000 tokens: added p50 ms": long_ms["router"]["p50_ms"] - long_ms["direct"]["p50_ms"],
    }


def many_streams(root: Path) -> Figures:
    """Measure 1,000 streams of 30 chunks, 2 a second; then the largest number of chunks a second."""
    figures: Figures = {}
    with processes.upstream() as direct, processes.router(direct, root) as router:
        pids = router.worker_pids()
        plain = streams.measure(direct, "x", 1000, "/drip/30/500/v1/chat/completions")
        rest, cpu = sum(processes.resident_mib(pids)), processes.cpu_s(pids)
        begun = time.monotonic()
        client = streams.start(router.port, "drip500", 1000)
        peak = rest
        while client.poll() is None:
            peak = max(peak, sum(processes.resident_mib(pids)))
            time.sleep(0.2)
        routed = streams.finish(client)
        figures |= {
            "1,000 streams: completed": routed["completed"],
            "direct chunk delay p95 ms": plain["p95_ms"],
            "added chunk delay p50 ms": routed["p50_ms"] - plain["p50_ms"],
            "added chunk delay p95 ms": routed["p95_ms"] - plain["p95_ms"],
            "added time to first byte p50 ms": routed["first_p50_ms"] - plain["first_p50_ms"],
            "memory over rest MiB": peak - rest,
            "CPU cores": (processes.cpu_s(pids) - cpu) / (time.monotonic() - begun),
        }
        few = [streams.measure(port, "drip50", 5, path) for port, path in _five_streams(direct, router)]
        figures["five streams: added time to first byte ms"] = few[1]["first_p50_ms"] - few[0]["first_p50_ms"]
        figures["five streams: added chunk delay p50 ms"] = few[1]["p50_ms"] - few[0]["p50_ms"]
        most = 0.0
        for ms in _RATES:
            found = streams.measure(router.port, f"drip{ms}", 200)
            if found["p95_ms"] > _LATE_MS or found["completed"] < 200:
                break
            most = max(most, found["chunks_per_second"])
        figures["chunks a second with p95 under 50 ms"] = most
    return figures


def _five_streams(direct: int, router: Router) -> list[tuple[int, str]]:
    return [(direct, "/drip/100/50/v1/chat/completions"), (router.port, load.PATH)]


def start(root: Path) -> Figures:
    """Measure the time from the command to the first response, and the memory of an idle worker."""
    with processes.upstream() as direct, tempfile.TemporaryDirectory() as folder:
        router = Router(
            processes.policy(direct),
            folder=Path(folder),
            workers=processes.WORKERS,
            env={"BENCH_KEY": "x"},
            wait=False,
            root=root,
        )
        begun = time.monotonic()
        with router:
            wait_until(lambda: _answers(router), 20, "an answer")
            first = time.monotonic() - begun
            wait_until(lambda: len(router.worker_pids()) == processes.WORKERS, 10, "the workers")
            time.sleep(3)
            pids = router.worker_pids()
            before = processes.cpu_s(pids)
            time.sleep(5)
            idle = (processes.cpu_s(pids) - before) / 5 / len(pids)
            return {
                "start to first answer s": first,
                "a worker at rest MiB": max(processes.resident_mib(pids)),
                "a worker at rest: CPU %": idle * 100,
            }


def _answers(router: Router) -> bool:
    try:
        return router.chat("hello").status == 200
    except OSError:
        return False


MEASURES: dict[str, Callable[[Path], Figures]] = {
    "requests": requests,
    "streams": many_streams,
    "start": start,
    "history": history.measure,
}


def medians(runs: list[dict[str, Figures]]) -> dict[str, Figures]:
    """Return the median of each figure, over the runs that have it."""
    found: dict[str, Figures] = {}
    for part in runs[0]:
        names = runs[0][part]
        found[part] = {name: statistics.median(run[part][name] for run in runs) for name in names}
    return found


def table(figures: dict[str, Figures], other: dict[str, Figures] | None = None) -> str:
    lines = []
    for part, values in figures.items():
        lines.append(f"{part}")
        for name, value in values.items():
            line = f"  {name:<44}{value:>12.3f}"
            if other is not None and (new := other.get(part, {}).get(name)) is not None:
                line += f"{new:>12.3f}" + (f"   x {new / value:.2f}" if value else "")
            lines.append(line)
    return "\n".join(lines)


def commit(root: Path) -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def main() -> None:
    if sys.argv[1:2] == ["compare"]:
        old, new = (json.loads(Path(name).read_text()) for name in sys.argv[2:4])
        print(table(old["medians"], new["medians"]))
        return
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--root", type=Path, default=ROOT)
    parser.add_argument("--only", default=",".join(MEASURES))
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    runs: list[dict[str, Figures]] = []
    for number in range(options.runs):
        print(f"run {number + 1} of {options.runs}", file=sys.stderr, flush=True)
        runs.append({part: MEASURES[part](options.root) for part in options.only.split(",")})
    found = medians(runs)
    print(table(found))
    name = commit(options.root)
    file = options.save or ROOT / "build" / "bench" / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    load_average = os.getloadavg()[1]
    document = {"commit": name, "cores": os.cpu_count(), "load": load_average, "medians": found, "runs": runs}
    file.write_text(json.dumps(document, indent=1))
    print(f"saved to {file}", file=sys.stderr)


if __name__ == "__main__":
    main()

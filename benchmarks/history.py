"""Measure the cost of a history of 1,000,000 rows, in comparison with an empty database in the same run."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks import load, processes, rows, streams
from tests.e2e.server import ROOT, Router

_PAGES = {
    "/v1/metrics?hours=24": "/v1/metrics 24 h ms",
    "/v1/metrics?hours=720": "/v1/metrics 30 days ms",
    "/metrics": "/metrics ms",
    "/v1/ab?hours=24": "/v1/ab ms",
}
_FRESH_S = 1800
_STREAMS = 20


def measure(root: Path) -> dict[str, float]:
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder, processes.upstream() as upstream:
        copy = Path(folder) / "million.db"
        shutil.copyfile(_million(), copy)
        with (
            processes.router(upstream, root) as empty,
            processes.router(upstream, root, str(copy)) as full,
        ):
            ports = {"empty": empty.port, "full": full.port}
            for part, rounds, path in (("request", 300, load.PATH), ("decision", 300, "/v1/route")):
                times = load.sequential(ports, rounds, path=path)
                figures[f"{part}: ms on an empty database"] = times["empty"]["p50_ms"]
                figures[f"{part}: ratio on 1,000,000 rows"] = times["full"]["p50_ms"] / times["empty"]["p50_ms"]
            for page, name in _PAGES.items():
                figures[name] = statistics.median(_get(full, page) for _ in range(9))
            for name, pages in (("calm", ()), ("pages read without pause", tuple(_PAGES))):
                figures |= _delays(upstream, full, name, pages)
    return figures


def _delays(upstream: int, router: Router, name: str, pages: tuple[str, ...]) -> dict[str, float]:
    """Return the delays of streams through the router, and of the same number directly from the upstream at the same
    time."""
    direct = streams.start(upstream, "d", _STREAMS, "/drip/100/50/v1/chat/completions")
    client = streams.start(router.port, "drip50", _STREAMS)
    while client.poll() is None:
        for page in pages:
            _get(router, page)
        time.sleep(0.001)
    routed, plain = streams.finish(client), streams.finish(direct)
    return {
        f"stream delay ms, {name}: {what}": found[key]
        for found, what, key in (
            (routed, "p95", "p95_ms"),
            (routed, "worst", "max_ms"),
            (plain, "worst of direct streams meanwhile", "max_ms"),
        )
    }


def _get(router: Router, page: str) -> float:
    begun = time.perf_counter()
    answer = router.get(page)
    assert answer.status == 200, answer.body
    return (time.perf_counter() - begun) * 1000


def _million() -> Path:
    """Build the database once, and again when its newest rows are old."""
    file = ROOT / "build" / "bench" / "million.db"
    if not file.exists() or time.time() - file.stat().st_mtime > _FRESH_S:
        file.parent.mkdir(parents=True, exist_ok=True)
        for old in file.parent.glob("million.db*"):
            old.unlink()
        rows.build(file)
    return file

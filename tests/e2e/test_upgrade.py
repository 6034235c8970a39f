"""A database of the original program under real workers: reports answer while its rows are summed up."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from tests.e2e.server import Router

pytestmark = pytest.mark.e2e

ROWS = 30_000
POLICY = {"backends": {"old": {"type": "echo"}}, "routes": [{"default": "old"}]}
ORIGINAL = """
CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, backend TEXT NOT NULL,
  latency_ms INTEGER NOT NULL, ok INTEGER NOT NULL, error TEXT, fallback_for TEXT, shadow INTEGER NOT NULL DEFAULT 0);
CREATE INDEX idx_metrics_ts ON metrics(ts);
"""


def original(file: Path) -> None:
    """Write a call every minute of the last three weeks."""
    begin = int(time.time() * 1000) - ROWS * 60_000
    database = sqlite3.connect(file)
    database.executescript(ORIGINAL)
    rows = ((begin + n * 60_000, 100 + n % 900) for n in range(ROWS))
    database.executemany("INSERT INTO metrics (ts, backend, latency_ms, ok) VALUES (?, 'old', ?, 1)", rows)
    database.commit()
    database.close()


def total_of_prometheus(router: Router) -> tuple[int | None, int]:
    """Return the calls that /metrics tells of, and the rows that it says are missing."""
    text = router.get("/metrics").body.decode()
    calls = re.search(r"^llr_backend_calls_total\{.*\} (\S+)$", text, re.MULTILINE)
    unsummed = re.search(r"^llr_rows_unsummed (\S+)$", text, re.MULTILINE)
    assert unsummed is not None
    return int(float(calls[1])) if calls else None, int(float(unsummed[1]))


def test_reports_answer_while_old_rows_are_summed_up(tmp_path: Path) -> None:
    folder = tmp_path / "router"
    folder.mkdir()
    original(folder / "metrics.db")
    with Router(POLICY, folder=folder, workers=2) as router:
        os.kill(router.worker_pids()[0], signal.SIGKILL)  # amid it, perhaps
        sent, whole, shares = 0, False, []
        deadline = time.monotonic() + 60
        while not whole:
            assert time.monotonic() < deadline
            assert router.chat("hello").status == 200
            sent += 1
            summary = router.get("/v1/metrics?hours=720").json
            summed = summary.get("summed")
            shares.append(summed["share"] if summed else 1)
            assert summary["total"]["calls"] <= ROWS + sent
            calls, unsummed = total_of_prometheus(router)
            assert calls is None or (unsummed == 0 and calls >= ROWS), "totals are whole, or left out"
            day = router.get("/v1/metrics?hours=24").json
            assert day["total"]["calls"] >= 24 * 60 - 1 and "summed" not in day, "few rows are whole at once"
            assert router.get("/").status == 200
            whole = unsummed == 0
        assert shares == sorted(shares)
        router.wait_rows(ROWS + sent)
        assert total_of_prometheus(router) == (ROWS + sent, 0)
        summary = router.get("/v1/metrics?hours=720").json
        assert summary["total"]["calls"] == ROWS + sent and "summed" not in summary
        assert total_of_prometheus(router) == (ROWS + sent, 0)

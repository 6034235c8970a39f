"""Build a metrics database with a history: 30 days of calls to several backends, models and routes, with their
aggregates.

python -m benchmarks.rows FILE [COUNT]
"""

from __future__ import annotations

import random
import sqlite3
import sys
import time
from pathlib import Path

from app.metrics.store import Store

_DAYS_MS = 30 * 86_400_000
_BACKENDS = ("local", "frontier", "sarmalink", "spare")
_ROUTES = ("default", "sensitivity=high", "task=code,complexity=high", "pin")
_INSERT = (
    "INSERT INTO metrics (ts, backend, latency_ms, ok, error, fallback_for, shadow, model, route, surface, stream,"
    " task, complexity, ttfb_ms, input_tokens, output_tokens, cost_usd, outcome, request_id, verified,"
    " verified_reason, held_ms, kind)"
    " VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?, 'chat', ?, 'general', 'low', ?, ?, ?, ?, ?, ?, ?, ?, ?, 'live')"
)
_VERDICTS = (  # of the answers of every route
    ("kept", None), ("kept", None), ("kept", None), ("released", None), ("observed", None),
    ("escalated", "structure"), ("escalated", "agreement"), ("escalated", "confidence"),
)  # fmt: skip


def _row(number: int, ts: int, random: random.Random) -> tuple[object, ...]:
    backend, stream, ok = random.choice(_BACKENDS), random.random() < 0.7, random.random() < 0.97
    latency = int(random.lognormvariate(7, 0.8))
    verdict = random.choice(_VERDICTS) if ok else (None, None)
    return (
        ts, backend, latency, ok, None if ok else "timeout", "local" if random.random() < 0.05 else None,
        f"model-{random.randrange(2)}", random.choice(_ROUTES), stream, latency // 4 if stream else None,
        random.randrange(2000), random.randrange(800), 0.001, "ok" if ok else "error", f"llr-{number:024x}",
        *verdict, random.randrange(2000) if ok else None,
    )  # fmt: skip


def build(file: Path, count: int = 1_000_000) -> None:
    """Create the database in the form that the router would have written."""
    store = Store(str(file))
    store.write([])
    store.close()
    chance, now = random.Random(1), int(time.time() * 1000)
    connection = sqlite3.connect(file)
    with connection:
        rows = (_row(number, now - _DAYS_MS + number * _DAYS_MS // count, chance) for number in range(count))
        connection.executemany(_INSERT, rows)
    connection.close()
    while store.catch_up():
        pass
    store.close()


if __name__ == "__main__":
    build(Path(sys.argv[1]), *map(int, sys.argv[2:]))

"""Calls over time: the same sums, whichever rows or rollups they come from."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.metrics import window as windows
from app.metrics.aggregates import Dump, Key, merged
from app.metrics.store import Store
from app.metrics.window import Steps
from tests import build

HOUR_S, HOUR_MS = 3600, 3_600_000
NOW = 472_222 * HOUR_MS + 35 * 60_000  # 35 minutes past a full hour


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(str(tmp_path / "metrics.db"))
    yield made
    made.close()


def fill(store: Store) -> None:
    """A live call every five minutes of the last two days, 100 to 199 ms, and as many mirrored ones."""
    calls = [build.record(ts_ms=NOW - n * 300_000, latency_ms=100 + n % 100, model="mn"[n % 2]) for n in range(576)]
    store.write([*calls, *(build.record(ts_ms=call.times.ts_ms, kind="shadow", backend="b") for call in calls)])


def calls(steps: Steps) -> dict[int, int]:
    return {step: merged(found.values()).calls for step, found in sorted(steps.items())}


@pytest.mark.parametrize("exact_rows", [10**6, 10], ids=["few rows", "many rows"])
@pytest.mark.parametrize("hours, step_s", [(1, 600), (5, 600), (24, 3600), (40, 10_800)])
def test_steps_and_totals_agree(
    store: Store, monkeypatch: pytest.MonkeyPatch, exact_rows: int, hours: int, step_s: int
) -> None:
    monkeypatch.setattr(windows, "_EXACT_ROWS", exact_rows)
    fill(store)
    since = NOW - hours * HOUR_MS
    window = store.window(since, step_s)
    aggregates, steps = window.aggregates, window.steps
    live = {key: aggregate for key, aggregate in aggregates.items() if key[3] == "live"}
    assert sum(aggregate.calls for aggregate in live.values()) == hours * 12 + 1
    assert {key[:2] for key in live} == {("local", "m"), ("local", "n")}
    assert aggregates[Key("b", "m", "default", "shadow")].calls == hours * 12 + 1
    assert sum(calls(steps).values()) == hours * 12 + 1
    assert all(step % step_s == 0 for step in steps)
    assert set(list(calls(steps).values())[1:-1]) == {step_s // 300}, "every whole step has its calls"
    assert store.window(since).aggregates == aggregates


def test_the_cost_of_a_day_is_that_of_its_hours(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "_EXACT_ROWS", 10)
    fill(store)
    seen: list[int] = []
    parse = Dump.parse
    monkeypatch.setattr(Dump, "parse", lambda text: (seen.append(1), parse(text))[1])
    store.window(NOW - 24 * HOUR_MS, HOUR_S)
    assert len(seen) <= 2 * 3 * (24 + 6), (
        "two spreads, three keys: an entry an hour, and the ten minutes of the first one"
    )


def test_the_latest_calls(store: Store) -> None:
    store.write([build.record(ts_ms=NOW + n, request_id=f"r{n}") for n in range(30)])
    assert [call.ts - NOW for call in store.latest(3)] == [29, 28, 27]


def test_a_page_that_was_read_is_gone(store: Store) -> None:
    """At once: what waits for the garbage collector would add up to the whole ledger."""
    store.write([build.record(ts_ms=NOW, destination="far.example", request_id=f"r{n}") for n in range(3)])
    gc.disable()
    try:
        assert [row.request_id for page in store.egress(0) for row in page] == ["r0", "r1", "r2"]
        assert not [row for row in gc.get_objects() if isinstance(row, tuple) and hasattr(row, "destination")]
    finally:
        gc.enable()

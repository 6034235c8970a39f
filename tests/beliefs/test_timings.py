"""Warm calls, loads and held places are measured apart; flags of slow targets are the same in every worker."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.beliefs.medians import Medians
from app.beliefs.slow import SlowFlags, budgets_of
from app.metrics.queries import TimedCall
from app.metrics.store import Store
from app.types import Times
from tests import build

NOW = 1_700_000_000_000
MINUTE_MS, HOUR_MS = 60_000, 3_600_000
LOCAL = ("local", "m")
ROUTE = ("default", "local", "m")
BUDGETS = {"local": [("default", 1000.0)]}


def medians(*calls: tuple[int, int | None, int | None, int | None]) -> Medians:
    """Calls of (latency, ttfb, wait, load), ten seconds apart; the last one ended ten seconds ago."""
    made = Medians()
    for number, (latency, ttfb, wait, load) in enumerate(reversed(calls), 1):
        times = Times(ts_ms=NOW - 10_000 * number, latency_ms=latency, ttfb_ms=ttfb, wait_ms=wait, load_ms=load)
        made.add(f"r{number}", LOCAL, times)
    return made


def row(number: int, **fields: Any) -> TimedCall:
    known = {
        "request_id": f"r{number}", "ts": NOW + number, "backend": "local", "model": "m", "stream": False,
        "latency_ms": 100, "ttfb_ms": None, "wait_ms": None, "load_ms": None,
    }  # fmt: skip
    return TimedCall(id=number, **{**known, **fields})


# --- medians ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "calls, warm, load, hold",
    [
        ([(100, None, None, None)] * 5, 100, None, 100),
        ([(100, None, None, None)] * 4, None, None, 100),
        ([(900, 70, None, None)] * 5, 70, None, 900),
        ([(1100, None, 1000, None)] * 5, 100, None, 100),
        ([(5900, None, None, 5800)] * 5, 100, 5800, 100),
        ([(6900, None, 1000, 5800)] * 5, 100, 5800, 100),
        ([(7700, 6870, 1000, 5800)] * 5, 70, 5800, 900),
        ([(5900, None, None, 5800)], None, 5800, 100),
        ([(5800, 5790, 10, 5800)] * 5, 0, 5800, 0),
        ([(9000, None, None, 0)] * 5, None, None, None),
        ([(9000, None, None, 0)] * 9 + [(100, None, None, None)] * 5, 100, None, 100),
        ([(100, None, None, None)] * 5 + [(9000, None, None, 0)] * 9, 100, None, 100),
        ([(100, None, None, None)] * 3 + [(5100, None, None, 5000)] * 2 + [(7100, None, None, 7000)], 100, 5000, 100),
    ],
    ids=str,
)
def test_the_parts_of_calls_have_medians_of_their_own(
    calls: list[Any], warm: float | None, load: float | None, hold: float | None
) -> None:
    timings = medians(*calls).current(NOW)
    assert (timings.warm_ms.get(LOCAL), timings.load_ms.get(LOCAL), timings.hold_ms.get(LOCAL)) == (warm, load, hold)


def test_after_five_cold_loads_a_warm_model_is_no_slow_one() -> None:
    made = Medians(BUDGETS)
    made.read(row(number, latency_ms=5850, load_ms=5800) for number in range(1, 6))
    timings = made.current(NOW)
    assert (timings.warm_ms, timings.slow) == ({LOCAL: 50}, {ROUTE: False})


def test_calls_that_wait_for_one_load_count_it_once_and_whole() -> None:
    made = Medians()
    for number, waited in enumerate((2000, 5800, 4000)):
        ts = NOW - 60_000 + number
        made.add(f"r{number}", LOCAL, Times(ts_ms=ts, latency_ms=waited + 100, load_ms=waited))
    assert made.current(NOW).load_ms == {LOCAL: 5800}
    made.add("later", LOCAL, Times(ts_ms=NOW, latency_ms=3100, load_ms=3000))
    assert made.current(NOW).load_ms == {LOCAL: 4400}


def test_loads_are_rare_so_old_ones_count() -> None:
    made = medians((5900, None, None, 5800))
    timings = made.current(NOW + 24 * HOUR_MS)
    assert (timings.load_ms, timings.hold_ms) == ({LOCAL: 5800}, {})


def test_the_latest_nine_loads_count() -> None:
    made = medians(*[(9100, None, None, 9000)] * 9, *[(5100, None, None, 5000)] * 9)
    assert made.current(NOW).load_ms == {LOCAL: 5000}


def test_loads_of_a_time_when_the_clock_was_ahead_do_not_count() -> None:
    made = Medians()
    made.add("r", LOCAL, Times(ts_ms=NOW + HOUR_MS, latency_ms=9100, load_ms=9000))
    assert made.current(NOW).load_ms == {}


def test_all_parts_come_from_rows(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "metrics.db"))
    made = [
        build.record(request_id=f"r{number}", ts_ms=NOW + number, latency_ms=7900, ttfb_ms=7100, stream=True, **parts)
        for number, parts in enumerate([{"wait_ms": 1000, "load_ms": 6000}] * 5 + [{"load_ms": 0}] * 9)
    ]
    store.write(made)
    read = Medians(BUDGETS)
    read.read(store.calls_after(0, 0)[1])
    store.close()
    noted = Medians(BUDGETS)
    for call in made:
        noted.note(call)
    for timings in (read.current(NOW), noted.current(NOW)):
        assert (timings.warm_ms, timings.load_ms, timings.hold_ms) == ({LOCAL: 100}, {LOCAL: 6000}, {LOCAL: 900})
    assert (read.current(NOW).slow, noted.current(NOW).slow) == ({ROUTE: False}, {}), "flags come from rows alone"


# --- flags --------------------------------------------------------------------------------------


def flags(*warm: int, begin: int = 1) -> SlowFlags:
    made = SlowFlags(BUDGETS)
    for number, ms in enumerate(warm, begin):
        made.read(number, NOW + number, LOCAL, ms)
    return made


@pytest.mark.parametrize(
    "warm, slow",
    [
        ([5000] * 4, None),
        ([5000] * 5, True),
        ([1201] * 5, True),
        ([1200] * 5, None),
        ([800] * 5, None),
        ([799] * 5, False),
        ([1300] * 5 + [900] * 9, True),
        ([1300] * 5 + [700] * 9, False),
        ([700] * 5 + [1100] * 9, False),
        ([700] * 5 + [1300] * 9, True),
        ([1300] * 9 + [700] * 4, True),
        ([1300] * 9 + [700] * 5, False),
    ],
    ids=str,
)
def test_a_flag_is_set_above_one_limit_and_cleared_below_another(warm: list[int], slow: bool | None) -> None:
    assert dict(flags(*warm).current(NOW)).get(ROUTE) == slow


def test_each_route_has_its_own_flag() -> None:
    made = SlowFlags({"local": [("fast", 100.0), ("patient", 9000.0)], "cloud": [("fast", 100.0)]})
    for number in range(1, 6):
        made.read(2 * number, NOW, LOCAL, 1000)
        made.read(2 * number + 1, NOW, ("other", "m"), 1000)
    assert dict(made.current(NOW)) == {("fast", *LOCAL): True, ("patient", *LOCAL): False}


def test_a_flag_ends_an_hour_after_the_last_call_that_confirms_it() -> None:
    made = flags(*[5000] * 5, *[1000] * 9)
    assert dict(made.current(NOW + HOUR_MS)) == {ROUTE: True}, "the median was near the budget since"
    assert dict(made.current(NOW + HOUR_MS + 10)) == {}


def test_calls_that_are_an_hour_older_than_the_row_have_no_part_in_its_median() -> None:
    made = flags(*[5000] * 4)
    for number in range(10, 14):
        made.read(number, NOW + 2 * HOUR_MS, LOCAL, 100)
    assert dict(made.current(NOW + 2 * HOUR_MS)) == {}
    made.read(14, NOW + 2 * HOUR_MS, LOCAL, 100)
    assert dict(made.current(NOW + 2 * HOUR_MS)) == {ROUTE: False}


def test_memory_is_bounded_whatever_models_clients_name() -> None:
    made = flags(*[5000] * 5)
    for number in range(600):
        made.read(100 + number, NOW, ("local", f"m{number}"), 1)
    assert dict(made.current(NOW)) == {}


@given(
    warm=st.lists(st.sampled_from([500, 790, 900, 1000, 1100, 1210, 2000]), max_size=60),
    seed=st.integers(0, 999),
)
def test_the_same_rows_in_any_batches_make_the_same_flags(warm: list[int], seed: int) -> None:
    """Workers read when it is their turn, and one begins after a restart with the rows of the last hour."""
    rows = [row(number, latency_ms=ms, ts=NOW + number * MINUTE_MS) for number, ms in enumerate(warm, 1)]
    whole, dice, at = Medians(BUDGETS), random.Random(seed), 0
    whole.read(rows)
    batches = Medians(BUDGETS)
    while at < len(rows):
        size = dice.randint(1, 7)
        batches.read(rows[max(0, at - dice.randint(0, 3)) : at + size])  # some rows are read twice
        batches.current(NOW + at * MINUTE_MS)
        at += size
        batches.note(build.record(latency_ms=9000, ts_ms=NOW + at))  # calls of its own, which have no row yet
    now = NOW + len(rows) * MINUTE_MS
    assert batches.current(now).slow == whole.current(now).slow
    restarted = Medians(BUDGETS)
    restarted.read(row for row in rows if row.ts >= now - HOUR_MS)
    assert restarted.current(now).slow == whole.current(now).slow


def test_the_budgets_of_a_policy() -> None:
    rules = build.policy("""\
backends:
  a: {type: ollama, model: m}
  b: {type: ollama, endpoint: "http://localhost:2", model: m}
  c: {type: openai, model: c}
pools: {gpu: {members: [a, b]}}
routes:
  - match: {task: code}
    backend: gpu
    fallback: [c, a]
    latencyBudgetMs: 500
  - match: {task: vision}
    backend: b
  - default: c
    fallback: b
    latencyBudgetMs: 900
""")
    assert budgets_of(rules) == {
        "a": [("task=code", 500)], "b": [("task=code", 500), ("default", 900)],
        "c": [("task=code", 500), ("default", 900)],
    }  # fmt: skip

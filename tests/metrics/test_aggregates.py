"""Aggregates: exact sums, percentiles within the bound of the histogram, and merging that is adding."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.metrics.aggregates import BOUNDS_MS, COUNTS, Aggregate, CallRow, Dump, Spread, merged


def spread(*values: float) -> Spread:
    made = Spread()
    for value in values:
        made.add(value)
    return made


def rough(made: Spread) -> Spread:
    """The same as a database keeps it: without the exact values."""
    loaded = Spread()
    loaded.merge_dump(Dump.parse(made.dump()))
    return loaded


def nearest_rank(values: list[float], share: float) -> float:
    return sorted(values)[max(1, math.ceil(len(values) * share)) - 1]


def row(**fields: Any) -> CallRow:
    known = {"backend": "local", "outcome": "ok", "ok": True, "shadow": False, "reason": "route", "latency_ms": 100}
    return CallRow(**{**dict.fromkeys(CallRow._fields), **known, **fields})


def aggregate(*rows: Any) -> Aggregate:
    made = Aggregate()
    for one in rows:
        made.add(one)
    return made


# --- spreads ------------------------------------------------------------------------------------


def test_bounds_are_those_of_the_series() -> None:
    assert len(BOUNDS_MS) == 120
    assert BOUNDS_MS[:5] == (1.0, 1.12, 1.25, 1.4, 1.6)
    assert BOUNDS_MS[19:22] == (9.0, 10.0, 11.2)
    assert BOUNDS_MS[-1] == 900_000
    assert all(1.1 < high / low < 1.143 for low, high in itertools.pairwise(BOUNDS_MS))


def test_an_empty_spread_has_no_numbers() -> None:
    assert (spread().average, spread().percentile(0.5)) == (None, None)
    assert rough(spread()).percentile(0.95) is None


def test_few_values_are_exact() -> None:
    made = spread(7, 1, 3, 5)
    assert made.average == 4
    assert [made.percentile(share) for share in (0.0, 0.25, 0.26, 0.5, 0.75, 0.95, 1.0)] == [1, 1, 3, 3, 5, 7, 7]


@pytest.mark.parametrize(
    "value, shown",
    [(0, 1), (1, 1), (1.01, 1.0566), (10, 9.47), (10.5, 10.57), (899_999, 847_059), (10**9, 900_000)],
)
def test_a_rough_value_is_the_middle_of_its_bin(value: float, shown: float) -> None:
    assert rough(spread(value)).percentile(0.5) == pytest.approx(shown, rel=0.001)
    assert rough(spread(value)).average == value


_LATENCIES = st.lists(st.floats(1, 900_000), min_size=1, max_size=60)


@given(_LATENCIES, st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_percentiles_are_exact_or_at_most_seven_per_cent_off(values: list[float], share: float) -> None:
    exact = nearest_rank(values, share)
    assert spread(*values).percentile(share) == exact
    assert rough(spread(*values)).percentile(share) == pytest.approx(exact, rel=0.07)


@given(_LATENCIES, _LATENCIES)
def test_merging_is_the_same_as_adding_one_by_one(first: list[float], second: list[float]) -> None:
    both, one = spread(*first), spread(*second)
    both.merge(one)
    together = spread(*first, *second)
    assert (both.count, both.bins, both.exact) == (together.count, together.bins, together.exact)
    assert both.total == pytest.approx(together.total)
    assert one == spread(*second), "what is merged in stays as it is"


@given(_LATENCIES)
def test_what_is_dumped_is_loaded(values: list[float]) -> None:
    made = spread(*values)
    again = rough(made)
    assert (again.count, again.total, again.bins, again.exact) == (made.count, made.total, made.bins, None)
    assert rough(again) == again


def test_a_sum_with_a_rough_part_is_rough() -> None:
    made = spread(1, 2)
    made.merge(rough(spread(3)))
    assert (made.count, made.total, made.exact) == (3, 6, None)
    assert made.percentile(1.0) == pytest.approx(3, rel=0.07)
    made.add(500)
    assert made.percentile(1.0) == pytest.approx(500, rel=0.07)


# --- aggregates ------------------------------------------------------------------------------------


def test_every_count() -> None:
    made = aggregate(
        row(latency_ms=100, input_tokens=10, output_tokens=5, cost_usd=0.25),
        row(latency_ms=300, outcome="error", ok=False, fallback_for="a"),
        row(latency_ms=9000, outcome="cancelled", ok=False, input_tokens=1, ttfb_ms=20),
        row(latency_ms=200, fallback_for="a", cost_usd=0.0, ttfb_ms=40),
    )
    assert {name: getattr(made, name) for name in COUNTS} == {
        "calls": 4,
        "requests": 4,
        "spills": 0,
        "counted": 1,
        "successes": 2,
        "cancelled": 1,
        "fallbacks": 2,
        "input_tokens": 11,
        "output_tokens": 5,
        "priced": 2,
        "cost_usd": 0.25,
    }
    assert made.latency == spread(100, 300, 200), "a cancelled call says nothing about latency"
    assert made.ttfb == spread(20, 40)


@pytest.mark.parametrize(
    "reason, fallback_for, policy, requests, spills",
    [
        ("route", None, "v1", 1, 0), ("pin", None, "v1", 1, 0), ("continuation", None, "v1", 1, 0),
        ("fit", None, "v1", 1, 0), ("spill", None, "v1", 1, 1), ("queue", None, "v1", 1, 1),
        ("cooling", "a", "v1", 1, 1), ("fallback", "a", None, 0, 0),
        ("fallback", "a", "v1", 0, 0),
        ("route", None, None, 1, 0),  # of an older version
        ("escalated", None, None, 0, 0),  # the second call of its request
        ("escalated", None, "v1", 1, 0),  # the first one, in a tool loop that was escalated before
        (None, None, None, 1, 0), (None, "a", None, 0, 0),  # rows of the original have no reason
    ],
)  # fmt: skip
def test_requests_and_spills(
    reason: str | None, fallback_for: str | None, policy: str | None, requests: int, spills: int
) -> None:
    made = aggregate(row(reason=reason, fallback_for=fallback_for, policy=policy))
    assert (made.requests, made.spills) == (requests, spills)


def test_only_calls_that_waited_count_as_waits() -> None:
    """A load of unknown time is 0 in its row."""
    made = aggregate(row(), row(wait_ms=40), row(wait_ms=60, load_ms=5800), row(load_ms=0))
    assert (made.wait, made.load) == (spread(40, 60), spread(5800))


def test_only_answers_that_were_held_count_as_held() -> None:
    assert aggregate(row(), row(held_ms=0), row(held_ms=700)).held == spread(0, 700)


@pytest.mark.parametrize("ok, successes", [(True, 1), (1, 1), (False, 0), (0, 0)])
def test_rows_of_the_original_have_no_outcome(ok: Any, successes: int) -> None:
    made = aggregate(row(outcome=None, ok=ok))
    assert (made.calls, made.successes, made.cancelled, made.latency.count) == (1, successes, 0, 1)


_ROWS = st.lists(
    st.builds(
        row,
        outcome=st.sampled_from(["ok", "error", "cancelled", None]),
        ok=st.booleans(),
        fallback_for=st.sampled_from([None, "a"]),
        input_tokens=st.none() | st.integers(0, 10**6),
        output_tokens=st.none() | st.integers(0, 10**6),
        cost_usd=st.none() | st.integers(0, 100).map(float),
        latency_ms=st.integers(0, 10**6),
        ttfb_ms=st.none() | st.integers(0, 10**6),
        wait_ms=st.none() | st.integers(0, 10**6),
        load_ms=st.none() | st.integers(0, 10**6),
        held_ms=st.none() | st.integers(0, 10**6),
    ),
    max_size=12,
)


@given(st.lists(_ROWS, max_size=4))
def test_the_sum_of_aggregates_is_the_aggregate_of_all_rows(groups: list[list[Any]]) -> None:
    parts = [aggregate(*rows) for rows in groups]
    assert merged(parts) == aggregate(*(one for rows in groups for one in rows))
    assert parts == [aggregate(*rows) for rows in groups]


def test_every_count_is_dumped_and_added_in_its_place() -> None:
    numbers = {name: place for place, name in enumerate(COUNTS, 1)}
    total = Aggregate(**numbers)
    *counts, latency, ttfb, wait, load, held = Aggregate(**numbers).dump()
    assert dict(zip(COUNTS, counts, strict=True)) == numbers
    assert (wait, load, held) == (None, None, None)
    total.merge_dump(tuple(counts), (Dump.parse(latency), Dump.parse(ttfb), None, None, None))
    total.merge(Aggregate(**numbers))
    assert {name: getattr(total, name) for name in COUNTS} == {name: 3 * number for name, number in numbers.items()}

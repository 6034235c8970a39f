"""The order of waiting calls: lane, the loaded model, arrival; and the bound of patience."""

from __future__ import annotations

import pytest

from app.places.order import LANES, PATIENCE_NS, packed, rank, rank_of

NOW = 1_000_000_000_000
S = 1_000_000_000
PERSON, AGENT, BACKGROUND = range(3)

# name: (lane, seconds since its arrival, would load a model), in the order in which they get places
ORDERS = {
    "first come, first served": [(PERSON, 3, False), (PERSON, 2, False), (PERSON, 1, False)],
    "lanes": [(PERSON, 1, False), (AGENT, 2, False), (BACKGROUND, 3, False)],
    "the loaded model first": [(PERSON, 1, False), (PERSON, 2, True)],
    "a lane counts more than a load": [(PERSON, 1, True), (AGENT, 2, False)],
    "patience makes background interactive": [(BACKGROUND, 31, False), (PERSON, 30, False), (PERSON, 1, False)],
    "patience ends the rule of the loaded model": [(PERSON, 30, True), (PERSON, 29, False), (PERSON, 29.9, True)],
    "an aged call does not go before older ones": [(PERSON, 40, True), (AGENT, 35, True), (BACKGROUND, 30, True)],
    "just short of the bound": [(PERSON, 0, False), (AGENT, 29.9, False), (BACKGROUND, 29.9, False)],
}


@pytest.mark.parametrize("calls", ORDERS.values(), ids=ORDERS)
def test_order(calls: list[tuple[int, float, bool]]) -> None:
    ranks = [rank(lane, NOW - int(age * S), NOW, loads=loads) for lane, age, loads in calls]
    assert sorted(ranks) == ranks


@pytest.mark.parametrize("lane", range(len(LANES)))
@pytest.mark.parametrize("age_ns", [0, 1, PATIENCE_NS - 1, PATIENCE_NS, 10 * PATIENCE_NS])
@pytest.mark.parametrize("loads", [True, False])
def test_another_process_reads_the_same_rank(lane: int, age_ns: int, loads: bool) -> None:
    arrival = NOW - age_ns
    assert rank_of(packed(lane, arrival, loads=loads), NOW) == rank(lane, arrival, NOW, loads=loads)


def test_a_packed_call_fits_into_a_word_of_the_table() -> None:
    century_ns = 100 * 365 * 24 * 3600 * S
    assert packed(2, century_ns // 3, loads=True) < 2**63
    assert packed(0, 1, loads=False) != 0, "0 means: no call waits"

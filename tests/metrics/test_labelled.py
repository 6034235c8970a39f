"""The search for a doubt: on answers whose doubts and correctness are given."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.metrics.labelled import Labelled, Limit

Row = tuple[float, bool, bool]


def counted(rows: list[Row]) -> Labelled:
    made = Labelled()
    for doubt, right, strong in rows:
        made.add(doubt, right, strong)
    return made


TEN: list[Row] = [(number / 10, number < 6, True) for number in range(10)]  # the four with the most doubt are wrong


def effect(rows: list[Row], limit: float) -> tuple[int, int]:
    """Escalated and right answers, by the rule of the policy itself."""
    up = [row for row in rows if row[0] > limit]
    return len(up), sum(row[2] for row in up) + sum(row[1] for row in rows if row[0] <= limit)


@pytest.mark.parametrize(
    "share, escalated, right", [(1.0, 9, 10), (0.4, 4, 10), (0.39, 3, 9), (0.2, 2, 8), (0.05, 0, 6)]
)
def test_a_share_is_never_exceeded(share: float, escalated: int, right: int) -> None:
    """With a doubt of 0 an answer without any doubt is still kept."""
    limit = counted(TEN).by_share(share)
    assert (limit.escalated, limit.right) == (escalated, right) == effect(TEN, limit.doubt)


@pytest.mark.parametrize("quality, escalated", [(0.6, 0), (0.61, 1), (0.9, 3), (1.0, 4)])
def test_a_quality_is_reached_with_the_fewest_escalations(quality: float, escalated: int) -> None:
    limit = counted(TEN).by_quality(quality)
    assert limit and limit.escalated == escalated and effect(TEN, limit.doubt) == (limit.escalated, limit.right)


def test_the_limit_stands_between_the_answers() -> None:
    assert counted(TEN).by_share(0.4) == Limit(0.549, 4, 10)
    assert counted([(0.2, True, True), (0.8, False, True)]).by_share(0.5).doubt == pytest.approx(0.5, abs=0.002)


def test_a_quality_that_no_doubt_reaches() -> None:
    rows = [(number / 10, number % 2 == 0, number % 5 == 0) for number in range(10)]
    made = counted(rows)
    assert made.by_quality(0.9) is None
    best = made.best()
    assert effect(rows, best.doubt) == (best.escalated, best.right)
    assert best.right == max(effect(rows, step / 1000)[1] for step in range(1001))


def test_faults_are_escalated_and_answers_without_evidence_are_kept() -> None:
    made = counted(TEN)
    for _ in range(5):
        made.add_fault(False, True)
        made.add_without_evidence(True, True)
    assert made.all.answers == 20
    assert made.by_share(0.5).escalated == 10 and made.by_share(0.5).right == 20
    assert made.by_share(0.01).escalated == 5, "no limit keeps a fault"


def test_a_strong_model_without_labels_is_assumed_to_be_right() -> None:
    made = counted([(0.1, True, True)])
    made.add(0.9, False, None)
    assert (made.assumed, made.all.strong_right) == (1, 2)


@pytest.mark.parametrize("rows, error", [([], None), ([(0.0, True, True)] * 4, 0), ([(1.0, True, True)] * 4, 1)])
def test_the_calibration_error(rows: list[Row], error: float | None) -> None:
    assert counted(rows).calibration_error() == error


def test_calibrated_doubts_have_a_small_error() -> None:
    chance = random.Random(1)
    doubts = [chance.random() for _ in range(20_000)]
    assert (counted([(doubt, chance.random() > doubt, True) for doubt in doubts]).calibration_error() or 1) < 0.02


@pytest.mark.parametrize(
    "rows, auroc",
    [
        (TEN, 1.0),
        ([(1 - doubt, right, strong) for doubt, right, strong in TEN], 0.0),
        ([(0.5, number % 2 == 0, True) for number in range(10)], 0.5),
        ([(0.5, True, True)], None),
        ([], None),
    ],
)  # fmt: skip
def test_how_well_doubt_tells_wrong_answers(rows: list[Row], auroc: float | None) -> None:
    assert counted(rows).auroc() == auroc


def test_the_interval_of_few_answers_is_wide() -> None:
    few, many = (counted(TEN * times).by_share(0.2).document(10 * times) for times in (1, 100))
    assert few["quality"] == many["quality"] == 0.8
    assert few["quality_high"] - few["quality_low"] > 0.4
    assert many["quality_high"] - many["quality_low"] < 0.06


_ROWS = st.lists(st.tuples(st.floats(0, 1), st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(_ROWS, st.floats(0.01, 1))
def test_what_is_promised_is_what_the_policy_does(rows: list[Row], wanted: float) -> None:
    made = counted(rows)
    share, quality = made.by_share(wanted), made.by_quality(wanted)
    assert effect(rows, share.doubt) == (share.escalated, share.right)
    assert share.escalated <= wanted * len(rows)
    limits = [effect(rows, step / 1000) for step in range(1001)]
    assert share.escalated == max(up for up, _ in limits if up <= wanted * len(rows))
    enough = [up for up, right in limits if right >= wanted * len(rows)]
    assert (quality is None) == (not enough)
    if quality:
        assert effect(rows, quality.doubt) == (quality.escalated, quality.right)
        assert quality.escalated == min(enough)

"""A candidate beside its primary, on the same requests: what speaks against it, and when it is promoted."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Any

import pytest

from app.metrics.queries import Pair, SampledCall
from app.metrics.summary import ab_report
from app.metrics.trial import compared
from app.types import ABTest
from tests.metrics.trials import Trial, first_promotion


def call(**facts: Any) -> SampledCall:
    known = {"backend": "local", "model": "m", "latency_ms": 100, "outcome": "ok", "output_tokens": 10}
    return SampledCall(**{**known, "finish": "stop", "answer_chars": 40, **facts})


def pairs(number: int = 20, live: dict[str, Any] | None = None, **mirrored: Any) -> list[Pair]:
    return [Pair(call(**(live or {})), call(**{"backend": "cloud", "latency_ms": 50, **mirrored}))] * number


def judged(doubt: float, live_doubt: float, number: int = 100, **facts: Any) -> list[Pair]:
    """Return pairs whose candidate's doubt is alternately higher and lower by 0.1."""
    halves = [{"doubt": doubt + 0.1}, {"doubt": doubt - 0.1}]
    return [pairs(1, **half, live_doubt=live_doubt, agreement=0.5, **facts)[0] for half in halves * (number // 2)]


ONE_LATE = [*pairs(18, latency_ms=10), *pairs(2, latency_ms=200)]
LONG = {"latency_ms": 5000}
CASES: dict[str, tuple[Sequence[Pair], str, str]] = {
    "faster in all": (pairs(), "faster; quality not judged", ""),
    "slower": (pairs(latency_ms=101), "slower; quality not judged", ""),
    "one too few": (pairs(19), "insufficient-data", ""),
    "none": ((), "insufficient-data", ""),
    "nothing is answered so far": (pairs(3, outcome="error"), "insufficient-data", "answers nothing: the log"),
    "two failures": (pairs(2, outcome="error"), "insufficient-data", ""),
    "one answer so far": ([*pairs(9, outcome="error"), *pairs(1)], "insufficient-data", ""),
    "as fast": (pairs(latency_ms=100), "hold", "as fast as the primary"),
    "faster on average, slower at p95": (ONE_LATE, "hold", "slower at p95"),
    "fails once": ([*pairs(19), *pairs(1, outcome="error")], "hold", "fails more often: 5.0% of the requests"),
    "always fails": (pairs(outcome="error"), "hold", "fails more often: 100.0%"),
    "one empty answer": ([*pairs(19), *pairs(1, answer_chars=0)], "hold", "more empty answers: 5.0%"),
    "as many empty answers": (pairs(live={"answer_chars": 0}, answer_chars=0), "faster; quality not judged", ""),
    "answers with calls alone": (
        pairs(live={"answer_chars": 0, "finish": "tool_calls"}, answer_chars=0, finish="tool_calls"),
        "faster; quality not judged",
        "",
    ),
    "cut": (pairs(finish="length"), "hold", "more answers that are cut: 100.0% of the requests, the primary 0.0%"),
    "both cut": (pairs(live={"finish": "length"}, finish="max_tokens"), "faster; quality not judged", ""),
    "refuses": (pairs(finish="content_filter"), "hold", "refuses more"),
    "says that it refuses": (pairs(finish="refusal"), "hold", "refuses more"),
    "short": (pairs(answer_chars=19), "hold", "answers are short: 0.47 times"),
    "half as long": (pairs(answer_chars=20), "faster; quality not judged", ""),
    "three times as long": (pairs(answer_chars=120), "faster; quality not judged", ""),
    "short by its tokens": (pairs(live={"answer_chars": None}, output_tokens=4), "hold", "answers are short: 0.40 "),
    "of unknown length": (
        pairs(live={"answer_chars": None, "output_tokens": None}, answer_chars=None),
        "faster; quality not judged",
        "",
    ),
    "no worse": (judged(0.3, 0.3), "faster; quality undecided", ""),
    "no worse, on more requests": (judged(0.3, 0.3, 600), "promote", ""),
    "as good in each pair": (judged(0.3, 0.3, 400, live={"latency_ms": 51}), "promote", ""),
    "better": (judged(0.2, 0.3), "promote", ""),
    "better, on too few requests": (judged(0.2, 0.3, 20), "faster; quality undecided", ""),
    "better, on one request in two": ([*judged(0.2, 0.3), *pairs(100)], "promote", ""),
    "better and slower": (judged(0.2, 0.3, latency_ms=101), "slower; quality no worse", ""),
    "better and as fast": (judged(0.2, 0.3, latency_ms=100), "hold", "as fast"),
    "better, slower and cheaper": (
        judged(0.2, 0.3, latency_ms=101, cost_usd=0.1, live={"cost_usd": 0.2}), "promote", "",
    ),
    "better, as fast and cheaper": (
        judged(0.2, 0.3, latency_ms=100, cost_usd=0.1, live={"cost_usd": 0.2}), "promote", "",
    ),
    "better and dearer": (judged(0.2, 0.3, cost_usd=0.2, live={"cost_usd": 0.1}), "promote", ""),
    "better, slower and of unknown price": (
        judged(0.2, 0.3, latency_ms=101, live={"cost_usd": 0.2}), "slower; quality no worse", "",
    ),
    "better, and faster half of the time": (
        [*judged(0.2, 0.3, latency_ms=50), *judged(0.2, 0.3, latency_ms=120, live={"latency_ms": 119}),
         *pairs(20, {"latency_ms": 300}, latency_ms=120)],
        "faster; quality no worse", "",
    ),
    "better, but cut": (judged(0.2, 0.3, finish="length"), "hold", "cut"),
    "better, but it fails": ([*judged(0.2, 0.3), *pairs(1, outcome="error")], "hold", "fails more often"),
    "better, but most answers differ": (
        [pair._replace(shadow=pair.shadow._replace(agreement=0.49)) for pair in judged(0.2, 0.3)],
        "faster; quality undecided", "",
    ),
    "worse": (judged(0.5, 0.3), "hold", "answers are worse: their mean doubt is 0.50, that of the primary's 0.30"),
    "worse, on too few requests": (judged(0.4, 0.3, 20), "faster; quality undecided", ""),
    "a little worse": (judged(0.33, 0.3), "faster; quality undecided", ""),
    "worse by less than the margin": (
        pairs(1000, doubt=0.31, live_doubt=0.3), "promote", "",
    ),
    "worse by the margin": (pairs(2000, doubt=0.32, live_doubt=0.3), "hold", "worse"),
    "one side of each pair is judged": (
        [*pairs(100, doubt=0.1), *pairs(100, live_doubt=0.3)], "faster; quality not judged", "",
    ),
    "its failures take long": ([*pairs(19, LONG), *pairs(1, LONG, outcome="error", latency_ms=9)], "hold", "fails"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_recommendation(name: str) -> None:
    sampled, advice, reason = CASES[name]
    entry = compared("local", "cloud", sampled, ())
    assert entry["recommendation"] == advice
    assert (reason in " ".join(entry["reasons"])) and bool(reason) == bool(entry["reasons"])


@pytest.mark.parametrize("echo", ["local", "cloud"])
@pytest.mark.parametrize("number, advice", [(20, "hold"), (3, "insufficient-data")])
def test_an_echo_is_no_model_however_fast(echo: str, number: int, advice: str) -> None:
    entry = compared("local", "cloud", pairs(number), {echo})
    assert entry["recommendation"] == advice
    assert entry["reasons"] == [f"{echo} is type echo, which is no model: it repeats what it is told"]


def test_only_requests_that_both_answered_are_timed() -> None:
    """A live call that took long counts only where the candidate answered it too."""
    sampled = [*pairs(2), *pairs(1, {"latency_ms": 9000, "finish": "length"}, outcome="error")]
    entry = compared("local", "cloud", sampled, ())
    assert (entry["candidateSamples"], entry["pairs"]) == (3, 2)
    assert (entry["primaryAvgLatency"], entry["candidateAvgLatency"], entry["primaryCutShare"]) == (100, 50, 0)
    assert (entry["primarySuccessRate"], entry["candidateSuccessRate"]) == (1, 0.6667)


NOT_JUDGED = {
    "n": 0, "agreement": None, "doubt": None, "primaryDoubt": None, "difference": None, "margin": 0.02,
}  # fmt: skip


def test_the_quality_of_answers() -> None:
    sampled = [*judged(0.2, 0.3), *pairs(3, agreement=1.0), *pairs(50), *pairs(1, doubt=0.9, outcome="error")]
    quality = compared("local", "cloud", sampled, ())["quality"]
    low, high = quality.pop("difference")
    assert low < -0.1 < high
    assert quality == {"n": 100, "agreement": 0.515, "doubt": 0.2, "primaryDoubt": 0.3, "margin": 0.02}


def test_the_simulation_finds_the_first_report_that_promotes() -> None:
    for seed in range(3):
        sampled = list(islice(Trial(-0.1, 0.5).pairs(Random(seed)), 150))
        advice = [compared("a", "b", sampled[:end], ())["recommendation"] for end in range(1, 151)]
        assert first_promotion(iter(sampled), 150) == advice.index("promote") + 1


@pytest.mark.parametrize(
    "trial, fewest, most",
    [
        (Trial(), 0, 2),  # A = A
        (Trial(cost=1.0), 0, 2),
        (Trial(0.02, 0.5), 0, 2),  # worse by the margin
        (Trial(0.03, 0.5), 0, 0),  # 10 % more doubt
        (Trial(0.1, 0.5), 0, 0),
        (Trial(-0.1, 0.5), 40, 40),
    ],
    ids=str,
)
def test_a_report_after_every_pair_promotes_no_candidate_by_chance(trial: Trial, fewest: int, most: int) -> None:
    """At most 5 % of the trials; `make bench-trials` makes 1,000 of 2,000 pairs."""
    promoted = [seed for seed in range(40) if first_promotion(trial.pairs(Random(seed)), 600)]
    assert fewest <= len(promoted) <= most


def test_the_report() -> None:
    other = Pair(call(backend="spare"), call(backend="cloud"))  # failed before the primary answered
    trial = ABTest(enabled=True, sample_rate=0.1, candidates={"local": "cloud", "cloud": "third"})
    mixed = [*pairs(1, finish="length", answer_chars=0), *pairs(3, {"latency_ms": 200}, answer_chars=60)]
    assert ab_report([*mixed, other], trial, 24.0) == {
        "enabled": True,
        "window_hours": 24,
        "pairs": [
            {
                "primary": "local", "candidate": "cloud", "candidateSamples": 4, "pairs": 4,
                "primaryAvgLatency": 175, "primaryP95Latency": 200, "primarySuccessRate": 1.0,
                "primaryEmptyShare": 0, "primaryCutShare": 0, "primaryRefusedShare": 0,
                "candidateAvgLatency": 50, "candidateP95Latency": 50, "candidateSuccessRate": 1.0,
                "candidateEmptyShare": 0.25, "candidateCutShare": 0.25, "candidateRefusedShare": 0,
                "lengthRatio": 1.5, "quality": NOT_JUDGED, "recommendation": "insufficient-data", "reasons": [],
            },
            {
                "primary": "cloud", "candidate": "third", "candidateSamples": 0, "pairs": 0,
                **{f"{side}{column}": None for side in ("primary", "candidate") for column in (
                    "AvgLatency", "P95Latency", "SuccessRate", "EmptyShare", "CutShare", "RefusedShare",
                )},
                "lengthRatio": None, "quality": NOT_JUDGED, "recommendation": "insufficient-data", "reasons": [],
            },
        ],
    }  # fmt: skip


def test_a_report_without_a_trial() -> None:
    assert ab_report([], ABTest(), 0.5) == {"enabled": False, "window_hours": 0.5, "pairs": []}

"""Compare a primary with its candidate on the same requests.  Pure.

The counts (failures, empty, cut and refused replies, length) and the doubt of its answers can be reasons against a
candidate.  It is promoted when there is none, when its answers are no worse, and when it is faster or cheaper.  This is
read from intervals that hold however often a report is made.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from app.finish import cut_of
from app.metrics.aggregates import Spread
from app.metrics.interval import interval
from app.metrics.quality import NO_WORSE, Quality, quality
from app.metrics.queries import Pair, SampledCall
from app.types import JsonDict, Outcome
from app.words import rounded

ENOUGH_SAMPLES = 20
INSUFFICIENT, HOLD, PROMOTE = "insufficient-data", "hold", "promote"

_CUT, _REFUSED = "max_output_tokens", "content_filter"  # as in app/finish.py
_TOOL_CALLS = frozenset(("tool_calls", "function_call"))
_FEWEST_FAILURES = 3  # fewer may be chance
_SHORT = 0.5  # shorter replies take less time in any case


@dataclass(frozen=True, slots=True)
class _Side:
    """Hold the calls of one backend: all of them, and those whose request both backends answered."""

    sampled: Sequence[SampledCall]
    paired: Sequence[SampledCall]

    @property
    def success_rate(self) -> float | None:
        return _share(call.outcome == Outcome.OK for call in self.sampled)

    @property
    def latency(self) -> Spread:
        spread = Spread()
        for call in self.paired:
            spread.add(call.latency_ms)
        return spread

    @property
    def empty(self) -> float | None:
        measured = (call for call in self.paired if call.answer_chars is not None)
        return _share(call.answer_chars == 0 and call.finish not in _TOOL_CALLS for call in measured)

    @property
    def cut(self) -> float | None:
        return self._incomplete(_CUT)

    @property
    def refused(self) -> float | None:
        return self._incomplete(_REFUSED)

    def _incomplete(self, why: str) -> float | None:
        return _share(cut_of(call.finish) == why for call in self.paired if call.finish is not None)


@dataclass(frozen=True, slots=True)
class _Advice:
    recommendation: str
    reasons: Sequence[str] = ()


def compared(primary: str, candidate: str, sampled: Sequence[Pair], echoes: Collection[str]) -> JsonDict:
    """Return the entry of one pair of backends in `/v1/ab`.  `echoes` names the backends that are not models."""
    both = [pair for pair in sampled if pair.live.outcome == pair.shadow.outcome == Outcome.OK]
    first = _Side([pair.live for pair in sampled], [pair.live for pair in both])
    second = _Side([pair.shadow for pair in sampled], [pair.shadow for pair in both])
    ratio, answers = _length_ratio(both), quality(pair.shadow for pair in both)
    advice = _advice(first, second, ratio, answers, [name for name in (primary, candidate) if name in echoes])
    return {
        "primary": primary,
        "candidate": candidate,
        "candidateSamples": len(sampled),
        "pairs": len(both),
        **_columns("primary", first),
        **_columns("candidate", second),
        "lengthRatio": rounded(ratio, 2),
        "quality": answers.document(),
        "recommendation": advice.recommendation,
        "reasons": list(advice.reasons),
    }


def _columns(side: str, calls: _Side) -> JsonDict:
    return {
        f"{side}AvgLatency": rounded(calls.latency.average),
        f"{side}P95Latency": rounded(calls.latency.percentile(0.95)),
        f"{side}SuccessRate": calls.success_rate,
        f"{side}EmptyShare": calls.empty,
        f"{side}CutShare": calls.cut,
        f"{side}RefusedShare": calls.refused,
    }


def _advice(primary: _Side, candidate: _Side, ratio: float | None, answers: Quality, echoes: Sequence[str]) -> _Advice:
    """Return the recommendation that follows from the samples, with the reasons against the candidate."""
    against = [f"{name} is type echo, which is no model: it repeats what it is told" for name in echoes]
    if len(candidate.sampled) < ENOUGH_SAMPLES:
        if len(candidate.sampled) >= _FEWEST_FAILURES and not candidate.success_rate:
            against.append("the candidate answers nothing: the log and `flask doctor` say why")
        return _Advice(INSUFFICIENT, against)
    for worse, ours, theirs in (
        ("fails more often", _failed(candidate), _failed(primary)),
        ("gives more empty answers", candidate.empty, primary.empty),
        ("gives more answers that are cut", candidate.cut, primary.cut),
        ("refuses more", candidate.refused, primary.refused),
    ):
        if (ours or 0) > (theirs or 0):
            against.append(f"the candidate {worse}: {ours or 0:.1%} of the requests, the primary {theirs or 0:.1%}")
    if ratio is not None and ratio < _SHORT:
        against.append(
            f"the candidate's answers are short: {ratio:.2f} times the primary's, so the times do not compare"
        )
    if answers.is_worse and not against:  # faulty answers are in the counts already
        against.append(
            f"the candidate's answers are worse: their mean doubt is {answers.doubt:.2f}, that of the primary's "
            f"{answers.primary_doubt:.2f}"
        )
    first, second = primary.latency, candidate.latency
    if first.average is None or second.average is None:
        return _Advice(HOLD, against)
    faster = second.average < first.average
    speed = "faster" if faster else "slower" if second.average > first.average else "as fast"
    if faster and (second.percentile(0.95) or 0) > (first.percentile(0.95) or 0):
        against.append("the candidate is faster on average, but slower at p95")
    is_cheaper = _is_less(_costs(candidate), _costs(primary))
    if second.average == first.average and not is_cheaper:
        against.append("the candidate is as fast as the primary")
    if against:
        return _Advice(HOLD, against)
    is_faster = faster and _is_less(_latencies(candidate), _latencies(primary))
    if answers.word == NO_WORSE and (is_faster or is_cheaper):
        return _Advice(PROMOTE)
    return _Advice(f"{speed}; quality {answers.word}")


def _latencies(side: _Side) -> list[int]:
    return [call.latency_ms for call in side.paired]


def _costs(side: _Side) -> list[float | None]:
    return [call.cost_usd for call in side.paired]


def _is_less(ours: Iterable[float | None], theirs: Iterable[float | None]) -> bool:
    """Return True when our value is the smaller one of its pair more often than the larger one, and that is no chance.
    Unknown values do not count."""
    pairs = [(our, their) for our, their in zip(ours, theirs, strict=True) if our is not None and their is not None]
    return interval([(our > their) - (our < their) for our, their in pairs])[1] < 0


def _failed(side: _Side) -> float:
    return 1 - (side.success_rate or 0)


def _length_ratio(pairs: Iterable[Pair]) -> float | None:
    """Return the median over the pairs of the candidate's length divided by the primary's."""
    ratios = [second / first for first, second in map(_lengths, pairs) if first and second is not None]
    return median(ratios) if ratios else None


def _lengths(pair: Pair) -> tuple[int | None, int | None]:
    """Return both lengths in characters, or in tokens where older rows have no characters."""
    chars = pair.live.answer_chars, pair.shadow.answer_chars
    return (pair.live.output_tokens, pair.shadow.output_tokens) if None in chars else chars


def _share(hits: Iterable[bool]) -> float | None:
    """Return the share of the true values; None when there are no values."""
    counted = list(hits)
    return round(sum(counted) / len(counted), 4) if counted else None

"""Judge an answer by the rules of a route's `verify`.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.routing.answer.comparable import comparable
from app.routing.answer.structure import structure
from app.routing.doubt import Assessment, assess
from app.types import JsonObject, Verdict, Verification, Verified

_STRUCTURE = "structure"
_OTHER = "\N{REPLACEMENT CHARACTER}"  # an answer that agrees with none


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """Hold a question and its answer, with what their judgement depends on."""

    chat: JsonObject  # the request
    message: JsonObject  # the answer, of the assistant
    finish: str | None = None
    logprobs: Sequence[float] = ()  # natural logarithms, of the tokens of the answer
    rules: Verification
    difficulty: float | None = None
    is_sample: bool = False  # the second opinion comes from the same model
    is_whole: bool = True  # False: the stream broke, so the answer is cut off

    @property
    def fault(self) -> str | None:
        """Return the name of the fault in the structure of the answer; None when it has none."""
        if not self.is_whole:
            return "cut"
        return structure(self.chat, self.message, self.finish)


@dataclass(frozen=True, slots=True)
class Ruling:
    """Hold the result of a judgement; `reason` is "" when the answer holds."""

    reason: str = ""
    fault: str | None = None
    assessment: Assessment | None = None

    @property
    def in_words(self) -> str:
        """Return the fault or the doubt, for the trace; "" when there is neither."""
        if self.fault:
            return f" ({self.fault})"
        return f" (doubt {self.assessment.doubt:.2f})" if self.assessment else ""

    def verdict(self, verified: Verified, held_ms: int) -> Verdict:
        """Return the verdict for the record of the call."""
        return Verdict(
            verified=verified,
            doubt=round(self.assessment.doubt, 4) if self.assessment else None,
            fault=self.fault,
            verified_reason=self.reason or None,
            agreement=self.assessment.agreement if self.assessment else None,
            held_ms=held_ms,
        )


def judge(exchange: Exchange, second: JsonObject | None = None) -> Ruling:
    """Return what speaks against an answer: first its structure, then its doubt.  `second` is the message of the second
    opinion.

    An answer has a doubt when there is evidence about it (_has_evidence).  Another one is judged by its structure
    alone."""
    rules = exchange.rules
    if (_STRUCTURE in rules.by or not exchange.is_whole) and (fault := exchange.fault):
        return Ruling(_STRUCTURE, fault)
    assessment = _assess(exchange, second)
    if not _has_evidence(exchange, assessment):
        return Ruling()  # in the row, a doubt without evidence would look like one that counts, in a replay for example
    if assessment.doubt <= rules.doubt:
        return Ruling(assessment=assessment)
    return Ruling(_largest_part(assessment), assessment=assessment)


def _has_evidence(exchange: Exchange, assessment: Assessment) -> bool:
    """Return True when a second opinion came, when the tokens have probabilities, or when the text of the answer says
    something: it can be compared.  The call of a tool has no text, and a long text says too little."""
    if assessment.agreement is not None or assessment.confidence is not None:
        return True
    return not exchange.message.get("tool_calls") and wants_second(exchange)


def _largest_part(assessment: Assessment) -> str:
    """Return the part that adds most to the doubt."""
    points = {"difficulty": assessment.points["answer"]}
    if assessment.agreement is not None:
        points["agreement"] = assessment.points["agreement"]
    if assessment.confidence is not None:
        points["confidence"] = assessment.points["confidence"]
    return max(points, key=points.__getitem__)


def wants_second(exchange: Exchange) -> bool:
    """Return True when the rules ask for a second opinion, and the answer can be compared with it."""
    rules = exchange.rules
    is_wanted = "agreement" in rules.by and (rules.second is not None or rules.samples > 1)
    return is_wanted and comparable("", exchange.message, exchange.chat)


def can_change(exchange: Exchange, ruling: Ruling) -> bool:
    """Return True when a second opinion could change the ruling: one that agrees lowers the doubt, another one raises
    it."""
    if ruling.fault is not None or not wants_second(exchange):
        return False
    agreeing = _assess(exchange, exchange.message).doubt
    other = _assess(exchange, {"role": "assistant", "content": _OTHER}).doubt
    return agreeing <= exchange.rules.doubt < other


def _assess(exchange: Exchange, second: JsonObject | None) -> Assessment:
    return assess(
        "",
        exchange.message,
        second=second,
        logprobs=exchange.logprobs or None if "confidence" in exchange.rules.by else None,
        request=exchange.chat,
        finish=exchange.finish,
        difficulty=exchange.difficulty,
        sampled=exchange.is_sample,
    )

"""Judge past answers again by another policy: by the doubt and the fault that their rows hold.  Pure.

The database has no texts, so an answer that was not judged then has no doubt, and another model's answer is not known.
Such requests are counted as unknown, each with its reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from app.metrics.queries import PastCall
from app.types import Decision, JsonDict, Kind, Policy, Target, VerificationPlan, Verified

NOT_JUDGED = "not_judged"
RESULTS = (*(result.value for result in Verified), NOT_JUDGED)


class Unknown(StrEnum):
    """Name the reason why the result of a judgement cannot be computed; the values are members of the report."""

    OTHER_TARGET = "other_target"  # another model is asked first, and its answer is not known
    NO_DOUBT = "no_doubt"  # the answer was not judged then
    OTHER_PARTS = "other_parts"  # the doubt has a part that the new policy does not judge by


@dataclass(frozen=True, slots=True)
class JudgedRequest:
    """Hold the calls of a past request whose first call succeeded."""

    first: PastCall
    target: Target  # of the first call
    others: Sequence[PastCall]  # second opinions and the escalated call

    @property
    def result(self) -> str:
        return self.first.verified or NOT_JUDGED

    @property
    def opinions_usd(self) -> float:
        """Return the known cost of the second opinions."""
        return sum(call.cost_usd or 0.0 for call in self.others if call.kind == Kind.VERIFY)

    @property
    def escalated(self) -> PastCall | None:
        """Return the call that answered the request after its escalation."""
        return next((call for call in self.others if call.kind != Kind.VERIFY and call.ok), None)

    @property
    def cost_usd(self) -> float | None:
        """Return the cost of all calls; None = unknown."""
        first, more = self.first.cost_usd, self._escalation_usd
        return None if first is None or more is None else first + self.opinions_usd + more

    @property
    def _escalation_usd(self) -> float | None:
        if self.first.verified != Verified.ESCALATED:
            return 0.0
        return self.escalated.cost_usd if self.escalated else None


@dataclass(slots=True)
class Rejudged:
    """Count the results of the judgement then and now, with the cost of the requests where both are known."""

    policy: Policy
    _then: Counter[str] = field(default_factory=Counter)
    _now: Counter[str] = field(default_factory=Counter)
    _unknown: Counter[str] = field(default_factory=Counter)
    _changes: Counter[tuple[str, str]] = field(default_factory=Counter)
    _without_opinion: int = 0
    _costs: int = 0  # requests whose cost is known then and now
    _then_usd: float = 0.0
    _now_usd: float = 0.0

    def add(self, past: JudgedRequest, now: Decision, *, is_same_policy: bool) -> None:
        """Count a request.  Under the policy that judged it, its result stays."""
        plan = now.verification
        if past.first.verified is None and (plan is None or is_same_policy):
            return
        result = past.result if is_same_policy else _result(past, now.targets[0], plan)
        self._then[past.result] += 1
        if isinstance(result, Unknown):
            self._unknown[result] += 1
            return
        self._now[result] += 1
        if result != past.result:
            self._changes[past.result, result] += 1
        is_doubted = result in (Verified.KEPT, Verified.ESCALATED) and past.first.fault is None
        if is_doubted and plan and plan.second and past.first.agreement is None:
            self._without_opinion += 1
        self._add_cost(past, result, plan)

    def document(self) -> JsonDict:
        """Return the member `verify` of the report."""
        both = self._costs
        return {
            "requests": sum(self._then.values()),
            "then": {name: self._then[name] for name in RESULTS},
            "now": {**{name: self._now[name] for name in RESULTS}, "unknown": sum(self._unknown.values())},
            "changes": [
                {"then": then, "now": now, "requests": number} for (then, now), number in self._changes.most_common()
            ],
            "unknown": {reason.value: self._unknown[reason] for reason in Unknown},
            "without_opinion": self._without_opinion,
            "cost_usd": {
                "then": round(self._then_usd, 6) if both else None,
                "now": round(self._now_usd, 6) if both else None,
                "known": both,
            },
        }

    def _add_cost(self, past: JudgedRequest, result: str, plan: VerificationPlan | None) -> None:
        then, now = past.cost_usd, self._cost_usd(past, result, plan)
        if then is not None and now is not None:
            self._costs += 1
            self._then_usd += then
            self._now_usd += now

    def _cost_usd(self, past: JudgedRequest, result: str, plan: VerificationPlan | None) -> float | None:
        """Return the cost of a request with this result; None = unknown.  An escalation that did not happen then is
        expected to need as many tokens as the first answer."""
        first, answer = past.first, past.escalated
        if first.cost_usd is None or result in (NOT_JUDGED, Verified.OBSERVED):
            return first.cost_usd
        if result != Verified.ESCALATED:
            return first.cost_usd + past.opinions_usd
        if plan is None or (answer and any(target.backend == answer.backend for target in plan.escalation)):
            return past.cost_usd
        price, tokens = self.policy.backends[plan.escalation[0].backend].price, answer or first
        more = price.cost_usd(tokens.input_tokens, tokens.output_tokens) if price else None
        return None if more is None else first.cost_usd + past.opinions_usd + more


def _result(past: JudgedRequest, target: Target, plan: VerificationPlan | None) -> str | Unknown:
    """Return the result of the judgement by another policy."""
    first = past.first
    if (target.backend, target.model) != (past.target.backend, past.target.model):
        return Unknown.OTHER_TARGET
    if plan is None:
        return NOT_JUDGED
    if not plan.holds:
        return Verified.OBSERVED
    if first.verified == Verified.RELEASED:
        return Verified.RELEASED
    by = plan.rules.by
    if first.fault is not None and "structure" in by:
        return Verified.ESCALATED
    if first.doubt is None:  # there was no evidence, or nothing but the structure was judged
        is_enough = first.verified == Verified.KEPT or (first.verified is not None and by == {"structure"})
        return Verified.KEPT if is_enough else Unknown.NO_DOUBT
    if first.agreement is not None and "agreement" not in by:
        return Unknown.OTHER_PARTS
    return Verified.ESCALATED if first.doubt > plan.rules.doubt else Verified.KEPT

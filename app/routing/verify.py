"""Plan how the first answer of a request is judged, by `verify` of its route.  Pure."""

from __future__ import annotations

from collections.abc import Sequence

from app.routing.capabilities import lacking
from app.routing.choice import Choice, target_name
from app.routing.fit import too_long
from app.routing.locality import is_local
from app.routing.names import model_for
from app.types import VERIFY_BY, Lane, Reason, Target, Verification, VerificationPlan


def verify(choice: Choice) -> None:
    """Plan the judgement of the first answer.  In a tool loop that was escalated, ask the stronger target first."""
    rules = choice.rule.verify if choice.rule else None
    if rules is None:
        return
    escalation = _escalation(rules, choice)
    if choice.request.escalated and escalation:
        _stay_escalated(escalation, choice)
    elif choice.tags.purpose == Lane.BACKGROUND:
        choice.note("verify", "not judged: a program asks by itself")
    elif choice.targets[0] in escalation:
        choice.note("verify", f"not judged: {target_name(choice.targets[0])}, which is asked first, is the strongest")
    else:
        _plan(rules, escalation, choice)


def _escalation(rules: Verification, choice: Choice) -> tuple[Target, ...]:
    """Return the targets that are left for an answer that does not hold."""
    assert choice.rule is not None
    names = frozenset(choice.policy.members(rules.escalate or choice.rule.fallbacks[0]))
    names -= frozenset(choice.policy.members(choice.rule.backend))
    return tuple(target for target in choice.targets if target.backend in names)


def _stay_escalated(escalation: Sequence[Target], choice: Choice) -> None:
    choice.keep((*escalation, *(target for target in choice.targets if target not in escalation)), Reason.ESCALATED)
    choice.note("verify", f"{target_name(escalation[0])} goes first: its answer called the tools of this loop")


def _plan(rules: Verification, escalation: tuple[Target, ...], choice: Choice) -> None:
    first, why = choice.targets[0], _only_observed(escalation, choice)
    if why:
        choice.verification = VerificationPlan(rules=rules, holds=False, escalation=escalation)
        choice.note("verify", f"the answer of {target_name(first)} is sent as it comes: {why}")
        return
    second = _second(rules, choice)
    choice.verification = VerificationPlan(
        rules=rules,
        holds=True,
        escalation=escalation,
        second=second,
        is_sample=second is not None and (second.backend, second.model) == (first.backend, first.model),
    )
    by = ", ".join(word for word in VERIFY_BY if word in rules.by)
    opinion = f"; second opinion: {target_name(second)}" if second else ""
    choice.note(
        "verify",
        f"the answer of {target_name(first)} is held and judged ({by}{opinion}); when it does not hold, "
        f"{target_name(escalation[0])} is asked",
    )


def _only_observed(escalation: Sequence[Target], choice: Choice) -> str:
    """Return why the answer is not held; "" when it is."""
    if choice.private:
        return "the request is private"
    if not escalation:
        return "no target is left for an answer that does not hold"
    return "the dailyShare of the route is used up" if choice.route in choice.observations.spent else ""


def _second(rules: Verification, choice: Choice) -> Target | None:
    """Return the target of the second opinion; None when the policy names none, or when it cannot serve the request."""
    first = choice.targets[0]
    if "agreement" not in rules.by or (rules.second is None and rules.samples < 2):
        return None
    if rules.second is None:
        target = Target(first.backend, first.model)
    else:
        config = choice.policy.backends[rules.second]
        target = Target(rules.second, rules.second_model or model_for(config, choice.tags.family, choice.observations))
    why = _unfit(target, choice)
    if why:
        choice.note("verify", f"no second opinion of {target_name(target)}: {why}")
    return None if why else target


def _unfit(target: Target, choice: Choice) -> str:
    """Return why a target gives no second opinion; "" when it can."""
    if not target.model:
        return "no model is known for it"
    if not is_local(target, choice.observations):
        return "it is not local"
    if lacks := lacking(target, choice.needs, choice.observations):
        return f"its model lacks {', '.join(sorted(lacks))}"
    problem = too_long(target, choice.config(target), choice.observations, choice.tags.tokens, choice.output_tokens)
    return "the prompt is too long for it" if problem else ""

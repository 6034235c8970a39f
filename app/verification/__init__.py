"""Judge the answer of the first target before the client gets it, and ask a stronger target when it does not hold.

The first target is asked and its answer is held; a second opinion is asked beside.  The answer is judged, and kept or
escalated.  An answer that can be held no longer is released.  Some answers are only observed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from app.dispatch import Opened, open_reply, routed
from app.services import Services
from app.types import ChatRequest, Decision, Plan, Reply, VerificationPlan
from app.verification.judging import Judging
from app.verification.opinion import Opinion

Show = Callable[[Reply], None]
"""A function that gets the reply of the first target while it is held, for the head of the response."""


def show_nothing(reply: Reply) -> None:
    """Do nothing: the response has no head before its reply."""


def verified_reply(plan: Plan, services: Services, show: Show = show_nothing) -> Reply:
    """Return the one reply that the client gets, for a plan with a verification.  Raise RouterError as `dispatch`
    does."""
    verification = plan.decision.verification
    assert verification is not None
    services.beliefs.begin_verification(plan.decision.route, plan.request.request_id)
    opinion = Opinion(plan, verification, services)
    try:
        if verification.holds:
            opinion.begin_beside()
        first = open_reply(_asking_for_logprobs(plan, verification), services)
        if not _is_first(first, plan.decision):
            return routed(first, plan.decision)
        judging = Judging(plan, verification, first, opinion, services)
        return judging.held(show) if verification.holds else judging.observed()
    finally:
        opinion.stop()


def _asking_for_logprobs(plan: Plan, verification: VerificationPlan) -> Plan:
    """Return the plan for the first call, which asks for the log-probabilities that the judgement reads."""
    assert isinstance(plan.request, ChatRequest)
    if not verification.holds or "confidence" not in verification.rules.by:
        return plan
    return dataclasses.replace(plan, request=dataclasses.replace(plan.request, wants_logprobs=True))


def _is_first(opened: Opened, decision: Decision) -> bool:
    """Return True for the reply of the first target, or of a member of its pool: others are fallbacks."""
    target, first = opened.call.target, decision.targets[0]
    return target.backend == first.backend or (first.pool is not None and target.pool == first.pool)

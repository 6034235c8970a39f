"""The flow: every request of every surface goes through `run`. A dry run makes the same plan and no call."""

from __future__ import annotations

import dataclasses
import time

from app.dispatch import dispatch
from app.errors import RouterError
from app.routing.choice import MayMeasure
from app.routing.classify import judge
from app.routing.conversation import origin_step
from app.routing.decide import decide, measure_nothing
from app.routing.detect import Detectors
from app.routing.stored import decide_stored
from app.services import Services
from app.types import ChatRequest, Plan, Reply, Request, Sensitivity, StoredRequest
from app.verification import Show, show_nothing, verified_reply


def run(request: Request, services: Services, show: Show = show_nothing) -> Reply:
    """Return the reply to a request.  Each of its calls is recorded, and may be sampled for the A/B trial.
    `show` gets the reply of the first target while it is held.  Raise RouterError."""
    try:
        if isinstance(request, ChatRequest):
            request = detect(request, services.detectors)
        plan = make_plan(request, services, services.beliefs.claim_measurement)
        services.shadows.probe(plan, services)
        return verified_reply(plan, services, show) if plan.decision.verification else dispatch(plan, services)
    except RouterError as error:
        error.private_because = request.private_because
        raise


def make_plan(request: Request, services: Services, may_measure: MayMeasure = measure_nothing) -> Plan:
    """Decide where a request goes, after `detect`, without a call.  Raise NoEligibleBackend and ContextTooLong."""
    observations = services.beliefs.observations()
    if isinstance(request, StoredRequest):
        return Plan(request, None, decide_stored(request, observations))
    request = services.tool_loops.mark(request) if services.tool_loops else request
    judgement = judge(request, services.policy.complexity, services.policy.conversations)
    tags = judgement.tags
    request = request if request.lane == tags.purpose else dataclasses.replace(request, lane=tags.purpose)
    decision = decide(request, tags, services.policy, observations, may_measure)
    if judgement.origin.turns > 1:
        decision = dataclasses.replace(decision, trace=(origin_step(judgement), *decision.trace))
    return Plan(request, tags, decision)


def detect(request: ChatRequest, detectors: Detectors) -> ChatRequest:
    """Return the request; it is private when a detector finds private text in it."""
    if request.sensitivity == Sensitivity.HIGH:
        return request
    if request.large:
        _give_way()
    name = detectors.find(request.body.original, pause=_give_way if request.large else None)
    if request.large:
        _give_way()
    if name is None:
        return request
    reason = f"pattern:{name}" if name.startswith("patterns[") else f"detector:{name}"
    return dataclasses.replace(request, sensitivity=Sensitivity.HIGH, sensitivity_reason=reason)


def _give_way() -> None:
    """Let other requests run."""
    time.sleep(0)

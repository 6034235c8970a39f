"""Make a dry run: prepare every call that a request would lead to, and send none."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

from app import pipeline
from app.errors import BackendRejected
from app.routing.classify import evidence
from app.routing.expected import estimate
from app.routing.locality import is_local
from app.services import Services
from app.types import (
    ChatRequest,
    CircuitState,
    Decision,
    DryRun,
    Evidence,
    Kind,
    Lane,
    Observations,
    Plan,
    PlannedCall,
    Policy,
    Target,
)

_NOT_FOR_PRIVATE = "the request is private and it is not local"
_OTHERS = {"pin": "the client named another", "continuation": "the conversation is kept elsewhere"}


def dry_run(request: ChatRequest, services: Services) -> tuple[Evidence, Decision, DryRun]:
    """Run the flow up to the decision, and return the evidence for the tags and the calls that would be made.  The
    evidence can hold words of the prompt: show it, never store it."""
    request = pipeline.detect(request, services.detectors)
    plan = pipeline.make_plan(request, services)
    reasons = evidence(request, services.policy.complexity, services.policy.conversations)
    if plan.tags is not None:
        reasons = dataclasses.replace(reasons, tags=plan.tags)
    request = dataclasses.replace(request, lane=plan.request.lane)
    return reasons, plan.decision, _calls(request, plan, services)


def _calls(request: ChatRequest, plan: Plan, services: Services) -> DryRun:
    decision, observations = plan.decision, services.beliefs.observations()
    refused: dict[str, str] = {}  # backend -> why its API has no form for the request
    live = [_planned(request, plan, target, Kind.LIVE, 1.0, services, refused) for target in decision.targets]
    more = [
        _planned(request, plan, target, kind, share, services, refused)
        for target, kind, share in (*_opinions(decision), *services.shadows.planned(plan, services))
    ]
    calls, shadows = tuple(filter(None, live)), tuple(filter(None, more))
    reached = frozenset(call.target.backend for call in (*calls, *shadows))
    others = never(services.policy, decision, observations, reached) | refused
    return DryRun(calls=calls, shadows=shadows, never=others)


def _opinions(decision: Decision) -> Iterator[tuple[Target, Kind, float]]:
    """Yield the second opinion, if one is planned: target, kind, and the share of such requests that it is asked for,
    at most."""
    if decision.verification is not None and decision.verification.second is not None:
        yield decision.verification.second, Kind.VERIFY, 1.0


def _planned(
    request: ChatRequest,
    plan: Plan,
    target: Target,
    kind: Kind,
    share: float,
    services: Services,
    refused: dict[str, str],
) -> PlannedCall | None:
    time.sleep(0)  # let other requests run: writing a large body takes milliseconds
    observations, backend = services.beliefs.observations(), services.upstreams[target.backend].backend
    try:
        outgoing = backend.prepare(request, target, stream=request.stream and kind == Kind.LIVE)
    except BackendRejected as error:
        refused[target.backend] = error.message
        return None
    output_tokens = plan.decision.basis.output_tokens if plan.decision.basis else 0
    tokens = plan.tags.tokens if plan.tags else 0
    lane = request.lane if kind == Kind.LIVE else Lane.BACKGROUND
    return PlannedCall(
        target=target,
        kind=kind,
        share=share,
        local=is_local(target, observations),
        circuit=services.circuits.states().get(target.backend, CircuitState.CLOSED),
        estimate=estimate(target, backend.config, observations, tokens, output_tokens, lane),
        url=backend.url(outgoing),
        body=outgoing.form(request),
        sent_bytes=len(outgoing.body),
        key_env=backend.config.api_key_env or None,
        key_set=not backend.missing_key,
    )


def never(policy: Policy, decision: Decision, observations: Observations, reached: frozenset[str]) -> dict[str, str]:
    """Return the backends that are not among those `reached`, each with the reason."""
    other = _OTHERS.get(decision.route, f"the route {decision.route} does not name it")
    left = (name for name in policy.backends if name not in reached)
    return {name: decision.dropped.get(name) or _barred(name, decision, observations) or other for name in left}


def _barred(name: str, decision: Decision, observations: Observations) -> str:
    return _NOT_FOR_PRIVATE if decision.private and name not in observations.local else ""

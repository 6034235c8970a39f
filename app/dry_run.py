"""The dry run: every call that a request would lead to, written as it would be, and not sent."""

from __future__ import annotations

import dataclasses
import time

from app import pipeline
from app.routing.classify import evidence
from app.routing.expected import estimate
from app.routing.locality import is_local
from app.runtime import Runtime
from app.types import (
    ChatRequest,
    CircuitState,
    Classification,
    Decision,
    DryRun,
    Evidence,
    Kind,
    Observations,
    PlannedCall,
    Policy,
    Target,
)

_NOT_FOR_PRIVATE = "the request is private and it is not local"
_OTHERS = {"pin": "the client named another", "continuation": "the conversation is kept elsewhere"}


def dry_run(request: ChatRequest, rt: Runtime) -> tuple[Evidence, Decision, DryRun]:
    """Run the flow up to the decision, and return the evidence for the tags and the calls that would be made.  The
    evidence can hold words of the prompt: show it, never store it."""
    request = pipeline.detect(request, rt.detectors)
    tags, decision = pipeline.plan(request, rt)
    reasons = dataclasses.replace(evidence(request, rt.policy.complexity), tags=tags)
    return reasons, decision, _calls(request, tags, decision, rt)


def _calls(request: ChatRequest, tags: Classification, decision: Decision, rt: Runtime) -> DryRun:
    observations = rt.observations()
    calls = tuple(_planned(request, tags, decision, target, rt) for target in decision.targets)
    shadows = tuple(
        _planned(request, tags, decision, target, rt, kind, share)
        for target, kind, share in rt.shadow.planned(request, tags, decision)
    )
    reached = frozenset(call.target.backend for call in (*calls, *shadows))
    return DryRun(calls=calls, shadows=shadows, never=never(rt.policy, decision, observations, reached))


def _planned(
    request: ChatRequest,
    tags: Classification,
    decision: Decision,
    target: Target,
    rt: Runtime,
    kind: Kind = Kind.LIVE,
    share: float = 1.0,
) -> PlannedCall:
    time.sleep(0)  # the other requests' turn: to write a large body takes milliseconds
    observations, backend = rt.observations(), rt.upstreams[target.backend].backend
    outgoing = backend.prepare(request, target, stream=request.stream and kind == Kind.LIVE)
    output_tokens = decision.basis.output_tokens if decision.basis else 0
    return PlannedCall(
        target=target,
        kind=kind,
        share=share,
        local=is_local(target, observations),
        circuit=rt.circuits.states().get(target.backend, CircuitState.CLOSED),
        estimate=estimate(target, backend.config, observations, tags.tokens, output_tokens),
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

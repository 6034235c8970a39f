"""THE FLOW.  Every request, from any surface, goes through `run`; a dry run is the same, stopped early."""

from __future__ import annotations

import dataclasses
import time

from app.dispatch import dispatch
from app.errors import NoEligibleBackend, RouterError
from app.routing.classify import classify, evidence
from app.routing.decide import MayMeasure, decide, measure_nothing
from app.routing.detect import Detectors
from app.routing.locality import is_local
from app.routing.outlook import estimate, never
from app.runtime import Runtime
from app.types import (
    CallRecord,
    ChatRequest,
    CircuitState,
    Classification,
    Decision,
    Evidence,
    Kind,
    Outlook,
    Planned,
    Reason,
    Reply,
    Sensitivity,
    Step,
    StoredRequest,
    Target,
)


def plan(
    request: ChatRequest, rt: Runtime, may_measure: MayMeasure = measure_nothing
) -> tuple[Classification, Decision]:
    """Decide where a request goes that `detect` has looked at.  Call nothing and change nothing.  Raise
    NoEligibleBackend, ContextTooLong."""
    tags = classify(request, rt.policy.complexity)
    return tags, decide(request, tags, rt.policy, rt.observations(), may_measure)


def explain(request: ChatRequest, rt: Runtime) -> tuple[Evidence, Decision, Outlook]:
    """`plan`, with what spoke for the tags and what would be sent where.  It can hold words of the prompt: show it,
    never keep it."""
    request = detect(request, rt.detectors)
    tags, decision = plan(request, rt)
    found = dataclasses.replace(evidence(request, rt.policy.complexity), tags=tags)
    return found, decision, _outlook(request, tags, decision, rt)


def _outlook(request: ChatRequest, tags: Classification, decision: Decision, rt: Runtime) -> Outlook:
    """Every request that could be made, written as it would be, and not sent."""
    observations, circuits = rt.observations(), rt.health.states()
    output_tokens = decision.basis.output_tokens if decision.basis else 0

    def planned(target: Target, kind: Kind = Kind.LIVE, share: float = 1.0) -> Planned:
        time.sleep(0)
        backend = rt.upstreams[target.backend].backend
        outgoing = backend.prepare(request, target, stream=request.stream and kind == Kind.LIVE)
        return Planned(
            target=target,
            kind=kind,
            share=share,
            local=is_local(target, observations),
            circuit=circuits.get(target.backend, CircuitState.CLOSED),
            estimate=estimate(target, backend.config, observations, tags.tokens, output_tokens),
            url=backend.url(outgoing),
            body=outgoing.form(request),
            sent_bytes=len(outgoing.body),
            key_env=backend.config.api_key_env or None,
            key_set=not backend.missing_key,
        )

    calls = tuple(planned(target) for target in decision.targets)
    mirrors = tuple(planned(*mirror) for mirror in rt.shadow.mirrors(request, tags, decision))
    reached = frozenset(call.target.backend for call in (*calls, *mirrors))
    return Outlook(calls=calls, mirrors=mirrors, never=never(rt.policy, decision, observations, reached))


def run(request: ChatRequest | StoredRequest, rt: Runtime) -> Reply:
    """The answer.  Raises RouterError; the CallRecords of all calls are recorded by the time it is over."""
    if isinstance(request, StoredRequest):
        return _run_stored(request, rt)
    request = detect(request, rt.detectors)
    try:
        return _run(request, rt)
    except RouterError as error:
        error.private_because = request.private_because
        raise


def _run(request: ChatRequest, rt: Runtime) -> Reply:
    tags, decision = plan(request, rt, rt.claim_trial)

    def record(call: CallRecord) -> None:
        rt.record(call)
        if request.continues is None:  # what a backend keeps is not there to be mirrored
            rt.shadow.offer(request, tags, decision, call)

    rt.shadow.measure(request, tags, decision)
    try:
        return dispatch(request, tags, decision, rt.dispatcher, record)
    except RouterError as error:
        error.route, error.trace = decision.route, error.trace or decision.trace
        error.pin_refused = decision.pin_refused
        raise


def _run_stored(request: StoredRequest, rt: Runtime) -> Reply:
    """Return what the backend that keeps a response says of it: nothing is decided, and the gate is the same."""
    keeper = request.keeper
    if request.private and not is_local(keeper, rt.observations()):
        raise NoEligibleBackend(
            f"The request is private, and the backend that keeps this response, {keeper.backend!r}, is not local."
        )
    decision = Decision(
        route="stored",
        targets=(keeper,),
        trace=(Step("match", f"kept by {keeper.backend}: no other can answer"),),
        primary=keeper.backend,
        reason=Reason.CONTINUATION,
        private=request.private,
        private_because=request.private_because,
    )
    try:
        return dispatch(request, None, decision, rt.dispatcher, rt.record)
    except RouterError as error:
        error.route = decision.route
        raise


def detect(request: ChatRequest, detectors: Detectors) -> ChatRequest:
    """Return the request, made private when a detector finds something in it."""
    if request.sensitivity == Sensitivity.HIGH:
        return request
    if request.large:
        _give_way()
    found = detectors.find(request.body.original, pause=_give_way if request.large else None)
    if request.large:
        _give_way()
    if found is None:
        return request
    reason = f"pattern:{found}" if found.startswith("patterns[") else f"detector:{found}"
    return dataclasses.replace(request, sensitivity=Sensitivity.HIGH, sensitivity_reason=reason)


def _give_way() -> None:
    """Let the other requests have their turn."""
    time.sleep(0)

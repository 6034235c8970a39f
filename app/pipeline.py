"""THE FLOW.  Every request, from any surface, goes through `run`; a dry run is the same, stopped early."""

from __future__ import annotations

import dataclasses
import time

from app.dispatch import dispatch
from app.errors import NoEligibleBackend, RouterError
from app.routing.classify import classify
from app.routing.decide import MayMeasure, decide, measure_nothing
from app.routing.detect import Detectors
from app.routing.locality import is_local
from app.runtime import Runtime
from app.types import (
    CallRecord,
    ChatRequest,
    Classification,
    Decision,
    Reason,
    Reply,
    Sensitivity,
    Step,
    StoredRequest,
)


def plan(
    request: ChatRequest, rt: Runtime, may_measure: MayMeasure = measure_nothing
) -> tuple[Classification, Decision]:
    """Decide where a request goes that `detect` has looked at.  Call nothing and change nothing.  Raise
    NoEligibleBackend, ContextTooLong."""
    tags = classify(request, rt.policy.complexity)
    return tags, decide(request, tags, rt.policy, rt.observations(), may_measure)


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

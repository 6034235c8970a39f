"""The only door to a backend: it tries the targets of a plan in order, and falls back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from app.backends.reply import Stream, Whole
from app.call import Call, RecordedStream
from app.errors import (
    AllBackendsFailed,
    BackendError,
    CannotServe,
    CapabilityMissing,
    PromptTooLong,
    RouterError,
    causes,
)
from app.services import Services
from app.tries import Failures, Tries
from app.types import (
    Buffered,
    Chunks,
    Decision,
    Plan,
    Reason,
    Reply,
    Step,
    Streamed,
    Target,
    Verdict,
    Why,
)

E = TypeVar("E", bound=RouterError)


class Opened(NamedTuple):
    """Hold a reply whose call has not ended, and how it came about."""

    reply: Whole | Stream
    call: Call
    failures: Failures
    steps: list[Step]  # of the trace, after those of the decision


def dispatch(plan: Plan, services: Services) -> Reply:
    """Return the reply of the first target that has one.  Until then the client does not notice a fallback; after it
    there is none.

    Raises BackendRejected (the client's own mistake), CannotServe and AllBackendsFailed.
    """
    return routed(open_reply(plan, services), plan.decision)


def open_reply(plan: Plan, services: Services) -> Opened:
    """Return the reply of the first target that has one, as `dispatch` does.  The caller ends its call."""
    tries = Tries(plan, services)
    failures, steps, basis = tries.failures, tries.steps, plan.decision.basis
    for targets in tries:
        why = _why(plan, targets, failures, services)
        call = Call(plan, targets, why, services, kind=plan.request.kind, basis=basis, tries=tries)
        try:
            return Opened(call.make(), call, failures, steps)
        except BackendError as error:
            if not error.next_target:
                raise _refused(error, plan.decision, call.target, steps) from None
            # Its frames refer to the request, and the errors to this list: only the garbage collector would free them.
            error.__traceback__ = error.__context__ = None
            tries.failed(call.tried, call.target, error)
            basis = None if call.is_recorded else basis
            for target in call.tried:
                targets.remove(target)
    refusals = [error for _, error in failures if isinstance(error, CannotServe)]
    if len(refusals) == len(failures):
        raise _refused(_summary(refusals), plan.decision, call.target, steps)
    raise _all_failed(failures, plan.decision, call.target, steps)


def _summary(refusals: Sequence[CannotServe]) -> CannotServe:
    """Return the client's error when no target can serve the request.  A shorter prompt may be what one of them needs,
    so this is told first, with the largest window."""
    too_long = [error for error in refusals if isinstance(error, PromptTooLong)]
    if too_long:
        return max(too_long, key=lambda error: error.window or 0)
    lacks = [error for error in refusals if isinstance(error, CapabilityMissing)]
    return lacks[0] if len(lacks) == 1 else CapabilityMissing.of_all(lacks)


def _why(plan: Plan, targets: Sequence[Target], failures: Failures, services: Services) -> Why:
    """Return the reasons for a call to one of these targets.  Only a target that is first because of an open circuit
    stands for another one.  A member of a pool replaces the member that failed."""
    decision = plan.decision
    first = decision.primary if decision.reason == Reason.COOLING else decision.targets[0].backend
    if failures and decision.targets[0].pool:
        first = failures[0][0]
    is_first = any(target.backend == first for target in targets)
    passed_over = Reason.QUEUE if first in services.circuits.busy() else Reason.COOLING
    return Why(
        route=decision.route,
        reason=Reason.FALLBACK if failures else decision.reason if is_first else passed_over,
        fallback_for=None if is_first else first,
        sensitivity_reason=plan.request.private_because,
    )


def routed(opened: Opened, decision: Decision) -> Reply:
    """Return a reply with the facts about its choice.  The call of a whole reply ends now, that of a stream at its
    end."""
    reply, call = opened.reply, opened.call
    if isinstance(reply, Whole):
        call.end(reply)
        return described(opened, decision, None)
    call.begin()
    return described(opened, decision, RecordedStream(reply, call))


def described(opened: Opened, decision: Decision, chunks: Chunks | None, verdict: Verdict | None = None) -> Reply:
    """Return a reply with the facts about its choice.  `chunks` are the bytes of a stream, `verdict` is that on the
    answer of the first target, when it was judged."""
    reply, call = opened.reply, opened.call
    failed, trace = causes(opened.failures), (*decision.trace, *opened.steps)
    if call.dropped:
        trace = (*trace, Step("call", f"{call.target.backend} does not get {', '.join(call.dropped)}"))
    if isinstance(reply, Whole):
        return Buffered(
            target=call.target,
            decision=decision,
            fallback_for=call.why.fallback_for,
            failed=failed,
            trace=trace,
            verdict=verdict,
            body=reply.body,
            document=reply.document,
            wire=reply.wire,
        )
    assert chunks is not None
    return Streamed(
        target=call.target,
        decision=decision,
        fallback_for=call.why.fallback_for,
        failed=failed,
        trace=trace,
        verdict=verdict,
        chunks=chunks,
        wire=reply.wire,
    )


def _refused(error: BackendError, decision: Decision, target: Target, steps: Sequence[Step]) -> BackendError:
    """Return the client's error when a backend rejected the request itself."""
    if decision.private:
        error = error.in_our_words()
    return _described(error, decision, target, steps)


def _all_failed(failures: Failures, decision: Decision, target: Target, steps: Sequence[Step]) -> AllBackendsFailed:
    return _described(AllBackendsFailed(failures, private=decision.private), decision, target, steps)


def _described(error: E, decision: Decision, target: Target, steps: Sequence[Step]) -> E:
    """Return the error with the facts for the headers and the log."""
    error.target, error.pool = (target.backend, target.model), target.pool
    error.route, error.trace, error.pin_refused = decision.route, (*decision.trace, *steps), decision.pin_refused
    return error

"""Tries targets in order.  The only code that calls backends for a request, that falls back, and that times and records
calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.backends.base import Backend
from app.backends.places import Places
from app.backends.reply import Stream, Whole
from app.circuits import Circuits
from app.errors import (
    AllBackendsFailed,
    BackendError,
    PrivacyViolation,
    StreamInterrupted,
    causes,
)
from app.routing.locality import host_of, judge_target
from app.types import (
    Basis,
    Buffered,
    CallRecord,
    ChatRequest,
    Classification,
    Decision,
    Egress,
    Ending,
    Kind,
    Observations,
    Outcome,
    Price,
    Reason,
    Reply,
    Step,
    StoredRequest,
    Streamed,
    Target,
    Times,
    Usage,
    Why,
)

Record = Callable[[CallRecord], None]
Request = ChatRequest | StoredRequest


@dataclass(frozen=True, slots=True)
class Upstream:
    """One backend with its places."""

    backend: Backend
    places: Places


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What dispatching needs of the runtime."""

    upstreams: Mapping[str, Upstream]
    circuits: Circuits
    observations: Callable[[], Observations]
    record: Record


def dispatch(
    request: Request, tags: Classification | None, decision: Decision, via: Dispatcher, record: Record
) -> Reply:
    """The first target that answers.  Until it has, a fallback is invisible; after it there is none.  Only requests to
    models have tags.

    `record` gets the CallRecord of every call, that of a stream when it ends.  Raises BackendRejected (the
    client's own mistake) and AllBackendsFailed.
    """
    failures: list[tuple[str, BackendError]] = []
    for target in _admitted(request, decision, via):
        why = _why(request, target, decision, failures)
        basis = None if failures else decision.basis
        upstream = via.upstreams[target.backend]
        call = Call(request, target, why, upstream, record, kind=request.kind, tags=tags, basis=basis)
        try:
            answer = call_target(request, target, call, via, private=decision.private)
        except BackendError as error:
            if not error.next_target:
                if decision.private:
                    error = error.in_our_words()
                error.target = (target.backend, target.model)
                raise error from None
            # Its frames hold the request, and theirs this list: memory that only the garbage collector would free.
            error.__traceback__ = error.__context__ = None
            failures.append((target.backend, error))
            continue
        if isinstance(answer, Whole):
            call.succeed(answer)
            return Buffered(
                target=target,
                route=decision.route,
                body=answer.body,
                document=answer.document,
                fallback_for=why.fallback_for,
                failed=causes(failures),
                trace=_trace(decision, failures),
                private=decision.private,
                private_because=decision.private_because,
                pin_refused=decision.pin_refused,
                wire=answer.wire,
            )
        call.first_byte()
        via.circuits.answered(target.backend, request.request_id)
        chunks = _Recorded(answer, call)
        return Streamed(
            target=target,
            route=decision.route,
            chunks=chunks,
            fallback_for=why.fallback_for,
            failed=causes(failures),
            trace=_trace(decision, failures),
            private=decision.private,
            private_because=decision.private_because,
            pin_refused=decision.pin_refused,
            wire=answer.wire,
        )
    raise _all_failed(failures, decision, target)


def _all_failed(failures: list[tuple[str, BackendError]], decision: Decision, last: Target) -> AllBackendsFailed:
    failed = AllBackendsFailed(failures, private=decision.private)
    failed.trace = _trace(decision, failures)
    failed.target = (last.backend, last.model)
    return failed


def _trace(decision: Decision, failures: Sequence[tuple[str, BackendError]]) -> tuple[Step, ...]:
    return (*decision.trace, *(Step("call", f"{name} failed: {error.kind}") for name, error in failures))


def _why(request: Request, target: Target, decision: Decision, failures: list[tuple[str, BackendError]]) -> Why:
    """Return the reasons for a call.  A target that goes first for its latency or its window is no fallback."""
    moved = decision.reason in (Reason.SPILL, Reason.FIT)
    first = decision.targets[0].backend if moved else decision.primary
    is_first = target.backend == first
    reason = Reason.FALLBACK if failures else decision.reason if is_first else Reason.COOLING
    return Why(
        route=decision.route,
        reason=reason,
        fallback_for=None if is_first else first,
        sensitivity_reason=request.private_because,
    )


def call_target(request: Request, target: Target, call: Call, via: Dispatcher, *, private: bool) -> Whole | Stream:
    """One call: the privacy gate, a place, the gate's question to the server, the backend.  On failure the call is
    recorded and BackendError raised; on success finishing (and recording) `call` is the caller's.

    The question comes last, because waiting for a place may take longer than its answer holds."""
    upstream = via.upstreams[target.backend]
    verdict = judge_target(target, via.observations())
    local = verdict.local is not False
    try:
        if private and not local:
            raise _forbidden(verdict.reason)
        call.take_place()
        outgoing = upstream.backend.prepare(request, target, stream=call.stream)
        if private and (host := upstream.backend.host_of_model(target.model)):
            raise _forbidden(f"hands {target.model} on to {host}")
        endpoint = upstream.backend.config.endpoint
        call.sending(len(outgoing.body), None if local else verdict.remote_host or host_of(endpoint))
        answer = upstream.backend.open(outgoing, target, stream=call.stream, private=private)
    except BackendError as error:
        call.fail(error)
        raise
    except BaseException as error:
        call.abort(error)
        raise
    return answer


def _forbidden(reason: str) -> PrivacyViolation:
    return PrivacyViolation(f"the request is private and this backend {reason}: not called")


def _admitted(request: Request, decision: Decision, via: Dispatcher) -> Iterator[Target]:
    """The targets in order, those whose circuit is open last: they are tried when nothing else answered."""
    waiting = []
    for target in decision.targets:
        if via.circuits.admit(target.backend, request.request_id):
            yield target
        else:
            waiting.append(target)
    yield from waiting


class Call:
    """One call to one target: takes its times, holds its place, makes its one record."""

    def __init__(
        self,
        request: Request,
        target: Target,
        why: Why,
        upstream: Upstream,
        record: Record,
        *,
        kind: Kind,
        tags: Classification | None,
        basis: Basis | None = None,
    ) -> None:
        """Only live calls stream."""
        self.stream = request.stream and kind == Kind.LIVE
        self._request = request
        self._target = target
        self._why = why
        self._upstream = upstream
        self._record = record
        self._kind = kind
        self._tags = tags
        self._basis = basis
        self._egress = Egress()
        self._started = time.monotonic()
        self._first_byte: float | None = None
        self._place: int | None = None
        self._finished = False

    def take_place(self) -> None:
        """Wait for a place under the backend's `maxConcurrency`.  Raises BackendBusy."""
        self._place = self._upstream.places.acquire(self._upstream.backend.config.timeouts.first_byte_s)

    def sending(self, size_bytes: int, destination: str | None) -> None:
        """Note what is sent, and to where when that is not local: from here on something may have left."""
        self._egress = Egress(size_bytes, destination)

    def first_byte(self) -> None:
        self._first_byte = time.monotonic()

    def succeed(self, answer: Whole | Stream) -> None:
        self._finish(_ending(Outcome.OK, answer), answer)

    def fail(self, error: BackendError) -> None:
        self._finish(
            Ending(
                outcome=Outcome.ERROR,
                error=error.kind,
                backend_failed=error.backend_failed,
                retry_after_s=error.retry_after_s,
            )
        )

    def interrupt(self, error: StreamInterrupted, answer: Stream) -> None:
        """Finish a call whose stream broke."""
        self._finish(_ending(Outcome.ERROR, answer, error=error.kind, failed=True), answer)

    def abort(self, error: BaseException) -> None:
        """Finish a call that ended from outside: what is no Exception says that the client left or the worker stops."""
        is_bug = isinstance(error, Exception)
        self._finish(Ending(outcome=Outcome.ERROR, error="internal") if is_bug else Ending(outcome=Outcome.CANCELLED))

    def cancel(self, answer: Stream) -> None:
        """Finish a call whose client left."""
        self._finish(_ending(Outcome.CANCELLED, answer), answer)

    def _finish(self, ending: Ending, answer: Whole | Stream | None = None) -> None:
        """Free the place and make the record.  Later calls of it do nothing."""
        if self._finished:
            return
        self._finished = True
        if self._place is not None:
            self._upstream.places.release(self._place)
        now = time.monotonic()
        self._record(
            CallRecord(
                request_id=self._request.request_id,
                kind=self._kind,
                surface=self._request.surface,
                stream=self.stream,
                target=self._target,
                why=self._why,
                times=Times(
                    ts_ms=int(time.time() * 1000),
                    latency_ms=round((now - self._started) * 1000),
                    ttfb_ms=round((self._first_byte - self._started) * 1000) if self._first_byte else None,
                ),
                ending=ending,
                usage=_usage(answer, self._upstream.backend.config.price) if answer else Usage(),
                egress=self._egress,
                tags=self._tags,
                basis=self._basis,
            )
        )


def _ending(outcome: Outcome, answer: Whole | Stream, error: str | None = None, failed: bool = False) -> Ending:
    facts = answer.facts
    return Ending(outcome=outcome, error=error, finish=facts.finish, answer_chars=facts.chars, backend_failed=failed)


def _usage(answer: Whole | Stream, price: Price | None) -> Usage:
    read, written = answer.input_tokens, answer.output_tokens
    return Usage(read, written, price.cost_usd(read, written) if price else None)


class _Recorded:
    """Finish the call when its stream ends, breaks or is closed."""

    def __init__(self, answer: Stream, call: Call) -> None:
        self.failure: str | None = None
        self._answer = answer
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._answer)
        except StopIteration:
            self._call.succeed(self._answer)
            raise
        except StreamInterrupted as error:
            self.failure = error.kind
            self._call.interrupt(error, self._answer)
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the stream early, because the client left."""
        self._answer.close()
        self._call.cancel(self._answer)

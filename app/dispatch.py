"""Tries targets in order.  The only code that calls backends for a request, that falls back, and that times and records
calls."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields

from app.backends.answers import Stream, Whole
from app.backends.base import Backend
from app.backends.slots import Slots
from app.errors import (
    AllBackendsFailed,
    BackendError,
    PrivacyViolation,
    StreamInterrupted,
    causes,
)
from app.health import Health
from app.routing.locality import host_of, judge_target
from app.types import (
    Basis,
    Buffered,
    CallRecord,
    ChatRequest,
    Classification,
    Decision,
    Kind,
    Observations,
    Outcome,
    Reason,
    Reply,
    Step,
    StoredRequest,
    Streamed,
    Target,
)

Record = Callable[[CallRecord], None]
Request = ChatRequest | StoredRequest
_TAGS = tuple(tag.name for tag in fields(Classification))  # the record has each under the same name


@dataclass(frozen=True, slots=True)
class Upstream:
    """One backend with its places."""

    backend: Backend
    slots: Slots


@dataclass(frozen=True, slots=True)
class Dispatcher:
    """What dispatching needs of the runtime."""

    upstreams: Mapping[str, Upstream]
    health: Health
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
        reason, fallback_for = _why(target, decision, failures)
        upstream = via.upstreams[target.backend]
        call = Call(request, tags, decision.route, target, upstream, request.kind, reason, record)
        call.fallback_for = fallback_for
        call.basis = None if failures else decision.basis
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
            call.finish(Outcome.OK, answer)
            return Buffered(
                target=target,
                route=decision.route,
                body=answer.body,
                document=answer.document,
                fallback_for=call.fallback_for,
                failed=causes(failures),
                trace=_trace(decision, failures),
                private=decision.private,
                private_because=decision.private_because,
                pin_refused=decision.pin_refused,
                native=answer.native,
            )
        call.first_byte()
        via.health.answered(target.backend, request.request_id)
        chunks = _Recorded(answer, call)
        return Streamed(
            target=target,
            route=decision.route,
            chunks=chunks,
            fallback_for=call.fallback_for,
            failed=causes(failures),
            trace=_trace(decision, failures),
            private=decision.private,
            private_because=decision.private_because,
            pin_refused=decision.pin_refused,
            native=answer.native,
        )
    raise _all_failed(failures, decision, target)


def _all_failed(failures: list[tuple[str, BackendError]], decision: Decision, last: Target) -> AllBackendsFailed:
    failed = AllBackendsFailed(failures, private=decision.private)
    failed.trace = _trace(decision, failures)
    failed.target = (last.backend, last.model)
    return failed


def _trace(decision: Decision, failures: Sequence[tuple[str, BackendError]]) -> tuple[Step, ...]:
    return (*decision.trace, *(Step("call", f"{name} failed: {error.kind}") for name, error in failures))


def _why(target: Target, decision: Decision, failures: list[tuple[str, BackendError]]) -> tuple[Reason, str | None]:
    """(reason, fallback_for) of a call.  Who goes first for its latency or its window stands in for nobody."""
    moved = decision.reason in (Reason.SPILL, Reason.FIT)
    first = decision.targets[0].backend if moved else decision.primary
    if target.backend == first:
        return (Reason.FALLBACK if failures else decision.reason), None
    return (Reason.FALLBACK if failures else Reason.COOLING), first


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
    except BaseException as error:  # what is no Exception ends the call from outside: the client left, the worker stops
        call.finish(Outcome.ERROR if isinstance(error, Exception) else Outcome.CANCELLED, error="internal")
        raise
    return answer


def _forbidden(reason: str) -> PrivacyViolation:
    return PrivacyViolation(f"the request is private and this backend {reason}: not called")


def _admitted(request: Request, decision: Decision, via: Dispatcher) -> Iterator[Target]:
    """The targets in order, those whose circuit is open last: they are tried when nothing else answered."""
    waiting = []
    for target in decision.targets:
        if via.health.admit(target.backend, request.request_id):
            yield target
        else:
            waiting.append(target)
    yield from waiting


class Call:
    """One call to one target: takes its times, holds its place, makes its one record."""

    def __init__(
        self,
        request: Request,
        tags: Classification | None,
        route: str,
        target: Target,
        upstream: Upstream,
        kind: Kind,
        reason: Reason,
        record: Record,
    ) -> None:
        """Only live calls stream."""
        self.stream = request.stream and kind == Kind.LIVE
        self.reason = reason
        self.fallback_for: str | None = None
        self.basis: Basis | None = None
        self.live_ts_ms: int | None = None
        self._destination: str | None = None
        self._sent_bytes: int | None = None
        self._request = request
        self._tags = tags
        self._route = route
        self._target = target
        self._upstream = upstream
        self._kind = kind
        self._record = record
        self._started = time.monotonic()
        self._first_byte: float | None = None
        self._slot: int | None = None
        self._finished = False

    def take_place(self) -> None:
        """Waits for a place under the backend's `maxConcurrency`.  Raises BackendBusy."""
        self._slot = self._upstream.slots.acquire(self._upstream.backend.config.timeouts.first_byte_s)

    def sending(self, size_bytes: int, destination: str | None) -> None:
        """From here on something may have left: the row says how much, and where to when that is not local."""
        self._sent_bytes = size_bytes
        self._destination = destination

    def first_byte(self) -> None:
        self._first_byte = time.monotonic()

    def fail(self, error: BackendError) -> None:
        self.finish(Outcome.ERROR, error=error.kind, failed=error.backend_failed, retry_after_s=error.retry_after_s)

    def finish(
        self,
        outcome: Outcome,
        answer: Whole | Stream | None = None,
        *,
        error: str | None = None,
        failed: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        """Frees the place and makes the record.  Later calls of it do nothing."""
        if self._finished:
            return
        self._finished = True
        if self._slot is not None:
            self._upstream.slots.release(self._slot)
        now, tags = time.monotonic(), self._tags
        price = self._upstream.backend.config.price
        read, written = (answer.input_tokens, answer.output_tokens) if answer else (None, None)
        self._record(
            CallRecord(
                request_id=self._request.request_id,
                ts_ms=int(time.time() * 1000),
                kind=self._kind,
                backend=self._target.backend,
                model=self._target.model,
                route=self._route,
                surface=self._request.surface,
                stream=self.stream,
                latency_ms=round((now - self._started) * 1000),
                ttfb_ms=round((self._first_byte - self._started) * 1000) if self._first_byte else None,
                outcome=outcome,
                error=None if outcome == Outcome.CANCELLED else error,
                reason=self.reason,
                fallback_for=self.fallback_for,
                destination=self._destination,
                sent_bytes=self._sent_bytes,
                input_tokens=read,
                output_tokens=written,
                cost_usd=price.cost_usd(read, written) if price else None,
                finish=answer.facts.finish if answer else None,
                answer_chars=answer.facts.chars if answer else None,
                live_ts_ms=self.live_ts_ms,
                **({name: getattr(tags, name) for name in _TAGS} if tags else {}),
                sensitivity_reason=self._request.private_because,
                basis=self.basis,
                backend_failed=failed,
                retry_after_s=retry_after_s,
            )
        )


class _Recorded:
    """A stream that finishes its call when it ends, breaks or is closed."""

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
            self._call.finish(Outcome.OK, self._answer)
            raise
        except StreamInterrupted as error:
            self.failure = error.kind
            self._call.finish(Outcome.ERROR, self._answer, error=error.kind, failed=True)
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Before the end: the client left."""
        self._answer.close()
        self._call.finish(Outcome.CANCELLED, self._answer)

"""Make one call: hold a place for it, pass the privacy gate, load the model, time it and record it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

from app.backends.base import Backend
from app.backends.reply import Stream, Whole
from app.errors import (
    BackendBusy,
    BackendError,
    ModelNotLoaded,
    NoPlace,
    PrivacyViolation,
    PromptTooLong,
    ServerBusy,
    StreamInterrupted,
)
from app.places import Place
from app.routing.fit import too_long_for_server
from app.routing.locality import host_of, judge_target
from app.routing.model_facts import model_facts
from app.services import Services
from app.tries import Tries
from app.types import (
    Basis,
    CallRecord,
    Egress,
    Ending,
    Kind,
    Lane,
    Observations,
    Outcome,
    Plan,
    Target,
    Times,
    Usage,
    Verdict,
    Why,
)

_LEAST_LOAD_MS = 100  # a shorter load is none: the model was there
_NOT_JUDGED = Verdict()


class Call:
    """Make one call to one target.  It holds a place until its end, and then makes one record."""

    def __init__(
        self,
        plan: Plan,
        targets: Sequence[Target],
        why: Why,
        services: Services,
        *,
        kind: Kind,
        basis: Basis | None = None,
        tries: Tries | None = None,
        longest_wait_s: float | None = None,
    ) -> None:
        """`targets` are one target, or several: the call goes to the one where it gets a place.  `tries` has the other
        tries of the request; None: there are none.  `longest_wait_s` limits the wait for a place; None: `tries` do, or
        the deadline of the backend."""
        self.target = targets[0]
        self.tried = tuple(targets)  # the targets that need no other call: all of them while no place was free
        self.why = why
        self._plan = plan
        self._services = services
        self._kind = kind
        self._stream = plan.request.stream and kind == Kind.LIVE  # no client waits for other kinds
        self._basis = basis
        self._tries = tries
        self._longest_s = longest_wait_s
        self._egress = Egress()
        self._started = time.monotonic()
        self._first_byte: float | None = None
        self._place: Place | None = None
        self._is_sampled = False  # for the A/B trial
        self._wait_ms: int | None = None
        self._load_ms: int | None = None
        self._lane = plan.request.lane if kind in (Kind.LIVE, Kind.STORED) else Lane.BACKGROUND
        self.dropped: tuple[str, ...] = ()  # members of the client's body that the backend does not get
        self._end: tuple[float, int] | None = None  # monotonic s, Unix ms
        self._finished = False

    def make(self) -> Whole | Stream:
        """Return the backend's reply, or a stream whose first event has arrived.  The caller ends the call when it
        has read the reply.  A call that fails ends here, and raises BackendError."""
        try:
            reply = self._open()
        except BackendError as error:
            if isinstance(error, NoPlace) and not self.is_recorded:
                raise
            ending = Ending(
                outcome=Outcome.ERROR,
                error=error.kind,
                backend_failed=error.backend_failed,
                retry_after_s=error.retry_after_s,
                busy=isinstance(error, ServerBusy),
            )
            self._finish(ending)
            raise
        except Exception:
            self._finish(Ending(outcome=Outcome.ERROR, error="internal"))
            raise
        except BaseException:  # the client disconnected, or the worker stops
            self._finish(Ending(outcome=Outcome.CANCELLED))
            raise
        if self._kind is Kind.LIVE and self._services.shadows.samples(self._plan, self.target, self.why):
            self._is_sampled = True
            reply.collect()
        return reply

    @property
    def is_recorded(self) -> bool:
        """Return False for a call that did not even wait for a place."""
        return self._place is not None or self._wait_ms is not None

    def _open(self) -> Whole | Stream:
        """Wait for a place, pass the privacy gate, ask the server where it runs the model, and call the backend.
        The question comes after the wait, because its answer is valid for a second only."""
        self._place = self._take_place()
        self.target = target = self._place.target
        self.tried = (target,)
        if self._kind in (Kind.LIVE, Kind.STORED):
            self._services.circuits.admit(target.backend, self._plan.request.request_id)
        backend, private = self._services.upstreams[target.backend].backend, self._plan.decision.private
        observations = self._services.beliefs.observations()
        verdict = judge_target(target, observations)
        is_local = verdict.local is not False
        if private and not is_local:
            raise _forbidden(verdict.reason)
        is_chat = self._kind is not Kind.STORED  # a stored response is read without its model
        backend.get_ready()
        observations = self._services.beliefs.observations()  # get_ready may have asked for facts
        if is_chat and model_facts(target, observations).loaded is False:
            self._expect_load()
        outgoing = backend.prepare(self._plan.request, target, stream=self._stream)
        must_load = is_chat and backend.must_load(target.model)
        for load_first in (True, False) if must_load else (False,):
            if private and (host := backend.host_of_model(target.model)):
                raise _forbidden(f"hands {target.model} on to {host}")
            if load_first:
                self._load(backend)  # which takes longer than the answer of the server is valid
                observations = self._services.beliefs.observations()
        self._check_window(observations, is_new=must_load)
        if is_local and self._plan.request.identifiers:
            outgoing = dataclasses.replace(outgoing, headers={**outgoing.headers, **self._plan.request.identifiers})
        self.dropped = outgoing.dropped
        destination = None if is_local else verdict.remote_host or host_of(backend.config.endpoint)
        self._egress = Egress(len(outgoing.body), destination)  # from here on, data may have left this machine
        return backend.open(outgoing, target, stream=self._stream, private=private)

    def _take_place(self) -> Place:
        """Return a free place, or wait for one.  The own member of a conversation is preferred, for some time even when
        its places are taken and those of others are free.  Raise BackendBusy."""
        places, targets = self._services.places, self.tried
        patience_ms = targets[0].patience_ms if len(targets) > 1 else None
        place = places.take(targets if patience_ms is None else targets[:1])
        if place is None and patience_ms == 0:
            place = places.take(targets)
        if place is not None:
            return place
        longest_s = self._longest_wait_s(targets)
        begin, begin_ns = time.monotonic(), time.monotonic_ns()
        if self._tries is not None:
            begin_ns = self._tries.begin_ns = self._tries.begin_ns or begin_ns
        try:
            if patience_ms:
                place = self._wait_for_own(targets[0], patience_ms) or places.take(targets)
            if place is None and longest_s == 0:
                raise NoPlace("all its places (maxConcurrency) are taken, and the wait would be longer than maxWaitMs")
            return place or places.wait(targets, self._lane, longest_s, begin_ns, tell=self._telling)
        finally:
            if longest_s or patience_ms:
                self._wait_ms = round((time.monotonic() - begin) * 1000)

    def _wait_for_own(self, target: Target, patience_ms: float) -> Place | None:
        try:
            return self._services.places.wait((target,), self._lane, patience_ms / 1000, tell=self._telling)
        except BackendBusy:
            return None

    def _longest_wait_s(self, targets: Sequence[Target]) -> float:
        if self._longest_s is not None:
            return self._longest_s
        if self._tries is not None:
            return self._tries.longest_wait_s(targets)
        upstreams = self._services.upstreams
        return max(upstreams[target.backend].backend.config.timeouts.first_byte_s for target in targets)

    def _expect_load(self) -> None:
        """Note that the server must load the model; how long that takes is not known until it was measured.  A probe,
        which may have waited for its place since it was planned, ends here."""
        if self._kind is Kind.PROBE:
            raise ModelNotLoaded("its model is not loaded, and a probe loads none: not called")
        self._load_ms = 0

    def _load(self, backend: Backend) -> None:
        """Load the model before the call.  That request carries the name of the model and no prompt."""
        begin = time.monotonic()
        try:
            with self._telling(lambda: f"{self.target.backend} loads {self.target.model}"):
                backend.load(self.target.model)
        finally:
            self._load_ms = _load_ms((time.monotonic() - begin) * 1000)

    def _check_window(self, observations: Observations, *, is_new: bool) -> None:
        """Raise PromptTooLong when the prompt is too long for the window that the model has got since the decision, and
        the server would cut it without an error.  `is_new`: it was loaded for this call, so its window is known, even
        when another client has made the server evict it again."""
        plan, target = self._plan, self.target
        if plan.tags is None or model_facts(target, observations).refuses:
            return
        problem = too_long_for_server(target, observations, plan.tags.tokens)
        if problem is not None and (problem.in_force or is_new):
            what = f"The prompt is too long for {target.model} at {target.backend}: {problem.why}."
            raise PromptTooLong(what, window=problem.window)

    def _notice_load(self, reply: Whole | Stream | None) -> None:
        """Note a load that the facts have missed: they may be a second old, and other clients can evict models."""
        load_ms = _load_ms(reply.facts.load_ms) if reply is not None else None
        changes = self._services.upstreams[self.target.backend].backend.changes
        if load_ms is not None and changes is not None:
            self._load_ms = self._load_ms or load_ms
            changes.set()

    def _telling(self, describe: Callable[[], str]) -> AbstractContextManager[None]:
        """Tell the client of a stream what its request waits for, as long as the block runs."""
        progress, request_id = self._services.progress, self._plan.request.request_id
        return progress.during(request_id, describe) if self._stream else nullcontext()

    def begin(self) -> None:
        """Note that the first event of a stream has arrived."""
        self._first_byte = time.monotonic()
        self._services.circuits.answered(self.target.backend, self._plan.request.request_id)

    @property
    def age_ms(self) -> int:
        """Return how long ago the call began."""
        return round((time.monotonic() - self._started) * 1000)

    def complete(self, reply: Whole | Stream | None) -> None:
        """Free the place and note the end of the call.  Its record waits for `end`: the reply may be judged first."""
        if self._end is not None:
            return
        self._end = time.monotonic(), int(time.time() * 1000)
        self._notice_load(reply)
        if self._place is not None:
            self._services.places.release(self._place)

    def end(
        self,
        reply: Whole | Stream,
        outcome: Outcome = Outcome.OK,
        error: str | None = None,
        verdict: Verdict = _NOT_JUDGED,
    ) -> None:
        """End a call that had a reply."""
        facts, failed = reply.facts, outcome == Outcome.ERROR
        self._finish(
            Ending(outcome=outcome, error=error, finish=facts.finish, answer_chars=facts.chars, backend_failed=failed),
            reply,
            verdict,
        )

    def _finish(self, ending: Ending, reply: Whole | Stream | None = None, verdict: Verdict = _NOT_JUDGED) -> None:
        """Free the place and make the record.  Later calls of this method do nothing."""
        if self._finished:
            return
        self._finished = True
        self.complete(reply)
        assert self._end is not None
        (end, ts_ms), price = self._end, self._services.upstreams[self.target.backend].backend.config.price
        read, written = (reply.input_tokens, reply.output_tokens) if reply else (None, None)
        record = CallRecord(
            request_id=self._plan.request.request_id,
            kind=self._kind,
            surface=self._plan.request.surface,
            stream=self._stream,
            lane=self._lane,
            target=self.target,
            why=self.why,
            times=Times(
                ts_ms=ts_ms,
                latency_ms=round((end - self._started) * 1000),
                ttfb_ms=round((self._first_byte - self._started) * 1000) if self._first_byte else None,
                wait_ms=self._wait_ms,
                load_ms=self._load_ms,
            ),
            ending=ending,
            usage=Usage(read, written, price.cost_usd(read, written) if price else None),
            egress=self._egress,
            verdict=verdict,
            tags=self._plan.tags,
            basis=self._basis,
        )
        self._services.record(record)
        if self._is_sampled and reply is not None:
            self._services.shadows.offer(self._plan, record, reply, self._services)


def _load_ms(ms: float | None) -> int | None:
    """Return the ms of a load; None when the model was loaded already."""
    return round(ms) if ms is not None and ms >= _LEAST_LOAD_MS else None


def _forbidden(reason: str) -> PrivacyViolation:
    return PrivacyViolation(f"the request is private and this backend {reason}: not called")


class RecordedStream:
    """End the call when its stream ends, breaks or is closed."""

    def __init__(self, stream: Stream, call: Call) -> None:
        self.failure: str | None = None
        self._stream = stream
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._stream)
        except StopIteration:
            self._call.end(self._stream, verdict=self._verdict())
            raise
        except StreamInterrupted as error:
            self.failure = error.kind
            self._call.end(self._stream, Outcome.ERROR, error.kind, self._verdict(is_complete=False))
            raise
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the stream early, after a disconnect."""
        self._stream.close()
        self._call.end(self._stream, Outcome.CANCELLED, verdict=self._verdict(is_complete=False))

    def _verdict(self, *, is_complete: bool = True) -> Verdict:  # noqa: ARG002
        """Return the verdict on the answer for the record of the call: it is not judged."""
        return _NOT_JUDGED

"""Hold the reply of a backend: whole, or a stream that is still arriving."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from math import inf

from app.backends.failures import TRANSPORT_ERRORS, error_in_reply, transport_error
from app.backends.logprobs import CutResponse
from app.backends.response import Response
from app.errors import (
    BackendProtocol,
    BackendServerError,
    BackendTimeout,
    StreamInterrupted,
)
from app.redaction import redact
from app.types import BackendConfig, JsonObject, Wire
from app.wire import WIRES
from app.wire.answer import MOST_BYTES, Answer, Collector
from app.wire.error_document import error_fields
from app.wire.reply_facts import ReplyFacts

_MOST_REPLY_BYTES = 64 * 1024 * 1024
_MOST_BEFORE_FIRST_BYTES = 16 * 1024 * 1024  # comments, or an event that does not end
_DRAIN_S = 0.05  # the wait for the end of a body after its last event, so that the connection can be used again


class Whole:
    """Hold a whole reply: its bytes, and the same parsed."""

    def __init__(
        self, body: bytes, document: JsonObject, wire: Wire = Wire.CHAT, logprobs: tuple[float, ...] = ()
    ) -> None:
        """Take the log-probabilities that were cut out of the body."""
        reading = WIRES[wire].read(document)
        self.logprobs = logprobs
        self.body = body
        self.document = document
        self.wire = wire
        self.input_tokens, self.output_tokens = reading.input_tokens, reading.output_tokens
        self.facts = reading.facts
        self.lack = reading.lack
        self.finish_failure = reading.failure

    @property
    def answer(self) -> Answer | None:
        """Return the answer; None when it is too long to be judged."""
        if len(self.body) > MOST_BYTES:
            return None
        answer = WIRES[self.wire].answer(self.document)
        return dataclasses.replace(answer, logprobs=self.logprobs or answer.logprobs)

    def collect(self) -> None:
        """Do nothing: the answer is in the document."""

    def close(self) -> None:
        """Do nothing: the connection was returned already."""


class NothingYet(Exception):
    """Report that a stream has sent nothing new until a deadline."""


class StoredDocument(Whole):
    """Hold a stored response of a backend.  Its usage is that of the call that created it."""

    def __init__(self, body: bytes, document: JsonObject, wire: Wire = Wire.RESPONSES) -> None:
        self.body = body
        self.document = document
        self.wire = wire
        self.logprobs = ()
        self.input_tokens = self.output_tokens = None
        self.facts = ReplyFacts()


class Stream:
    """Iterate over the bytes of a stream as they arrive, with the end that its wire form needs.  Raise
    StreamInterrupted when the stream breaks.  `close()` before the end closes the connection, so that the backend
    stops generating.  This is no generator, because closing a generator that never started does not run its
    `finally`.
    """

    def __init__(
        self,
        response: Response | CutResponse,
        config: BackendConfig,
        key: str,
        *,
        wire: Wire = Wire.CHAT,
        private: bool = False,
        first_pieces: Sequence[bytes] = (),
    ) -> None:
        """Take the pieces that were read of the body already in `first_pieces`.  Errors of a private request contain
        no text of the backend."""
        self.wire = wire
        self._response = response
        self._config = config
        self._key = key
        self._private = private
        self._watch = WIRES[wire].watch()
        self.collector: Collector | None = None  # of the answer, while the stream passes
        self._pieces = [*first_pieces]  # read before the stream was returned
        self._is_over = False
        for piece in first_pieces:
            self._watch.feed(piece)

    @property
    def input_tokens(self) -> int | None:
        return self._watch.input_tokens

    @property
    def output_tokens(self) -> int | None:
        return self._watch.output_tokens

    @property
    def logprobs(self) -> tuple[float, ...]:
        """Return the log-probabilities that were cut out until now."""
        return self._response.logprobs if isinstance(self._response, CutResponse) else ()

    @property
    def facts(self) -> ReplyFacts:
        return self._watch.facts

    @property
    def has_end(self) -> bool:
        """Return True when the event that ends the stream has arrived."""
        return self._watch.has_end

    def collect(self) -> None:
        """Collect the answer while the stream passes.  Call this before the first piece is taken."""
        self.collector = WIRES[self.wire].collect()
        for piece in self._pieces:
            self.collector.feed(piece)

    @property
    def answer(self) -> Answer | None:
        """Return the answer that was collected until now; None when it was not, or when it is too long."""
        if self.collector is None or self.collector.is_full:
            return None
        answer = self.collector.answer
        return dataclasses.replace(answer, logprobs=self.logprobs or answer.logprobs)

    def wait_for_first(self, deadline: float, model: str = "") -> None:
        """Read until the first event that is no comment.  Raise BackendError when it is an error, when there is
        none, or when it has not arrived by `deadline` (monotonic seconds).  `model` replies."""
        watch, size = self._watch, 0
        while not watch.has_event:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise BackendTimeout("sent no event in time")
            try:
                piece = self._response.read(remaining_s)
            except TRANSPORT_ERRORS as error:
                raise transport_error(error, self._config) from None
            self._pieces.append(piece)
            size += len(piece)
            if size > _MOST_BEFORE_FIRST_BYTES:
                raise BackendProtocol(f"sent {_MOST_BEFORE_FIRST_BYTES} bytes without an event")
            watch.feed(piece)
            if not piece:
                watch.end()
                break
        if watch.error is not None:
            text = "answered with an error event"
            raise error_in_reply(watch.error, text, kind="error_event", key=self._key, model=model)
        if watch.failure:
            raise BackendServerError(failed_finish(watch.failure), kind="gave_up")
        if not watch.has_event:
            raise BackendProtocol("ended its stream without an event")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        return self.next_before(inf)

    def next_before(self, deadline: float) -> bytes:
        """Return the next piece.  Raise NothingYet when none has arrived by `deadline` (monotonic seconds): no byte is
        lost then, and the next call goes on."""
        if self._is_over:
            raise StopIteration
        if self._pieces:
            piece = b"".join(self._pieces)
            self._pieces.clear()
            return piece
        self._check()
        if self._watch.has_end:
            self._keep_connection()
            raise StopIteration
        within_s = min(self._config.timeouts.idle_s, deadline - time.monotonic())
        try:
            piece = self._response.read(within_s)
        except TRANSPORT_ERRORS as error:
            if isinstance(error, TimeoutError) and time.monotonic() >= deadline:
                raise NothingYet from None
            problem = transport_error(error, self._config)
            raise self._broken(f"the backend's stream broke: {problem.message}", problem.kind) from None
        self._watch.feed(piece)
        if self.collector is not None:
            self.collector.feed(piece)
        if not piece:
            return self._ending()
        if self._watch.error is not None or self._watch.failure:
            piece = self._watch.before_failure(piece)
        return piece or self.next_before(deadline)

    def _check(self) -> None:
        """Raise StreamInterrupted when an event says that the reply failed."""
        watch = self._watch
        if watch.error is not None:
            message, more = "the backend reported an error in its stream", {}
            if not watch.error_visible and not self._private:
                more = {name: redact(text, (self._key,)) for name, text in error_fields(watch.error).items() if text}
                message = more.pop("message", message)
            raise self._broken(message, "error_event", error_visible=watch.error_visible, **more)
        if watch.failure:
            raise self._broken(f"the backend {failed_finish(watch.failure)}", "gave_up")

    def close(self) -> None:
        self._is_over = True
        self._pieces.clear()
        self._response.close()

    def _ending(self) -> bytes:
        """Return the bytes that are missing at the end of the body.  Raise StreamInterrupted when the reply is not
        complete."""
        self._watch.end()
        self._check()
        if not self._watch.ended_well:
            raise self._broken("the backend ended its stream before the answer was complete", "truncated")
        self._is_over = True
        return self._watch.closing

    def _keep_connection(self) -> None:
        """Read the end of the body when it has arrived, so that the connection can be used again."""
        self._is_over = True
        with contextlib.suppress(*TRANSPORT_ERRORS):
            self._response.read(_DRAIN_S)
        self._response.close()

    def _broken(self, message: str, kind: str, *, error_visible: bool = False, **more: str) -> StreamInterrupted:
        self.close()
        return StreamInterrupted(message, kind=kind, error_visible=error_visible, **more)


def failed_finish(reason: str) -> str:
    """Return the message for a reply that ended with the finish reason of a failure."""
    return f"gave its answer up (finish_reason {reason[:40]!r})"


def first_bytes(response: Response, deadline: float, config: BackendConfig) -> list[bytes]:
    """Return the first piece of a body that is more than white space.  Raise BackendError."""
    pieces: list[bytes] = []
    while sum(map(len, pieces)) <= _MOST_BEFORE_FIRST_BYTES:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            raise BackendTimeout("sent no event in time")
        try:
            piece = response.read(remaining_s)
        except TRANSPORT_ERRORS as error:
            raise transport_error(error, config) from None
        pieces.append(piece)
        if not piece or piece.strip():
            break
    return pieces


def read_body(response: Response, timeout_s: float, first_pieces: Sequence[bytes] = (), deadline: float = inf) -> bytes:
    """Return the whole body, decoded; `first_pieces` were read already.  `timeout_s` bounds each wait, `deadline`
    (monotonic seconds) all of them.  Raise transport errors, and BackendProtocol for a body that does not end."""
    pieces, size = [*first_pieces], sum(map(len, first_pieces))
    while piece := response.read(min(timeout_s, deadline - time.monotonic())):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_REPLY_BYTES:
            raise BackendProtocol(f"answered with more than {_MOST_REPLY_BYTES} bytes")
    return b"".join(pieces)

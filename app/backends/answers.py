"""What a backend's open connection yields: a whole answer, or a stream that is still coming."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from app.backends.failures import TRANSPORT_ERRORS, said, transport_error
from app.backends.response import Response
from app.errors import BackendProtocol, BackendServerError, BackendTimeout, StreamInterrupted
from app.types import BackendConfig
from app.wire import chat
from app.wire.answer_facts import AnswerFacts, of_completion, of_response
from app.wire.chat_stream import StreamWatch
from app.wire.responses_native import ResponsesWatch, native_usage

_MAX_ANSWER_BYTES = 64 * 1024 * 1024
_MOST_BEFORE_FIRST_BYTES = 16 * 1024 * 1024  # comments, or an event that does not end
_DRAIN_S = 0.05  # wait for the end of a body whose last event has come, so that its connection can be kept


class Whole:
    """A buffered answer: its bytes, and the same parsed.  `native`: a Response object instead of a completion."""

    def __init__(self, body: bytes, document: Mapping[str, Any], *, native: bool = False) -> None:
        self.body = body
        self.document = document
        self.native = native
        self.input_tokens, self.output_tokens = (native_usage if native else chat.usage_of)(document)
        self.facts = (of_response if native else of_completion)(document)

    def close(self) -> None:
        """Nothing is open any more."""


class Stream:
    """Iterates over a stream's bytes as they arrive; a chat stream ends with `[DONE]`.  `native`: Responses events.

    Raises StreamInterrupted when the stream breaks.  `close()` before the end closes the connection, so that the
    backend stops generating.  Not a generator: closing one that was never started would not run its `finally`.
    """

    def __init__(self, response: Response, config: BackendConfig, key: str, *, native: bool = False) -> None:
        self.native = native
        self._response = response
        self._config = config
        self._key = key
        self._watch = ResponsesWatch() if native else StreamWatch()
        self._held: list[bytes] = []  # read before the stream was handed out
        self._over = False

    @property
    def input_tokens(self) -> int | None:
        return self._watch.input_tokens

    @property
    def output_tokens(self) -> int | None:
        return self._watch.output_tokens

    @property
    def facts(self) -> AnswerFacts:
        return self._watch.facts

    def wait_for_first(self, deadline: float) -> None:
        """Reads until the first event, comments aside.  Raises BackendError when it is an error, when there is
        none, or when it has not come by `deadline` (monotonic seconds)."""
        watch, size = self._watch, 0
        while not watch.begun:
            left = deadline - time.monotonic()
            if left <= 0:
                raise BackendTimeout("sent no event in time")
            try:
                piece = self._response.read(left)
            except TRANSPORT_ERRORS as error:
                raise transport_error(error, self._config) from None
            self._held.append(piece)
            size += len(piece)
            if size > _MOST_BEFORE_FIRST_BYTES:
                raise BackendProtocol(f"sent {_MOST_BEFORE_FIRST_BYTES} bytes without an event")
            watch.feed(piece)
            if not piece:
                watch.end()
                break
        if watch.error is not None:
            text = said(watch.error, self._key)
            raise BackendServerError("answered with an error event", kind="error_event", said=text)
        if not watch.begun:
            raise BackendProtocol("ended its stream without an event")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        if self._over:
            raise StopIteration
        if self._held:
            piece = b"".join(self._held)
            self._held.clear()
            return piece
        if self._watch.error is not None:
            raise self._broken("the backend reported an error in its stream", "error_event", told=True)
        if self._watch.done:
            self._keep_connection()
            raise StopIteration
        try:
            piece = self._response.read(self._config.timeouts.idle_s)
        except TRANSPORT_ERRORS as error:
            problem = transport_error(error, self._config)
            raise self._broken(f"the backend's stream broke: {problem.message}", problem.kind) from None
        self._watch.feed(piece)
        return piece or self._ending()

    def close(self) -> None:
        self._over = True
        self._held.clear()
        self._response.close()

    def _ending(self) -> bytes:
        """The body is over without `[DONE]`: adds it behind a finish_reason, else the answer was cut."""
        unclosed = self._watch.end()
        if self._watch.error is not None:
            raise self._broken("the backend reported an error in its stream", "error_event", told=True)
        if not self._watch.ended_well:
            raise self._broken("the backend ended its stream before the answer was complete", "truncated")
        self._over = True
        end_mark = b"\n\n" if unclosed else b""
        return end_mark if self._watch.done else end_mark + self._watch.closing

    def _keep_connection(self) -> None:
        """Reads the end of the body when it is there at once: then the connection is kept."""
        self._over = True
        with contextlib.suppress(*TRANSPORT_ERRORS):
            self._response.read(_DRAIN_S)
        self._response.close()

    def _broken(self, message: str, kind: str, *, told: bool = False) -> StreamInterrupted:
        self.close()
        return StreamInterrupted(message, kind=kind, told=told)


def read_body(response: Response, timeout_s: float) -> bytes:
    """The whole body, decoded; `timeout_s` bounds each wait.  Raises transport errors, and BackendProtocol for one
    that does not end."""
    pieces, size = [], 0
    while piece := response.read(timeout_s):
        pieces.append(piece)
        size += len(piece)
        if size > _MAX_ANSWER_BYTES:
            raise BackendProtocol(f"answered with more than {_MAX_ANSWER_BYTES} bytes")
    return b"".join(pieces)

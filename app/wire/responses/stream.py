"""Write a chat stream as Responses events, and read the events that a backend wrote."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from app import finish
from app.errors import StreamInterrupted
from app.types import JsonDict, JsonObject
from app.wire import sse
from app.wire.chat.reply import first_choice, message_of
from app.wire.chat.stream import StreamWatch
from app.wire.error_document import error_in, error_of
from app.wire.responses.assembler import Assembler
from app.wire.responses.errors import ErrorFields, backend_error
from app.wire.responses.items import Event
from app.wire.responses.reply import read_reply, response_object, usage_object
from app.wire.responses.request import ResponsesRequest


class EventStream:
    """Write one streamed Response.

    `begin`, then `feed` for each chunk, then `finish` or `fail`; each returns the bytes to send, one entry an event.
    After the end they return nothing.
    """

    def __init__(
        self,
        request: ResponsesRequest,
        *,
        response_id: str,
        created_at: int,
        model: str,
        new_id: Callable[[str], str],
        clock: Callable[[], float],
        settle: Callable[[JsonDict], None] | None = None,
    ) -> None:
        """Take `settle`, which is called with the final object before it is sent, and may change it (not with the
        object of a failure). `new_id` creates an id with a prefix, `clock` returns Unix time."""
        self._response = partial(response_object, request, response_id=response_id, created_at=created_at, model=model)
        self._clock = clock
        self._settle = settle
        self._items = Assembler(request, new_id)
        self._sequence = 0
        self._is_open = False
        self._finish_reason = ""
        self._done_seen = False
        self._usage: JsonDict | None = None
        self.closed = False
        self.response: JsonDict | None = None  # the final object, to be stored; None when failed

    @property
    def ended_cleanly(self) -> bool:
        """Return True when the backend marked its reply as complete."""
        return bool(self._finish_reason) or self._done_seen

    def begin(self) -> list[bytes]:
        """Return the first events, once the backend has accepted the request."""
        if self._is_open:
            return []
        self._is_open = True
        response = self._response(status="in_progress")
        return self._encode([{"type": f"response.{name}", "response": response} for name in ("created", "in_progress")])

    def feed(self, chunk: JsonObject, event: bytes = b"") -> list[bytes]:
        """Return the events for one parsed chat chunk; `event` is the name of the event that it came in."""
        if self.closed:
            return []
        if error_of(chunk, event) is not None:
            return self._fail_with(backend_error(chunk))
        choice = first_choice(chunk)
        delta = choice.get("delta")
        return self._feed(chunk, choice, delta if isinstance(delta, Mapping) else {})

    def feed_document(self, chat: JsonObject) -> list[bytes]:
        """Return the events for a whole chat reply, from a backend that ignored `stream: true`.  Call `finish` after
        it."""
        if self.closed:
            return []
        if error_of(chat) is not None:
            return self.feed(chat)
        choice_and_message = message_of(chat)
        if choice_and_message is None:
            return self.fail("The backend's answer holds no message.")
        self._done_seen = True
        return self._feed(chat, *choice_and_message)

    def done(self) -> None:
        """Note that the backend sent `[DONE]`."""
        self._done_seen = True

    def finish(self) -> list[bytes]:
        """Return the events for the end of the backend's body: the terminal event, or a failure if the reply is not
        whole."""
        if self.closed:
            return []
        if not self.ended_cleanly:
            return self.fail("The backend's stream ended before its answer was whole.", code="stream_interrupted")
        if finish.is_failure(self._finish_reason):
            return self.fail(f"The backend gave its answer up (finish_reason {self._finish_reason[:40]!r}).")
        reason = finish.cut_of(self._finish_reason)
        self._items.finish(cut=reason is not None)
        if self._items.problem:
            return self.fail(f"The answer cannot be used: {self._items.problem}.")
        status = "incomplete" if reason else "completed"
        self.response = self._response(
            status=status, output=self._items.output, usage=self._usage, reason=reason, completed_at=int(self._clock())
        )
        if self._settle is not None:
            self._settle(self.response)
        return self._end([{"type": f"response.{status}", "response": self.response}])

    def fail(
        self, message: str, type: str | None = None, code: str | None = None, param: str | None = None
    ) -> list[bytes]:
        """Return the events for a failure after the stream began: no completed response follows."""
        if self.closed:
            return []
        self._items.abandon()
        type = type or "server_error"
        error = {"type": type, "code": code or type, "message": message or "The backend failed.", "param": param}
        flat = {name: error[name] for name in ("code", "message", "param")}
        short = {name: error[name] for name in ("code", "message")}
        response = self._response(status="failed", output=self._items.output, usage=self._usage, error=short)
        return self._end([{"type": "error", **flat, "error": error}, {"type": "response.failed", "response": response}])

    def _fail_with(self, fields: ErrorFields) -> list[bytes]:
        return self.fail(fields.get("message") or "", fields.get("type"), fields.get("code"), fields.get("param"))

    def _feed(self, chunk: JsonObject, choice: JsonObject, delta: JsonObject) -> list[bytes]:
        self._usage = usage_object(chunk.get("usage")) or self._usage
        self._finish_reason = finish.reason_of(choice.get("finish_reason")) or self._finish_reason
        self._items.read(delta, choice.get("logprobs"))
        events = self.begin() + self._encode(self._items.take())
        if self._items.problem:
            events += self.fail(f"The answer cannot be used: {self._items.problem}.")
        return events

    def _end(self, terminal: list[Event]) -> list[bytes]:
        events = self.begin() + self._encode([*self._items.take(), *terminal])
        self.closed = True
        return [*events, sse.DONE]

    def _encode(self, events: list[Event]) -> list[bytes]:
        encoded = []
        for event in events:
            kind = event.pop("type")
            numbered = {"type": kind, "sequence_number": self._sequence, **event}
            encoded.append(sse.event(numbered, kind))
            self._sequence += 1
        return encoded


def translate(chunks: Iterable[bytes], stream: EventStream) -> Iterator[bytes]:
    """Yield the client's bytes for the bytes of a chat stream.  A stream that breaks ends in a failure event.

    Everything is read, also after the end, so that the body of `chunks` is read to its end.
    """
    splitter = sse.Splitter()
    yield b"".join(stream.begin())
    try:
        for chunk in chunks:
            yield from _translate_events(splitter.feed(chunk), stream)
            if splitter.oversized:  # from here on, a part is missing
                yield from _joined(stream.fail("The backend sent an event that is too long."))
        yield from _translate_events(splitter.flush(), stream)
    except StreamInterrupted as error:
        if not stream.ended_cleanly:  # when a connection breaks after a complete reply, nothing is lost
            yield from _joined(stream.fail(error.message, error.type, error.code, error.param))
    yield from _joined(stream.finish())


def _translate_events(events: Iterable[bytes], stream: EventStream) -> Iterator[bytes]:
    for event in events:
        name, data = sse.read(event)
        if name == b"error":
            yield from _joined(stream.feed(error_in(name, data) or {}, name))
        elif data is None:  # a comment keeps the client's connection alive
            if event.startswith(b":") and not stream.closed:
                yield sse.KEEP_ALIVE
        elif data.strip() == b"[DONE]":
            stream.done()
            yield from _joined(stream.finish())
        elif (chunk := sse.json_of(data)) is not None:
            yield from _joined(stream.feed(chunk))


def _joined(events: list[bytes]) -> Iterator[bytes]:
    """Yield the events of one chunk as one piece to send."""
    if events:
        yield b"".join(events)


_ENDS = ("response.completed", "response.incomplete", "response.failed")
_WORDS = (*(end.encode() for end in _ENDS), b'"error"')


class ResponsesWatch(StreamWatch):
    """Read Responses events while they pass through (implements form.Watch)."""

    closing = b""  # nothing is added to a complete body

    def _read(self, event: bytes) -> None:
        name, data = sse.read(event)
        if data is None or data.strip() == b"[DONE]":
            if name == b"error":
                self._fail(event, name, b"")
            return
        first, self.has_event = not self.has_event, True
        if not (first or name == b"error" or b'"response.' not in data or any(word in data for word in _WORDS)):
            return  # only relevant events are parsed
        document = sse.json_of(data) or {}
        kind = document.get("type")
        if kind in _ENDS:
            self.has_end = True
            response = document.get("response")
            self._end(event, str(kind), response if isinstance(response, Mapping) else {})
        else:
            self._fail(event, name, data)

    def _fail(self, event: bytes, name: bytes, data: bytes) -> None:
        if (error := error_in(name, data)) is not None:
            self.has_event = True
            self.error, self.error_event = error, event
            self.error_visible = error.get("type") == "error" or bool(error.get("error"))

    def _end(self, event: bytes, kind: str, response: JsonObject) -> None:
        if kind == "response.failed" and self.error is None:
            self.error = {"error": response.get("error") or {"message": "the response failed"}}
            self.error_event, self.error_visible = event, True
        reading = read_reply(response)
        self.input_tokens, self.output_tokens, self.facts = reading.input_tokens, reading.output_tokens, reading.facts


def response_in(event: bytes, *, ends_only: bool) -> JsonObject | None:
    """Return the Response that an event holds; None when it holds none.  With `ends_only` only terminal events are
    parsed."""
    if ends_only and not any(end.encode() in event for end in _ENDS):
        return None
    document = sse.json_of(sse.data_of(event) or b"") or {}
    response = document.get("response")
    return response if isinstance(response, Mapping) and isinstance(response.get("id"), str) else None

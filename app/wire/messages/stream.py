"""Write a chat stream as the events of a message."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from app import finish
from app.errors import BackendProtocol, RouterError, StreamInterrupted
from app.types import JsonDict, JsonObject
from app.wire import sse
from app.wire.chat.reply import first_choice
from app.wire.error_document import error_in, error_of
from app.wire.messages.errors import error_event
from app.wire.messages.reply import blocks_for, message_object, stop_of, usage_object
from app.wire.messages.request import MessagesRequest
from app.wire.reply_facts import objects_in, text_of
from app.wire.responses.errors import backend_error
from app.wire.translator import ReplyContext

Event = JsonDict
PING = sse.event({"type": "ping"}, "ping")


class MessageStream:
    """Write one streamed message: `begin`, then `feed` for each chunk, then `finish` or `fail`; each returns the
    bytes to send.  After the end they return nothing."""

    def __init__(self, request: MessagesRequest, context: ReplyContext) -> None:
        self._request = request
        self._context = context
        self._blocks = blocks_for(request, context)
        self._is_open = False
        self._reason = ""  # the finish reason
        self._matched: object = None
        self._is_refused = False
        self._is_done = False
        self._usage: object = None
        self.closed = False

    @property
    def ended_cleanly(self) -> bool:
        """Return True when the backend marked its reply as complete."""
        return bool(self._reason) or self._is_done

    def begin(self) -> bytes:
        """Return the first event, once the backend has accepted the request."""
        if self._is_open:
            return b""
        self._is_open = True
        message = {
            **message_object(self._context),
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_object(None, self._context.input_tokens),
        }
        return _encoded([{"type": "message_start", "message": message}])

    def feed(self, chunk: JsonObject, event: bytes = b"") -> bytes:
        """Return the events for one parsed chunk; `event` is the name of the event that it came in."""
        if self.closed:
            return b""
        if error_of(chunk, event) is not None:
            return self.fail(BackendProtocol(backend_error(chunk).get("message") or "The backend failed."))
        choice = first_choice(chunk)
        delta = choice.get("delta")
        return self.read(chunk, choice, delta if isinstance(delta, Mapping) else {})

    def read(self, chunk: JsonObject, choice: JsonObject, delta: JsonObject) -> bytes:
        """Return the events for one delta."""
        self._usage = chunk.get("usage") or self._usage
        self._reason = finish.reason_of(choice.get("finish_reason")) or self._reason
        self._matched = choice.get("stop_reason") or self._matched
        self._is_refused = self._is_refused or bool(delta.get("refusal"))
        self._blocks.read(delta)
        events = self.begin() + _encoded(self._blocks.take())
        return events + self._unusable() if self._blocks.problem else events

    def done(self) -> None:
        """Note that the backend sent `[DONE]`."""
        self._is_done = True

    def finish(self) -> bytes:
        """Return the events for the end of the backend's body, or the failure of a reply that is not whole."""
        if self.closed:
            return b""
        if not self.ended_cleanly:
            return self.fail(BackendProtocol("The backend's stream ended before its answer was whole."))
        if finish.is_failure(self._reason):
            return self.fail(BackendProtocol(f"The backend gave its answer up (finish_reason {self._reason[:40]!r})."))
        self._blocks.finish(cut=finish.cut_of(self._reason) is not None)
        if self._blocks.problem:
            return self._unusable()
        end = stop_of(
            self._reason,
            self._matched,
            self._request.stop,
            has_calls=self._blocks.has_calls,
            refused=self._is_refused,
        )
        usage = usage_object(self._usage, self._context.input_tokens)
        events = self.begin() + _encoded(
            [*self._blocks.take(), {"type": "message_delta", "delta": end, "usage": usage}, {"type": "message_stop"}]
        )
        self.closed = True
        return events

    def fail(self, error: RouterError) -> bytes:
        """Return the event for a failure after the stream began."""
        if self.closed:
            return b""
        self.closed = True
        return error_event(error)

    def _unusable(self) -> bytes:
        return self.fail(BackendProtocol(f"The answer cannot be used: {self._blocks.problem}."))


_NOTHING: JsonObject = {}
_EMPTY: Mapping[str, JsonObject] = {
    "text": {"text": ""},
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
}


def whole_as_events(message: JsonObject) -> bytes:
    """Return a whole message as the events of a stream."""
    head = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    events: list[Event] = [{"type": "message_start", "message": head}]
    for index, block in enumerate(objects_in(message.get("content"))):
        start = {**block, **_EMPTY.get(str(block.get("type")), _NOTHING)}
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in _deltas(block)]
        events.append({"type": "content_block_stop", "index": index})
    end = {name: message.get(name) for name in ("stop_reason", "stop_sequence")}
    usage = message.get("usage")
    return _encoded([*events, {"type": "message_delta", "delta": end, "usage": usage or {}}, {"type": "message_stop"}])


def _deltas(block: JsonObject) -> Iterator[JsonDict]:
    kind = block.get("type")
    if kind == "tool_use":
        yield {"type": "input_json_delta", "partial_json": json.dumps(block.get("input") or {})}
    elif kind in ("text", "thinking"):
        yield {"type": f"{kind}_delta", kind: text_of(block.get(kind))}
        if kind == "thinking":
            yield {"type": "signature_delta", "signature": text_of(block.get("signature"))}


def _encoded(events: list[Event]) -> bytes:
    return b"".join(sse.event(event, event["type"]) for event in events)


def translate(pieces: Iterable[bytes], stream: MessageStream) -> Iterator[bytes]:
    """Yield the client's bytes for the bytes of a chat stream.  A stream that breaks ends in an error event.

    Everything is read, also after the end, so that the body of `pieces` is read to its end.
    """
    splitter = sse.Splitter()
    yield stream.begin()
    try:
        for piece in pieces:
            yield from _translated(splitter.feed(piece), stream)
            if splitter.oversized:  # from here on, a part is missing
                yield stream.fail(BackendProtocol("The backend sent an event that is too long."))
        yield from _translated(splitter.flush(), stream)
    except StreamInterrupted as error:
        if not stream.ended_cleanly:  # when a connection breaks after a complete reply, nothing is lost
            yield stream.fail(error)
    yield stream.finish()


def _translated(events: Iterable[bytes], stream: MessageStream) -> Iterator[bytes]:
    for event in events:
        name, data = sse.read(event)
        if name == b"error":
            yield stream.feed(error_in(name, data) or {}, name)
        elif data is None:  # a comment keeps the client's connection alive
            if event.startswith(b":") and not stream.closed:
                yield PING
        elif data.strip() == b"[DONE]":
            stream.done()
            yield stream.finish()
        elif (chunk := sse.json_of(data)) is not None:
            yield stream.feed(chunk)

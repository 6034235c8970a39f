"""Read a streamed reply of /api/chat (JSON lines), and write it as chat events."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from app.types import JsonDict, JsonObject, Wire
from app.wire import sse
from app.wire.ollama.errors import error_of
from app.wire.ollama.reply import (
    chars_of,
    failure_of,
    finish_reason,
    has_calls,
    head,
    load_ms,
    message_of,
    tokens_of,
    usage,
)
from app.wire.reply_facts import ReplyFacts
from app.wire.translator import ReplyContext

_MOST_LINE_BYTES = 16 * 1024 * 1024


class Lines:
    """Split a byte stream into JSON objects, one a line; a piece may end anywhere."""

    def __init__(self) -> None:
        self._open = bytearray()

    def feed(self, piece: bytes) -> list[JsonDict]:
        """Return the objects whose lines `piece` ends.  A line that is no JSON object, or that does not end within 16
        MiB, is an error of the server."""
        self._open += piece
        if b"\n" not in piece:
            if len(self._open) <= _MOST_LINE_BYTES:
                return []
            self._open.clear()
            return [{"error": "the server sent a line that is too long"}]
        *lines, rest = self._open.split(b"\n")
        self._open = bytearray(rest)
        return [_object(bytes(line)) for line in lines if line.strip()]

    def end(self) -> list[JsonDict]:
        """Return the object of a last line without an end."""
        line, self._open = bytes(self._open), bytearray()
        return [_object(line)] if line.strip() else []


def _object(line: bytes) -> JsonDict:
    document = sse.json_of(line)
    return {"error": "the server sent a line that is no JSON object"} if document is None else document


class StreamWatch:
    """Read a stream while its bytes pass through unchanged (implements form.Watch)."""

    closing = b""  # no bytes are needed: the last line is marked as the last

    def __init__(self) -> None:
        self._lines = Lines()
        self._has_calls = False
        self.facts = ReplyFacts()
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None
        self.has_event = False
        self.has_end = False
        self.error: JsonObject | None = None
        self.error_visible = False  # clients of other APIs do not recognise an error of this API
        self.failure = ""

    @property
    def ended_well(self) -> bool:
        return self.has_end and self.error is None and not self.failure

    def feed(self, piece: bytes) -> None:
        for document in self._lines.feed(piece):
            self._read(document)

    def end(self) -> None:
        for document in self._lines.end():
            self._read(document)

    def before_failure(self, piece: bytes) -> bytes:
        """Return the whole lines before the failure."""
        lines = [*takewhile(self._passes, piece.splitlines(keepends=True))]
        return b"".join(lines)

    def _passes(self, line: bytes) -> bool:
        document = sse.json_of(line)
        return document is not None and not document.get("error") and not (self.failure and document.get("done"))

    def _read(self, document: JsonObject) -> None:
        if document.get("error"):
            self.has_event = True
            self.error = {"error": error_of(document)}
            return
        is_part = isinstance(document.get("message"), Mapping) or bool(document.get("done"))
        self.has_event = self.has_event or is_part
        self._has_calls = self._has_calls or has_calls(document)
        self.facts.chars += chars_of(document)
        if document.get("done"):
            self.has_end = True
            self.facts.finish = finish_reason(document, calls=self._has_calls)
            self.facts.load_ms = load_ms(document)
            self.failure = failure_of(document)
            self.input_tokens, self.output_tokens = tokens_of(document)


class ChatEvents:
    """Write the lines of one reply as chat events."""

    def __init__(self, context: ReplyContext) -> None:
        self._context = context
        self._head = {**head(context), "object": "chat.completion.chunk"}
        self._call_count = 0
        self._role_sent = False

    def feed(self, document: JsonObject) -> bytes:
        """Return the events for one line; after the last one the stream is over."""
        message, calls = message_of(document, self._context, self._call_count)
        self._call_count += len(calls)
        delta: JsonDict = {} if self._role_sent else {"role": "assistant"}
        delta |= {"content": message["content"]} if message.get("content") else {}
        delta |= {"reasoning": message["thinking"]} if message.get("thinking") else {}
        delta |= {"tool_calls": calls} if calls else {}
        logprobs = {"logprobs": {"content": document["logprobs"]}} if document.get("logprobs") else {}
        events = b""
        if delta or logprobs:
            self._role_sent = True
            events = self._chunk([{"index": 0, "delta": delta, **logprobs, "finish_reason": None}])
        return events + self._end(document) if document.get("done") else events

    def _end(self, document: JsonObject) -> bytes:
        reason = finish_reason(document, calls=self._call_count > 0)
        events = self._chunk([{"index": 0, "delta": {}, "finish_reason": reason}])
        if _wants_usage(self._context):
            events += self._chunk([], usage=usage(document))
        return events + sse.DONE

    def _chunk(self, choices: list[JsonDict], **members: object) -> bytes:
        return sse.event({**self._head, "choices": choices, **members})


def _wants_usage(context: ReplyContext) -> bool:
    """Return True when a chunk with the usage is sent: chat clients must ask for it, all other clients get it."""
    options = context.body.chat.get("stream_options")
    is_requested = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return is_requested or context.body.wire is not Wire.CHAT

"""What a chat stream says about itself, read from the side while its bytes pass through unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.wire import finish, sse
from app.wire.chat.reply import usage_of
from app.wire.error_document import error_in
from app.wire.reply_facts import ReplyFacts

# An event longer than this passes through unread; no usage or error event comes near it.
_MAX_READ_BYTES = 4 * 1024 * 1024


class StreamWatch:
    """Notes what an operator and a fallback need to know: first event, error, usage, normal end."""

    closing = sse.DONE  # added to a body that ends well without it

    def __init__(self) -> None:
        self._splitter = sse.Splitter(_MAX_READ_BYTES)
        self.begun = False  # an event with data has come
        self.done = False  # `[DONE]` has come
        self.facts = ReplyFacts()
        self.error: Mapping[str, Any] | None = None  # the document of an error event
        self.error_event = b""  # its bytes
        self.error_told = False  # clients take it for an error too
        self.gave_up = ""  # a finish_reason that says so: the answer is not whole
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    @property
    def ended_well(self) -> bool:
        """A missing `[DONE]` behind a finish_reason is still a normal end; an end with neither is a cut."""
        return self.error is None and not self.gave_up and (self.done or self.finished)

    @property
    def end_mark(self) -> bytes:
        """The bytes that end the open event; none when no event is open."""
        return self._splitter.end_mark

    @property
    def finished(self) -> bool:
        """A finish_reason that says something has come."""
        return self.facts.finish is not None

    def feed(self, chunk: bytes) -> None:
        for event in self._splitter.feed(chunk):
            self._read(event)
        if self._splitter.oversized:
            self.begun = True

    def end(self) -> bool:
        """The body is over: reads a last event whose end mark is missing.  True when there was one."""
        events = self._splitter.flush()
        for event in events:
            self._read(event)
        return bool(events)

    def _read(self, event: bytes) -> None:
        name, data = sse.read(event)
        if data is None:
            if name == b"error":
                self._fail(event, name, b"")
            return
        if data.strip() == b"[DONE]":
            self.done = True
            return
        self.begun = True
        self.facts.add(data)
        if self.facts.finish and finish.is_failure(self.facts.finish):
            self.gave_up = self.gave_up or finish.failure_in(sse.json_of(data))
        # Only the few events that can matter are parsed: a part of an answer holds choices.
        if name == b"error" or b'"error"' in data or b'"choices"' not in data:
            self._fail(event, name, data)
        if b'"usage"' in data and (document := sse.json_of(data)) and (usage := usage_of(document)) != (None, None):
            self.input_tokens, self.output_tokens = usage

    def _fail(self, event: bytes, name: bytes, data: bytes) -> None:
        """Note the error in an event, when there is one."""
        if (error := error_in(name, data)) is not None:
            self.begun = True
            self.error, self.error_event, self.error_told = error, event, bool(error.get("error"))

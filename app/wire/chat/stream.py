"""Read a chat stream while its bytes pass through unchanged."""

from __future__ import annotations

import re

from app import finish
from app.types import JsonObject
from app.wire import sse
from app.wire.chat.reply import read_reply, usage_of
from app.wire.error_document import error_in
from app.wire.reply_facts import REFUSAL, ReplyFacts, word_of

# A longer event passes through unread; usage and error events are much shorter.
_MAX_READ_BYTES = 4 * 1024 * 1024
# Possessive, and so linear in the event.  Quotes inside a JSON text are escaped: no text can look like a member.
_MEMBER = re.compile(
    rb'"(content|text|arguments|refusal|finish_reason)"\s*+:\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)', re.DOTALL
)
_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_LAST_DONE = re.compile(rb"^data: ?\[DONE\].*\Z", re.MULTILINE | re.DOTALL)


class StreamWatch:
    """Note the first event, an error, the usage and a normal end (implements form.Watch)."""

    last_event = sse.DONE  # ends a stream; some servers omit it

    def __init__(self) -> None:
        self._splitter = sse.Splitter(_MAX_READ_BYTES)
        self._missing_mark = b""  # of the last event of the body
        self._error_event = b""
        self.has_event = False
        self.has_end = False
        self.facts = ReplyFacts()
        self._has_refusal = False
        self.error: JsonObject | None = None
        self.error_visible = False
        self.failure = ""  # a finish_reason that means a failure
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    @property
    def ended_well(self) -> bool:
        """Return True when the reply is complete: after a finish_reason, a missing `[DONE]` is a normal end too."""
        return self.error is None and not self.failure and (self.has_end or self.facts.finish is not None)

    @property
    def closing(self) -> bytes:
        return self._missing_mark if self.has_end else self._missing_mark + self.last_event

    def feed(self, piece: bytes) -> None:
        for event in self._splitter.feed(piece):
            self._read(event)
        if self._splitter.oversized:
            self.has_event = True

    def end(self) -> None:
        missing_mark = self._splitter.end_mark
        for event in self._splitter.flush():
            self._missing_mark = missing_mark
            self._read(event)

    def before_failure(self, piece: bytes) -> bytes:
        """Return a piece without `[DONE]`, and without an error that clients would not recognise."""
        if self.error is not None and not self.error_visible:
            return piece[: max(piece.rfind(self._error_event), 0)]
        return _LAST_DONE.sub(b"", piece)

    def _read(self, event: bytes) -> None:
        name, data = sse.read(event)
        if data is None:
            if name == b"error":
                self._fail(event, name, b"")
            return
        if data.strip() == b"[DONE]":
            self.has_end = True
            return
        self.has_event = True
        self._measure(data)
        if self.facts.finish and finish.is_failure(self.facts.finish):
            self.failure = self.failure or read_reply(sse.json_of(data) or {}).failure
        # Only a few events must be parsed: a part of a reply has choices.
        if name == b"error" or b'"error"' in data or b'"choices"' not in data:
            self._fail(event, name, data)
        if b'"usage"' in data and (document := sse.json_of(data)) and (usage := usage_of(document)) != (None, None):
            self.input_tokens, self.output_tokens = usage

    def _measure(self, data: bytes) -> None:
        """Add the data of one event to the facts, from its bytes, because parsing would cost more than everything
        else here."""
        for member, text in _MEMBER.findall(data):
            if member == b"finish_reason":
                if word := word_of(text.decode("utf-8", "replace")):
                    self.facts.finish = REFUSAL if self._has_refusal else word
                continue
            self.facts.chars += _length(text)
            if member == b"refusal" and text:
                self._has_refusal = True

    def _fail(self, event: bytes, name: bytes, data: bytes) -> None:
        """Note the error in an event, when there is one."""
        if (error := error_in(name, data)) is not None:
            self.has_event = True
            self.error, self._error_event, self.error_visible = error, event, bool(error.get("error"))


def _length(text: bytes) -> int:
    """Return the number of characters of a JSON text; an escape counts as one."""
    if b"\\" in text:
        text = _ESCAPE.sub(b"x", text)
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace"))

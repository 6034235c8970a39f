"""Read the replies of a backend that speaks the Messages API, while they pass through.

Facts: https://docs.claude.com/en/api/messages-streaming.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.types import JsonObject
from app.wire import sse
from app.wire.chat.stream import StreamWatch
from app.wire.reply_facts import ReplyFacts, ReplyReading, objects_in, text_of, token_count

# Anthropic's stop reasons, in chat's words.
_FINISHES = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_INPUT = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")


def finish_of(reason: object) -> str | None:
    """Return a stop reason in chat's words; None before the end."""
    return _FINISHES.get(reason, reason) if isinstance(reason, str) and reason else None


def tokens_of(usage: object) -> tuple[int | None, int | None]:
    """Return (input, output) tokens, cached ones included; None when the usage has no number."""
    if not isinstance(usage, Mapping):
        return None, None
    counts = [token_count(usage.get(name)) for name in _INPUT]
    read = None if counts[0] is None else sum(count or 0 for count in counts)
    return read, token_count(usage.get("output_tokens"))


def read_reply(document: JsonObject) -> ReplyReading:
    """Return the facts of a whole message."""
    read, written = tokens_of(document.get("usage"))
    return ReplyReading(
        facts=ReplyFacts(_chars_of(document), finish_of(document.get("stop_reason"))),
        input_tokens=read,
        output_tokens=written,
        lack="" if isinstance(document.get("content"), list) else "content",
    )


def _chars_of(document: JsonObject) -> int:
    chars = 0
    for block in objects_in(document.get("content")):
        chars += len(text_of(block.get("text")))
        chars += len(json.dumps(block.get("input"))) if block.get("type") == "tool_use" else 0
    return chars


class MessagesWatch(StreamWatch):
    """Read the events of a message while they pass through (implements form.Watch)."""

    closing = b""  # nothing is added to a complete body

    def _read(self, event: bytes) -> None:
        name, data = sse.read(event)
        document = sse.json_of(data or b"") or {}
        kind = document.get("type")
        if name == b"error" or kind == "error":
            self._fail(event, name, data or b"")
        elif kind == "message_start":
            self.has_event = True
            message = document.get("message")
            self._count(message.get("usage") if isinstance(message, Mapping) else None)
        elif kind == "content_block_delta":
            self.facts.chars += _delta_chars(document.get("delta"))
        elif kind == "message_delta":
            delta = document.get("delta")
            reason = finish_of(delta.get("stop_reason")) if isinstance(delta, Mapping) else None
            self.facts.finish = reason or self.facts.finish
            self._count(document.get("usage"))
        elif kind == "message_stop":
            self.has_end = True

    def _count(self, usage: object) -> None:
        """Read a usage: that of the end counts, but it may lack the input."""
        read, written = tokens_of(usage)
        self.input_tokens = self.input_tokens if read is None else read
        self.output_tokens = self.output_tokens if written is None else written


def _delta_chars(delta: object) -> int:
    if not isinstance(delta, Mapping):
        return 0
    return len(text_of(delta.get("text"))) + len(text_of(delta.get("partial_json")))

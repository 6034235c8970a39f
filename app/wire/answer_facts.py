"""Measure an answer: how many characters it has, and why it ended.  A/B reports compare answers by these facts.

A stream is measured from its bytes, because parsing every chunk would cost more than the rest of the watch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.types import JsonObject
from app.wire import finish

# Possessive, and so linear in the event.  Quotes inside a JSON text are escaped: no text can look like a member.
_MEMBER = re.compile(
    rb'"(content|text|arguments|refusal|finish_reason)"\s*+:\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)', re.DOTALL
)
_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)

REFUSAL = "refusal"
_TOOL_CALLS = "tool_calls"


@dataclass(slots=True)
class AnswerFacts:
    """`chars` counts text, refusals and the arguments of tool calls; reasoning does not count.

    `finish` is the backend's own word in lower case (`stop`, `length`, `tool_calls`, `content_filter` …), or
    `refusal` where the answer says that it is one; None when nothing said why the answer ended.
    """

    chars: int = 0
    finish: str | None = None
    _refused: bool = field(default=False, init=False, repr=False, compare=False)  # a stream has begun a refusal

    def add(self, event: bytes) -> None:
        """Add the data of one event of a chat stream."""
        for member, text in _MEMBER.findall(event):
            if member == b"finish_reason":
                if word := _word(text.decode("utf-8", "replace")):
                    self.finish = REFUSAL if self._refused else word
                continue
            self.chars += _length(text)
            if member == b"refusal" and text:
                self._refused = True


def of_completion(document: JsonObject) -> AnswerFacts:
    """Return the facts of a whole chat completion."""
    facts = AnswerFacts()
    for choice in _objects(document.get("choices")):
        message = choice.get("message")
        facts.finish = _word(choice.get("finish_reason"))
        if isinstance(message, Mapping):
            facts.chars += sum(map(len, _message_texts(message)))
            facts.finish = REFUSAL if _text(message.get("refusal")) else facts.finish
    return facts


def of_response(response: JsonObject) -> AnswerFacts:
    """Return the facts of a Response object."""
    facts = AnswerFacts()
    details = response.get("incomplete_details")
    if response.get("status") == "completed":
        facts.finish = "stop"
    elif isinstance(details, Mapping):
        facts.finish = _word(details.get("reason"))
    for item in _objects(response.get("output")):
        if str(item.get("type")).endswith("_call"):
            facts.chars += len(_text(item.get("arguments")) or _text(item.get("input")))
            facts.finish = _TOOL_CALLS if facts.finish == "stop" else facts.finish
        for part in _objects(item.get("content")) if item.get("type") == "message" else ():
            facts.chars += len(_text(part.get("text"))) + len(_text(part.get("refusal")))
            facts.finish = REFUSAL if part.get("refusal") else facts.finish
    return facts


def _message_texts(message: Mapping[str, Any]) -> Iterator[str]:
    yield _text(message.get("content"))
    for part in _objects(message.get("content")):
        yield _text(part.get("text"))
    yield _text(message.get("refusal"))
    for call in (*_objects(message.get("tool_calls")), {"function": message.get("function_call")}):
        for member in ("function", "custom"):
            called = call.get(member)
            if isinstance(called, Mapping):
                yield _text(called.get("arguments")) or _text(called.get("input"))


def _objects(value: object) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else iter(())


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _word(value: object) -> str | None:
    return finish.reason_of(value).lower() or None


def _length(text: bytes) -> int:
    """Return the characters of a JSON text; an escape is one."""
    if b"\\" in text:
        text = _ESCAPE.sub(b"x", text)
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace"))

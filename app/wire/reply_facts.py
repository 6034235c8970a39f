"""Measure an answer: how many characters it has, and why it ended.  A/B reports compare answers by these facts.

A stream is measured from its bytes, because parsing every chunk would cost more than the rest of the watch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.wire import finish

# Possessive, and so linear in the event.  Quotes inside a JSON text are escaped: no text can look like a member.
_MEMBER = re.compile(
    rb'"(content|text|arguments|refusal|finish_reason)"\s*+:\s*+"([^"\\]*+(?:\\.[^"\\]*+)*+)', re.DOTALL
)
_ESCAPE = re.compile(rb"\\(?:u[0-9A-Fa-f]{4}|.)", re.DOTALL)

REFUSAL = "refusal"
MOST_COUNTED = 2**31 - 1  # tokens that a backend may say it counted


@dataclass(slots=True)
class ReplyFacts:
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
                if word := word_of(text.decode("utf-8", "replace")):
                    self.finish = REFUSAL if self._refused else word
                continue
            self.chars += _length(text)
            if member == b"refusal" and text:
                self._refused = True


def objects_in(value: object) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else iter(())


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


def word_of(value: object) -> str | None:
    return finish.reason_of(value).lower() or None


def _length(text: bytes) -> int:
    """Return the characters of a JSON text; an escape is one."""
    if b"\\" in text:
        text = _ESCAPE.sub(b"x", text)
    return len(text) if text.isascii() else len(text.decode("utf-8", "replace"))


def token_count(value: object) -> int | None:
    """A number of tokens that a backend names; None when it cannot be one."""
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else None

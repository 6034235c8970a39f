"""The facts that are read in a reply, in whatever wire form it came.  A/B reports compare replies by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app.types import JsonObject
from app.wire import finish

REFUSAL = "refusal"
MOST_COUNTED = 2**31 - 1  # tokens that a backend may say it counted


@dataclass(slots=True)
class ReplyFacts:
    """Measure a reply.

    `chars` counts text, refusals and the arguments of tool calls; reasoning does not count.  `finish` is the backend's
    own word in lower case (`stop`, `length`, `tool_calls`, `content_filter` …), or `refusal` where the reply says that
    it is one; None when nothing tells why the reply ended.
    """

    chars: int = 0
    finish: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReading:
    """Hold what was read in a whole reply."""

    facts: ReplyFacts
    input_tokens: int | None = None
    output_tokens: int | None = None
    lack: str = ""  # what the document lacks to be a reply: "a choice"
    failure: str = ""  # the backend's word for a reply that failed


def objects_in(value: object) -> list[JsonObject]:
    """Return the objects of a list; none when the value is no list."""
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def text_of(value: object) -> str:
    """Return a value when it is a string, else an empty one."""
    return value if isinstance(value, str) else ""


def word_of(value: object) -> str | None:
    """Return a finish reason in lower case; None when the value is none."""
    return finish.reason_of(value).lower() or None


def token_count(value: object) -> int | None:
    """Return a number of tokens that a backend names; None when it cannot be one."""
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else None

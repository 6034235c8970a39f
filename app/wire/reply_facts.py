"""Define the facts about a reply, for every wire form.  A/B reports compare replies by them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from app import finish
from app.types import JsonObject

REFUSAL = "refusal"
MOST_COUNTED = 2**31 - 1  # the largest number of tokens that a backend may report


@dataclass(slots=True)
class ReplyFacts:
    """Measure a reply.

    `chars` counts text, refusals and the arguments of tool calls; reasoning does not count.  `finish` is the backend's
    own word in lower case (`stop`, `length`, `tool_calls`, `content_filter` …), or `refusal` where the reply says that
    it is one; None when the reason of the end is unknown.
    """

    chars: int = 0
    finish: str | None = None
    load_ms: float | None = None  # that the server took to load the model; None = it does not tell


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyReading:
    """Hold the facts of a whole reply."""

    facts: ReplyFacts
    input_tokens: int | None = None
    output_tokens: int | None = None
    lack: str = ""  # the part that is missing in the document: "a choice"
    failure: str = ""  # the finish reason of a reply that failed


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
    """Return a number of tokens of a backend; None when it is not valid."""
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else None

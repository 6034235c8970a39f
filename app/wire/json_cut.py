"""Cut members out of a JSON text by their positions, so that all other characters stay the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Any text that servers send is read: raw control characters in strings, NaN, integers of any length.
_value_at = json.JSONDecoder(strict=False, parse_int=float).raw_decode
_NAME = re.compile(r'[ \t\n\r]*+([{,])[ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
_ELEMENT = re.compile(r"[ \t\n\r]*+[\[,][ \t\n\r]*+")
_EMPTY = re.compile(r"[ \t\n\r]*+\{[ \t\n\r]*+\}")


@dataclass(frozen=True, slots=True)
class Member:
    """Hold a member of an object, and its place in the text."""

    name: str
    value: Any
    comma: int  # before the member; -1 = it is the first
    start: int  # of the name
    value_start: int
    end: int


def members_at(text: str, at: int) -> list[Member]:
    """Return the members of the object at a position.  Raise ValueError when the text is no JSON."""
    members: list[Member] = []
    while name := _NAME.match(text, at):
        if (name[1] == "{") is bool(members):
            break
        value, end = _value_at(text, name.end())
        comma = name.start(1) if members else -1
        members.append(Member(_value_at(name[2])[0], value, comma, name.start(2), name.end(), end))
        at = end
    if not members and not _EMPTY.match(text, at):
        raise ValueError("there is no object")
    return members


def objects_at(text: str, at: int) -> Iterator[list[Member]]:
    """Yield the members of each object in the array at a position.  Raise ValueError when the text is no JSON."""
    while (element := _ELEMENT.match(text, at)) and not text.startswith("]", element.end()):
        if not text.startswith("{", element.end()):
            _, at = _value_at(text, element.end())
            continue
        members = members_at(text, element.end())
        at = text.index("}", members[-1].end if members else element.end()) + 1
        yield members


def span_of(members: list[Member], name: str) -> tuple[int, int] | None:
    """Return the characters to cut so that an object loses a member, with the comma that belongs to it; None when it
    does not have the member."""
    for number, member in enumerate(members):
        if member.name == name:
            if number:
                return member.comma, member.end
            return member.start, members[1].start if len(members) > 1 else member.end
    return None


def without_spans(text: str, spans: list[tuple[int, int]], instead: str = "") -> str:
    """Return a text with `instead` in the place of some parts of it, which are in order."""
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], instead]
        at = end
    return "".join([*pieces, text[at:]])

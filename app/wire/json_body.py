"""Read a request body as JSON once, with the places of its members, and write it again with few values replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

from app.errors import RequestError
from app.types import JsonDict, JsonObject


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_MOST_NESTED = 200  # levels: what reads and writes the body after the parser must not run out of stack
_MOST_MEMBERS = 1000  # of the body itself; the API has some forty
MOST_TOKENS = 250_000  # of a body's JSON; 32 MB could hold millions of values, seconds of work and a GB of memory
_NO_MARK = bytes(char for char in range(256) if char not in b"[{,")
_TOKEN = re.compile(rb'[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_pairs_of = json.JSONDecoder(object_pairs_hook=tuple).decode
_skip_space = re.compile(r"[ \t\n\r]*").match
_first_plain_member = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_next_plain_member = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_first_comma = re.compile(r"\A([ \t\n\r]*\{[ \t\n\r]*),[ \t\n\r]*")  # left by a first member that was taken out


@dataclass(frozen=True, slots=True)
class JsonBody:
    """Hold a JSON object as it was received, and the places of its members' values in the text."""

    text: str
    document: JsonDict
    spans: tuple[tuple[str, int, int], ...]  # (member, start, end) of each value, in order of appearance
    repeated: bool = False  # an object, here or deeper, has a name twice: the document lacks a value

    def with_members(self, members: Mapping[str, str], without: Collection[str] = ()) -> bytes:
        """Return the body with the named members' values replaced by raw JSON text, or put in front when they are
        absent, and without the members named in `without`.  Every other byte stays as it came.

        `Model` counts as `model`: some servers (those in Go) read names so, and the last one counts for them.
        """
        pieces, at = [], 0
        last = self.text.index("{") + 1  # where the member before ended
        for name, start, end in self.spans:
            if (folded := name.casefold()) in members:
                pieces += [self.text[at:start], members[folded]]
                at = end
            elif folded in without:  # with the comma in front of it
                pieces.append(self.text[at:last])
                at = end
            last = end
        pieces.append(self.text[at:])
        text = "".join(pieces)
        if without:
            text = _first_comma.sub(r"\1", text, count=1)
        added = "".join(f'"{name}":{value},' for name, value in members.items() if name not in self.document)
        if added:
            opening = text.index("{") + 1
            text = text[:opening] + (added if self.document else added[:-1]) + text[opening:]
        return text.encode("utf-8")

    def is_read_in_one_way(self, name: str) -> bool:
        """Return False for a member that comes twice or in another case: servers would not agree on its value."""
        return [member for member, _, _ in self.spans if member.casefold() == name] in ([], [name])

    def raw(self, name: str) -> str:
        """Return the JSON text of a member; of a repeated name the last counts."""
        return next(self.text[start:end] for member, start, end in reversed(self.spans) if member == name)

    def pairs(self) -> object:
        """Return all that is sent: the document, or the body with objects as tuples of (name, value) when a name is
        repeated in one."""
        if not self.repeated:
            return self.document
        try:
            return _pairs_of(self.text)
        except RecursionError:  # inside a value that a later one of the same name replaced
            raise _too_deep() from None


def read_object(raw: bytes) -> JsonBody:
    """Parse a request body.  Raise RequestError when it is not one JSON object in UTF-8."""
    if not raw:
        raise RequestError("The request body is empty; send a JSON object.")
    if _holds_too_much(raw):
        raise RequestError(f"The request body holds more than {MOST_TOKENS} strings, lists, objects and commas.")
    try:
        body = scan_object(raw.decode("utf-8").removeprefix("\ufeff"))
    except UnicodeDecodeError as error:
        raise RequestError(f"The request body is not UTF-8 (byte {error.start}).") from None
    except RecursionError:
        raise _too_deep() from None
    except json.JSONDecodeError as error:  # `msg` holds no part of the body
        raise RequestError(f"The request body is not valid JSON: {error.msg} at character {error.pos}.") from None
    except ValueError as error:  # NaN, or an integer longer than Python converts
        raise RequestError(f"The request body is not valid JSON: {error}.") from None
    if _is_too_deep(body.document):
        raise _too_deep()
    return body


def _holds_too_much(raw: bytes) -> bool:
    """Return whether a body holds too many values, however long its texts are.  For most bodies the count of three
    characters is enough."""
    if len(raw) <= MOST_TOKENS or len(raw.translate(None, _NO_MARK)) <= MOST_TOKENS // 2:
        return False
    return next(islice(_TOKEN.finditer(raw), MOST_TOKENS, None), None) is not None


def _too_deep() -> RequestError:
    return RequestError("The request body is nested too deeply.")


def _is_too_deep(document: JsonObject) -> bool:
    level: list[JsonDict | list[object]] = [dict(document)]
    for _ in range(_MOST_NESTED):
        level = [
            value
            for item in level
            for value in (item.values() if type(item) is dict else item)
            if type(value) is dict or type(value) is list
        ]
        if not level:
            return False
    return True


def scan_object(text: str) -> JsonBody:
    """Read one JSON object as `json.loads` does, and note where the values of its members stand.  Of a repeated name
    the last value counts.  Raise ValueError."""
    document: JsonDict = {}
    spans: list[tuple[str, int, int]] = []
    objects = _Objects()
    value_at = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=objects).raw_decode
    plain = _first_plain_member(text)
    name, at = (plain[1], plain.end()) if plain else _member_behind("{", text, 0)
    while name is not None:
        document[name], end = value_at(text, at)
        spans.append((name, at, end))
        if len(spans) > _MOST_MEMBERS:
            raise RequestError(f"The request body has more than {_MOST_MEMBERS} members.")
        plain = _next_plain_member(text, end)
        name, at = (plain[1], plain.end()) if plain else _member_behind(",", text, end)
    if (end := _space(text, at)) != len(text):
        raise json.JSONDecodeError("Extra text", text, end)
    return JsonBody(text, document, tuple(spans), objects.repeated or len(document) < len(spans))


def _member_behind(mark: str, text: str, at: int) -> tuple[str | None, int]:
    """Return the name of the member behind `{` or `,`, and where its value begins.  At the end of the object return
    None, and the place behind it."""
    at = _space(text, at)
    if mark == "," and text.startswith("}", at):
        return None, at + 1
    if not text.startswith(mark, at):
        if mark == "{":
            _value_at(text, at)  # raises where there is no JSON at all
            raise json.JSONDecodeError("The top level must be an object", text, at)
        raise json.JSONDecodeError("Expecting ','", text, at)
    at = _space(text, at + 1)
    if mark == "{" and text.startswith("}", at):
        return None, at + 1
    name, end = _value_at(text, at)
    if not isinstance(name, str):
        raise json.JSONDecodeError("Expecting a member name in double quotes", text, at)
    end = _space(text, end)
    if not text.startswith(":", end):
        raise json.JSONDecodeError("Expecting ':'", text, end)
    return name, _space(text, end + 1)


class _Objects:
    """Make the objects of one body, and note when one has a name twice."""

    def __init__(self) -> None:
        self.repeated = False

    def __call__(self, pairs: list[tuple[str, object]]) -> JsonDict:
        members = dict(pairs)
        if len(members) < len(pairs):
            self.repeated = True
        return members


def _space(text: str, at: int) -> int:
    match = _skip_space(text, at)
    return match.end() if match else at


def elements_of(text: str) -> list[str]:
    """Return the texts of the elements of a JSON array."""
    elements = []
    at = _space(text, 1)
    while text[at] != "]":
        _, end = _value_at(text, at)
        elements.append(text[at:end])
        at = _space(text, end)
        at = _space(text, at + 1) if text[at] == "," else at
    return elements

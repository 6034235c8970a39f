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


_MOST_NESTED = 200  # levels: the code that reads and writes the parsed body must not overflow the stack
_MOST_MEMBERS = 1000  # of the body itself; the API has about forty
MOST_TOKENS = (
    250_000  # of a body's JSON; 32 MB could hold millions of values, which need seconds of work and a GB of memory
)
_NO_MARK = bytes(char for char in range(256) if char not in b"[{,")
_TOKEN = re.compile(rb'[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_pairs_of = json.JSONDecoder(object_pairs_hook=tuple).decode
_skip_space = re.compile(r"[ \t\n\r]*").match
_first_plain_member = re.compile(r'[ \t\n\r]*\{[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_next_plain_member = re.compile(r'[ \t\n\r]*,[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_first_comma = re.compile(r"\A([ \t\n\r]*\{[ \t\n\r]*),[ \t\n\r]*")  # left after the first member was removed


@dataclass(frozen=True, slots=True)
class JsonBody:
    """Hold a JSON object as it was received, and the places of its members' values in the text."""

    text: str
    document: JsonDict
    spans: tuple[tuple[str, int, int], ...]  # (member, start, end) of each value, in order of appearance
    repeated: bool = False  # some object has a name twice, so the parsed document lacks a value

    def with_members(self, members: Mapping[str, str], without: Collection[str] = ()) -> bytes:
        """Return the body with new values (raw JSON text) for the named members, and without the members in
        `without`. An absent member is added at the beginning.  All other bytes stay the same.  `Model` counts as
        `model`, because servers in Go ignore the case of names and use the last one.
        """
        pieces, at = [], 0
        last = self.text.index("{") + 1  # the end of the member before
        for name, start, end in self.spans:
            if (folded := name.casefold()) in members:
                pieces += [self.text[at:start], members[folded]]
                at = end
            elif folded in without:  # with the comma before it
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
        """Return False for a member that occurs twice or in another case, because servers differ in the value that
        they use."""
        return [member for member, _, _ in self.spans if member.casefold() == name] in ([], [name])

    def raw(self, name: str) -> str:
        """Return the JSON text of a member.  When a name is repeated, the last one counts."""
        return next(self.text[start:end] for member, start, end in reversed(self.spans) if member == name)

    def pairs(self) -> object:
        """Return everything that is sent: the document, or, when a name is repeated, the body with objects as tuples
        of (name, value)."""
        if not self.repeated:
            return self.document
        try:
            return _pairs_of(self.text)
        except RecursionError:  # in a value that a later one with the same name replaces
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
    if is_too_deep(body.document):
        raise _too_deep()
    return body


def _holds_too_much(raw: bytes) -> bool:
    """Return True when a body has too many values, whatever the length of its texts.  For most bodies it is enough
    to count three characters."""
    if len(raw) <= MOST_TOKENS or len(raw.translate(None, _NO_MARK)) <= MOST_TOKENS // 2:
        return False
    return next(islice(_TOKEN.finditer(raw), MOST_TOKENS, None), None) is not None


def _too_deep() -> RequestError:
    return RequestError("The request body is nested too deeply.")


def is_too_deep(document: JsonObject) -> bool:
    """Return True when a document has more levels than the code that writes it again may meet."""
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
    """Read one JSON object as `json.loads` does, with the positions of its members' values.  When a name is
    repeated, the last value counts.  Raise ValueError."""
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
    """Return the name of the member after `{` or `,`, and the position of its value.  At the end of the object,
    return None and the position after it."""
    at = _space(text, at)
    if mark == "," and text.startswith("}", at):
        return None, at + 1
    if not text.startswith(mark, at):
        if mark == "{":
            _value_at(text, at)  # raises when there is no JSON
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
    """Create the objects of one body, and notice a name that occurs twice in one of them."""

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


def json_bytes(document: JsonObject) -> bytes:
    """Return a document as compact JSON."""
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate leaves as its JSON escape

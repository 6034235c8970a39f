"""Chat-completions bodies: read once, checked, and sent on byte for byte with only `model` replaced."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

from app.errors import RequestError
from app.types import Dialect, JsonObject
from app.wire import dialects
from app.wire.chat_checks import check_message, check_options
from app.wire.system_messages import SYSTEM_ROLES, system_message


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_MOST_NESTED = 200  # levels: what reads and writes the body after the parser must not run out of stack
_MOST_MEMBERS = 1000  # of the body itself; the API has some forty
MOST_PIECES = 20_000  # messages and parts: far beyond any conversation, and no worker is busy with it for long
MOST_TOKENS = 250_000  # of a body's JSON; 32 MB could hold millions of values, seconds of work and a GB of memory
_NO_MARK = bytes(char for char in range(256) if char not in b"[{,")
MOST_MODEL_CHARS = 1024  # of a model's name; those of real servers have fewer than 200
MOST_COUNTED = 2**31 - 1  # tokens that a backend may say it counted
_TOKEN = re.compile(rb'[\[{,]|"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_value_at = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
_pairs_of = json.JSONDecoder(object_pairs_hook=tuple).decode
_skip_space = re.compile(r"[ \t\n\r]*").match
_plain_name = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match  # and the colon behind it
_first_comma = re.compile(r"\A([ \t\n\r]*\{[ \t\n\r]*),[ \t\n\r]*")  # left by a first member that was taken out
_end_of_member = re.compile(r"[ \t\n\r]*([,}])[ \t\n\r]*").match


@dataclass(frozen=True, slots=True)
class JsonBody:
    """A JSON object as it was received, and where its members' values stand in the text."""

    text: str
    document: dict[str, Any]
    spans: tuple[tuple[str, int, int], ...]  # (member, start, end) of each value, in order of appearance
    repeated: bool = False  # an object, here or deeper, has a name twice: the document lacks a value

    def with_members(self, members: Mapping[str, str], without: Collection[str] = ()) -> bytes:
        """The body with the named members' values replaced by raw JSON text, or put in front when they are absent, and
        those of `without` left out.  Every other byte stays as it came.

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
        """The JSON text of a member; of a repeated name the last counts."""
        return next(self.text[start:end] for member, start, end in reversed(self.spans) if member == name)

    def pairs(self) -> Any:
        """Return all that is sent: the document, or the body with objects as tuples of (name, value) when a name is
        repeated in one."""
        if not self.repeated:
            return self.document
        try:
            return _pairs_of(self.text)
        except RecursionError:  # inside a value that a later one of the same name replaced
            raise _too_deep() from None


def read_object(raw: bytes) -> JsonBody:
    """Parses a request body.  Raises RequestError when it is not one JSON object in UTF-8."""
    if not raw:
        raise RequestError("The request body is empty; send a JSON object.")
    if _holds_too_much(raw):
        raise RequestError(f"The request body holds more than {MOST_TOKENS} strings, lists, objects and commas.")
    try:
        body = _scan_object(raw.decode("utf-8-sig"))
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
    """Many values, not long texts.  Most bodies need a look at three characters only."""
    if len(raw) <= MOST_TOKENS or len(raw.translate(None, _NO_MARK)) <= MOST_TOKENS // 2:
        return False
    return next(islice(_TOKEN.finditer(raw), MOST_TOKENS, None), None) is not None


def _too_deep() -> RequestError:
    return RequestError("The request body is nested too deeply.")


def _is_too_deep(document: JsonObject) -> bool:
    level: list[Any] = [document]
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


def _scan_object(text: str) -> JsonBody:
    """json.loads for one object that also keeps where its members' values stand; of a repeated name the last counts."""
    at = _space(text, 0)
    if text[at : at + 1] != "{":
        _value_at(text, at)
        raise json.JSONDecodeError("The top level must be an object", text, at)
    document: dict[str, Any] = {}
    spans: list[tuple[str, int, int]] = []
    objects = _Objects()
    value_at = json.JSONDecoder(parse_constant=_refuse_constant, object_pairs_hook=objects).raw_decode
    at = _space(text, at + 1)
    closed = text[at : at + 1] == "}"
    at += closed
    while not closed:
        name, start = _name_at(text, at)
        document[name], end = value_at(text, start)
        spans.append((name, start, end))
        if len(spans) > _MOST_MEMBERS:
            raise RequestError(f"The request body has more than {_MOST_MEMBERS} members.")
        found = _end_of_member(text, end)
        if not found:
            raise json.JSONDecodeError("Expecting ','", text, _space(text, end))
        closed, at = found[1] == "}", found.end()
    if (end := _space(text, at)) != len(text):
        raise json.JSONDecodeError("Extra text", text, end)
    return JsonBody(text, document, tuple(spans), objects.repeated or len(document) < len(spans))


class _Objects:
    """Makes the objects of one body, and notes when one has a name twice."""

    def __init__(self) -> None:
        self.repeated = False

    def __call__(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            self.repeated = True
        return made


def _name_at(text: str, at: int) -> tuple[str, int]:
    """A member's name, and where its value begins."""
    if found := _plain_name(text, at):
        return found[1], found.end()
    name, end = _value_at(text, _space(text, at))
    if not isinstance(name, str):
        raise json.JSONDecodeError("Expecting a member name in double quotes", text, at)
    end = _space(text, end)
    if text[end : end + 1] != ":":
        raise json.JSONDecodeError("Expecting ':'", text, end)
    return name, _space(text, end + 1)


def _space(text: str, at: int) -> int:
    found = _skip_space(text, at)
    return found.end() if found else at


@dataclass(frozen=True, slots=True)
class ChatBody:
    """A chat request body (implements types.Body)."""

    json: JsonBody
    developer: bool = False  # a message has this role

    @property
    def chat(self) -> JsonObject:
        return self.json.document

    @property
    def original(self) -> Any:
        return self.json.pairs()

    def translate(self, dialect: Dialect) -> None:
        """Nothing: chat passes through."""

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        """The client's bytes with `model` replaced, and the words that the server would refuse or ignore; a shadow call
        also has its streaming switched off."""
        members = {"model": json.dumps(model)}
        without = dialects.edit(self.json.document, self.json.raw, dialect, members)
        if self.developer and dialect.system_first:
            members["messages"] = _system_first(self.json)
        if self.json.document.get("stream") and not stream:
            members["stream"] = "false"
            if "stream_options" in self.json.document:
                members["stream_options"] = "null"
        return self.json.with_members(members, without)

    def native(self, model: str, *, stream: bool) -> None:  # noqa: ARG002
        return None


def parse(raw: bytes) -> ChatBody:
    """Checks a chat body as far as routing needs it.  Raises RequestError naming the field."""
    body = read_object(raw)
    messages = body.document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RequestError("`messages` must be a non-empty array of objects.", param="messages")
    pieces, developer = len(messages), False
    for index, message in enumerate(messages):
        pieces += check_message(message, index)
        developer = developer or message["role"] == "developer"
    check_options(body.document)
    if pieces > MOST_PIECES:
        raise RequestError(f"`messages` must not hold more than {MOST_PIECES} messages and parts.", param="messages")
    if not isinstance(body.document.get("stream"), (bool, type(None))):
        raise RequestError("`stream` must be true or false.", param="stream")
    if _streams_or_not(body):
        raise RequestError("`stream` is there more than once, and not always the same.", param="stream")
    model_of(body.document)
    return ChatBody(body, developer)


def without(raw: bytes, name: str) -> bytes | None:
    """A chat body without a word that its server refused: `max_tokens` and `max_completion_tokens` take each other's
    place, `developer` becomes `system`.  None when the word is not in it."""
    body = _scan_object(raw.decode("utf-8"))  # it was checked before it was sent
    if name == "developer":
        messages = body.document["messages"]
        if not any(message["role"] == "developer" for message in messages):
            return None
        return body.with_members({"messages": _system_first(body)})
    if name not in body.document:
        return None
    other = dialects.OTHER_LIMIT.get(name)
    members = {other: body.raw(name)} if other and body.document.get(other) is None else {}
    return body.with_members(members, (name,))


def _system_first(body: JsonBody) -> str:
    """The text of `messages` with all system and developer messages as one system message in front; the others stay
    as they came."""
    messages, texts = body.document["messages"], _elements(body.raw("messages"))
    front = system_message([message for message in messages if message["role"] in SYSTEM_ROLES])
    rest = [text for message, text in zip(messages, texts, strict=True) if message["role"] not in SYSTEM_ROLES]
    return f"[{','.join([json.dumps(front), *rest])}]"


def _elements(text: str) -> list[str]:
    """The texts of the elements of a JSON array."""
    elements = []
    at = _space(text, 1)
    while text[at] != "]":
        _, end = _value_at(text, at)
        elements.append(text[at:end])
        at = _space(text, end)
        at = _space(text, at + 1) if text[at] == "," else at
    return elements


def _streams_or_not(body: JsonBody) -> bool:
    """Whether servers would not agree if it is to be streamed: the first or the last of a name may count, and for
    those in Go `Stream` too.  An answer of the other kind would look like a backend's failure."""
    streams = bool(body.document.get("stream"))
    values = (body.text[start:end] for name, start, end in body.spans if name.casefold() == "stream")
    return any((value == "true") != streams for value in values)


def of_text(text: str) -> ChatBody:
    """The body of one user message."""
    return parse(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


def model_of(document: JsonObject) -> str:
    """The client's `model`, trimmed, or "" when it is absent or null.  Raises RequestError."""
    model = document.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise RequestError("`model` must be a string.", param="model")
    return model_name(model)


def model_name(text: str) -> str:
    """Return a client's name for a model, trimmed.  Raises RequestError when it is too long for one: names are compared
    with others, kept in rows, and quoted by backends."""
    name = text.strip()
    if len(name) > MOST_MODEL_CHARS:
        raise RequestError(
            f"`model` must not be longer than {MOST_MODEL_CHARS} characters; it has {len(name)}.", param="model"
        )
    return name


def usage_of(document: JsonObject) -> tuple[int | None, int | None]:
    """(input, output) tokens of an answer or a chunk; None where it does not say."""
    usage = document.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    return token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))


def token_count(value: object) -> int | None:
    """A number of tokens that a backend names; None when it cannot be one."""
    return value if type(value) is int and 0 <= value <= MOST_COUNTED else None

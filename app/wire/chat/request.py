"""Read and check chat bodies, and write them byte for byte with a new `model`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import ClassVar

from app.errors import RequestError
from app.types import Dialect, JsonObject, Wire
from app.wire.chat import dialects
from app.wire.chat.checks import check_message, check_options
from app.wire.chat.system_messages import SYSTEM_ROLES, system_message
from app.wire.json_body import JsonBody, elements_of, read_object, scan_object

MOST_PIECES = 20_000  # messages and parts: more than in any conversation, and still little work for a worker
MOST_MODEL_CHARS = 1024  # of a model's name; those of real servers have fewer than 200


@dataclass(frozen=True, slots=True)
class ChatBody:
    """Hold a chat request body (implements types.Body)."""

    wire: ClassVar[Wire] = Wire.CHAT

    json: JsonBody
    developer: bool = False  # a message has this role

    @property
    def chat(self) -> JsonObject:
        return self.json.document

    @property
    def original(self) -> object:
        return self.json.pairs()

    def translate(self, dialect: Dialect) -> None:
        """Do nothing, because chat bodies are not translated."""

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        """Return the client's bytes with a new `model`, and without parameters that the server would refuse or
        ignore; for shadow calls and probes also without streaming."""
        members = {"model": json.dumps(model)}
        without = dialects.edit(self.json.document, self.json.raw, dialect, members)
        if self.developer and dialect.system_first:
            members["messages"] = _system_first(self.json)
        if self.json.document.get("stream") and not stream:
            members["stream"] = "false"
            if "stream_options" in self.json.document:
                members["stream_options"] = "null"
        return self.json.with_members(members, without)


def parse(raw: bytes) -> ChatBody:
    """Check a chat body as far as routing needs it.  Raise RequestError that names the field."""
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
    """Return a chat body without a parameter that the server refused: `max_tokens` and `max_completion_tokens`
    replace each other, `developer` becomes `system`. Return None when the body does not have it."""
    body = scan_object(raw.decode("utf-8"))  # the body was valid when it was sent
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
    """Return the text of `messages` with all system and developer messages as one system message in front; the
    others do not change."""
    messages, texts = body.document["messages"], elements_of(body.raw("messages"))
    front = system_message([message for message in messages if message["role"] in SYSTEM_ROLES])
    rest = [text for message, text in zip(messages, texts, strict=True) if message["role"] not in SYSTEM_ROLES]
    return f"[{','.join([json.dumps(front), *rest])}]"


def _streams_or_not(body: JsonBody) -> bool:
    """Return True when servers would disagree about `stream`: they use the first or the last value of a repeated
    name, and servers in Go also read `Stream`. A reply of the wrong kind would look like a failure of the backend."""
    streams = bool(body.document.get("stream"))
    values = (body.text[start:end] for name, start, end in body.spans if name.casefold() == "stream")
    return any((value == "true") != streams for value in values)


def of_text(text: str) -> ChatBody:
    """Return the body of one user message."""
    return parse(json.dumps({"messages": [{"role": "user", "content": text}]}).encode())


def model_of(document: JsonObject) -> str:
    """Return the client's `model`, trimmed; "" when it is absent or null.  Raise RequestError."""
    model = document.get("model")
    if model is None:
        return ""
    if not isinstance(model, str):
        raise RequestError("`model` must be a string.", param="model")
    return model_name(model)


def model_name(text: str) -> str:
    """Return a client's name for a model, trimmed.  Raise RequestError when it is too long, because names are
    compared with others, stored in rows, and quoted by backends."""
    name = text.strip()
    if len(name) > MOST_MODEL_CHARS:
        raise RequestError(
            f"`model` must not be longer than {MOST_MODEL_CHARS} characters; it has {len(name)}.", param="model"
        )
    return name

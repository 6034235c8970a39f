"""Translate between the wire form of a client and that of a backend.  Clock and ids are arguments."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from app.types import Body, Dialect, JsonDict, JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplyContext:
    """Hold the data that a reply needs, beside the bytes of the backend."""

    body: Body  # of the request, in the client's wire form
    model: str  # the model that replies
    new_id: Callable[[str], str]  # creates an id with a prefix
    clock: Callable[[], float]  # Unix time in seconds
    reply_id: str = ""  # the id of the document, when the client's wire form has one
    created_at: int = 0  # Unix time in seconds
    input_tokens: int = 0  # the router's estimate for the request
    stored: bool = True  # False: the router does not store the reply; a document with this member must say so
    keep: Callable[[JsonDict], None] = lambda _: (
        None
    )  # called with a document that has an id, before the client gets it; may change it


class Translator(Protocol):
    """Turn requests from a client's wire form into a backend's, and its replies back."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        """Return the body for a target.  `stream` differs from the client's only for shadow calls and probes."""

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:
        """Return a whole reply in the client's form.  It is passed as bytes and parsed.  Raise BackendProtocol."""

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        """Yield a stream in the client's form.  A stream that breaks ends with an error in this form."""

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        """Yield a whole reply as a stream, for a backend that ignored `stream: true`."""


class ThroughChat:
    """Translate between two wire forms through chat."""

    def __init__(self, client: Translator, backend: Translator) -> None:
        """Take the translator between the client's form and chat, and the translator between chat and the backend's
        form."""
        self._client = client
        self._backend = backend

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        return self._backend.request(body, model, dialect, stream=stream)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:
        chat = self._backend.reply(body, document, context)
        return self._client.reply(chat, json.loads(chat), context)

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        return self._client.stream(self._backend.stream(pieces, context), context)

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        return self._client.stream(self._backend.reply_as_stream(document, context), context)

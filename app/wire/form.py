"""Describe a wire form to the code that calls backends: how a reply in that form is read from the side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.types import JsonObject
from app.wire import sse
from app.wire.reply_facts import ReplyFacts, ReplyReading


class Refusal(Protocol):
    """Describe why a backend refused a request."""

    status: int
    message: str
    said: str | None
    param: str | None
    code: str | None


class Watch(Protocol):
    """Read a stream from the side while its bytes pass through unchanged."""

    facts: ReplyFacts
    input_tokens: int | None
    output_tokens: int | None
    has_event: bool  # an event with data has come
    has_end: bool  # the event that ends a stream has come
    error: JsonObject | None  # the document of an error event
    error_visible: bool  # clients take that event for an error too
    failure: str  # the backend's finish reason for a reply that failed; "" = it did not

    @property
    def ended_well(self) -> bool:
        """Return whether the events say that the reply is whole."""

    @property
    def closing(self) -> bytes:
        """Return the bytes that a body lacks at its end; known after `end`."""

    def feed(self, piece: bytes) -> None:
        """Read more bytes, however they were cut."""

    def end(self) -> None:
        """Read what is left at the end of the body."""

    def before_failure(self, piece: bytes) -> bytes:
        """Return the part of a piece that clients get, once the reply has failed in it."""


def _no_other_body(refusal: Refusal, body: bytes) -> None:  # noqa: ARG001
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireForm:
    """Hold the functions that read the replies of one wire form."""

    read: Callable[[JsonObject], ReplyReading]  # a whole reply
    watch: Callable[[], Watch]
    is_document: Callable[[bytes, str], bool] = sse.is_document  # (first bytes, Content-Type) of what is no stream
    other_body: Callable[[Refusal, bytes], bytes | None] = _no_other_body  # to be sent once more after a refusal

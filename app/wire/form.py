"""Describe a wire form to the code that calls backends: how a reply in this form is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from app.types import JsonObject
from app.wire import sse
from app.wire.answer import Answer, Collector
from app.wire.logprobs import LogprobsForm
from app.wire.reply_facts import ReplyFacts, ReplyReading


class Refusal(Protocol):
    """Describe why a backend refused a request."""

    status: int
    message: str
    backend_text: str | None
    param: str | None
    code: str | None


class Watch(Protocol):
    """Read a stream while its bytes pass through unchanged."""

    facts: ReplyFacts
    input_tokens: int | None
    output_tokens: int | None
    has_event: bool  # an event with data has arrived
    has_end: bool  # the event that ends a stream has arrived
    error: JsonObject | None  # the document of an error event
    error_visible: bool  # clients also recognise this event as an error
    failure: str  # the backend's finish reason for a reply that failed; "" = it did not

    @property
    def ended_well(self) -> bool:
        """Return True when the events show that the reply is complete."""

    @property
    def closing(self) -> bytes:
        """Return the bytes that are missing at the end of the body; valid after `end`."""

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the body, which may end anywhere."""

    def end(self) -> None:
        """Read the rest at the end of the body."""

    def before_failure(self, piece: bytes) -> bytes:
        """Return the part of a piece before the failure, which clients get."""


def _no_other_body(refusal: Refusal, body: bytes) -> None:  # noqa: ARG001
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class WireForm:
    """Hold the functions that read the replies of one wire form."""

    read: Callable[[JsonObject], ReplyReading]  # a whole reply
    watch: Callable[[], Watch]
    answer: Callable[[JsonObject], Answer]  # in a whole reply
    collect: Callable[[], Collector]  # the answer in a stream
    is_document: Callable[[bytes, str], bool] = sse.is_document  # (first bytes, Content-Type) of what is no stream
    other_body: Callable[[Refusal, bytes], bytes | None] = _no_other_body  # the body for a second try after a refusal
    logprobs: LogprobsForm | None = None  # None: the router does not ask for them

"""Define a surface: one API for clients, with everything that its clients see.  CONTRIBUTING.md explains how to add
one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Protocol

from app.errors import RouterError
from app.services import Services
from app.types import Buffered, ChatRequest, Environ, Reply, Wire
from app.wire import translator as translator_of
from app.wire.translator import ReplyContext


class Api(Protocol):
    """Describe how the clients of an API send a key, and the form of its errors."""

    document_type: str  # Content-Type of a buffered reply, and of an error
    key_hint: str  # how to send a key, for the message of a 401

    def key(self, environ: Environ) -> str | None:
        """Return the key of a request, as it was sent; None when there is none."""

    def error_document(self, error: RouterError) -> bytes:
        """Return the body of the response for an error."""

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return the headers that only clients of this API understand."""


class Surface(Api, Protocol):
    """Read the requests to one URL, and describe its streams."""

    name: str  # in rows and in the log
    wire: Wire  # the form of its bodies
    stream_type: str  # Content-Type of a stream
    keep_alive: bytes  # sent between events while the backend sends nothing; clients ignore it.  b"" = there is none

    def read(self, environ: Environ, body: bytes, services: Services) -> Exchange:
        """Return the request for the pipeline, and its exchange.  Raise RouterError."""

    def comment(self, text: str) -> bytes:
        """Return the keep-alive that tells what a request waits for; b"" = there is none."""

    def missing_end(self, sent: bytes) -> bytes:
        """Return the bytes that end the event which `sent` leaves open; b"" when it ends with a whole event."""


class Exchange(ABC):
    """Hold one request of a surface, and write its reply: as a document, as a stream, or as the error that ends one."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request

    def document(self, reply: Buffered) -> bytes:
        """Return the body of a buffered reply."""
        translator = translator_of(self.request.wire, reply.wire)
        return translator.reply(reply.body, reply.document, self.context(reply))

    def events(self, reply: Reply) -> Iterator[bytes]:
        """Yield the bytes of a stream.  One that breaks ends with an error event of the surface."""
        translator = translator_of(self.request.wire, reply.wire)
        if isinstance(reply, Buffered):  # the backend ignored `stream`
            return translator.reply_as_stream(reply.document, self.context(reply))
        return translator.stream(reply.chunks, self.context(reply))

    @abstractmethod
    def context(self, reply: Reply) -> ReplyContext:
        """Return the data that a reply needs, beside the bytes of the backend."""

    @abstractmethod
    def failure(self, error: RouterError) -> bytes:
        """Return the end of a stream for which no backend had a reply."""

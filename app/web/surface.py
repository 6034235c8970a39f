"""A surface: one way to ask models, and all that its clients see of it.  CONTRIBUTING.md says how to add one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from app.errors import RouterError
from app.runtime import Runtime
from app.types import Buffered, ChatRequest, Environ, Reply, Wire


class Api(Protocol):
    """Say how the clients of an API send a key, and how they are told of an error."""

    document_type: str  # Content-Type of a reply that is no stream, and of an error
    key_hint: str  # how to send a key, for the message of a 401

    def key(self, environ: Environ) -> str | None:
        """Return the key that a request came with, as it was sent; None when there is none."""

    def error_document(self, error: RouterError) -> bytes:
        """Return the body of the response for an error."""

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return the headers that only clients of this API understand."""


class Surface(Api, Protocol):
    """Read the requests to one URL, and say what a stream of it looks like."""

    name: str  # in rows and in the log
    wire: Wire  # the form of its bodies
    stream_type: str  # Content-Type of a stream
    keep_alive: bytes  # sent while the backend is silent, between events; clients pass over it.  b"" = there is none

    def read(self, environ: Environ, body: bytes, services: Runtime) -> Exchange:
        """Return what a request asks.  Raise RouterError."""

    def missing_end(self, sent: bytes) -> bytes:
        """Return the bytes that end the event which `sent` leaves open; b"" when it ends with a whole event."""


class Exchange(Protocol):
    """Hold one request of a surface, and write its reply in whichever of three ways is needed."""

    @property
    def request(self) -> ChatRequest:
        """The request as the pipeline runs it."""

    def document(self, reply: Buffered) -> bytes:
        """Return the body of a buffered reply."""

    def events(self, reply: Reply) -> Iterator[bytes]:
        """Yield the bytes of a stream.  One that breaks ends with an error event of the surface."""

    def failure(self, error: RouterError) -> bytes:
        """Return the end of a stream for which no backend had a reply."""

"""The common parts of the APIs with bearer keys and server-sent events."""

from __future__ import annotations

from app.types import Environ
from app.web.response import JSON
from app.wire import sse


class EventApi:
    """Read bearer keys, and stream server-sent events."""

    document_type = JSON
    stream_type = "text/event-stream; charset=utf-8"

    def key(self, environ: Environ) -> str | None:
        """Return the bearer key.  AccessControl reads `x-api-key` for every API."""
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def missing_end(self, sent: bytes) -> bytes:
        return sse.missing_end(sent)

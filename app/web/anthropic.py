"""The parts of Anthropic's API that are the same for all of its URLs: keys, errors and streams."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import RouterError
from app.types import Environ
from app.web.response import JSON
from app.wire import sse
from app.wire.json_body import json_bytes
from app.wire.messages.errors import error_document
from app.wire.messages.stream import PING

VERSION = "HTTP_ANTHROPIC_VERSION"  # every client of this API sends it


class Anthropic:
    """Read keys, write errors as Anthropic's SDKs read them, and stream server-sent events."""

    document_type = JSON
    key_hint = "`x-api-key: KEY`"
    stream_type = "text/event-stream; charset=utf-8"
    keep_alive = PING

    def key(self, environ: Environ) -> str | None:
        """Return the bearer key.  AccessControl reads `x-api-key` for every API."""
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def missing_end(self, sent: bytes) -> bytes:
        return sse.missing_end(sent)

    def error_document(self, error: RouterError) -> bytes:
        return json_bytes(error_document(error))

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return `request-id`, which the SDKs show, and `x-should-retry: false` for what no retry can change."""
        headers = {"request-id": error.request_id} if error.request_id else {}
        return headers | ({"x-should-retry": "false"} if error.is_final else {})

"""The common parts of the surfaces for chat and Responses: OpenAI's API. URLs without a surface use it too."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.errors import RouterError
from app.types import Environ
from app.web.response import JSON
from app.wire import sse
from app.wire.chat import errors


class OpenAI:
    """Read bearer keys, write errors as an envelope, and stream server-sent events."""

    document_type = JSON
    key_hint = "`Authorization: Bearer KEY`"
    stream_type = "text/event-stream; charset=utf-8"
    keep_alive = sse.KEEP_ALIVE

    def key(self, environ: Environ) -> str | None:
        scheme, _, key = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        return key.strip() if scheme.lower() == "bearer" else None

    def comment(self, text: str) -> bytes:
        return sse.comment(text)

    def missing_end(self, sent: bytes) -> bytes:
        return sse.missing_end(sent)

    def error_document(self, error: RouterError) -> bytes:
        return json.dumps(errors.error_document(error), ensure_ascii=False).encode("utf-8", "backslashreplace")

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return `x-should-retry: false`, because OpenAI's SDKs repeat a request twice after a 503."""
        headers = {"x-should-retry": "false"} if error.is_final else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})

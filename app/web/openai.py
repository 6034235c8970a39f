"""The common parts of the surfaces for chat and Responses: OpenAI's API. URLs without a surface use it too."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.errors import RouterError
from app.web.event_api import EventApi
from app.wire import sse
from app.wire.chat import errors


class OpenAI(EventApi):
    """Write errors as an envelope."""

    key_hint = "`Authorization: Bearer KEY`"
    keep_alive = sse.KEEP_ALIVE

    def error_document(self, error: RouterError) -> bytes:
        return json.dumps(errors.error_document(error), ensure_ascii=False).encode("utf-8", "backslashreplace")

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return `x-should-retry: false`, because OpenAI's SDKs repeat a request twice after a 503."""
        headers = {"x-should-retry": "false"} if error.is_final else {}
        return headers | ({"WWW-Authenticate": "Bearer"} if error.status == 401 else {})

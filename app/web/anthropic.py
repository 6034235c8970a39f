"""The parts of Anthropic's API that are the same for all of its URLs: errors and pings."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import RouterError
from app.web.event_api import EventApi
from app.wire.json_body import json_bytes
from app.wire.messages.errors import error_document
from app.wire.messages.stream import PING

VERSION = "HTTP_ANTHROPIC_VERSION"  # every client of this API sends it


class Anthropic(EventApi):
    """Write errors as Anthropic's SDKs read them, and keep streams alive with pings."""

    key_hint = "`x-api-key: KEY`"
    keep_alive = PING

    def error_document(self, error: RouterError) -> bytes:
        return json_bytes(error_document(error))

    def error_headers(self, error: RouterError) -> Mapping[str, str]:
        """Return `request-id`, which the SDKs show, and `x-should-retry: false` for what no retry can change."""
        headers = {"request-id": error.request_id} if error.request_id else {}
        return headers | ({"x-should-retry": "false"} if error.is_final else {})

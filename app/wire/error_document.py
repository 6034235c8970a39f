"""Find errors in replies that came with status 200: in a first event, in a later one, in a whole reply."""

from __future__ import annotations

from app.types import JsonObject
from app.wire import sse

_SUCCESS = range(200, 300)


def error_of(document: JsonObject | None, event: bytes = b"") -> JsonObject | None:
    """Return the document when it is an error, else None.  `event` is the name of the event that it came in.

    Servers have many forms: `{"error": …}`, `{"object": "error"}` (older vLLM), `{"type": "error"}`, `{"detail": …}`
    (FastAPI), `{"errors": […]}`, `{"code", "message"}`, and any data under `event: error`.  A part of an answer is none
    of them, whatever its other members are called.
    """
    if document is None:
        return None
    kind = document.get("type")
    if isinstance(kind, str) and kind.startswith("response."):
        return None
    if document.get("error") or event == b"error" or kind == "error" or document.get("object") == "error":
        return document
    if isinstance(document.get("choices"), list) or document.get("object") == "response":
        return None
    if document.get("detail") or document.get("errors"):
        return document
    failed = document.get("code") and document["code"] not in (*_SUCCESS, *map(str, _SUCCESS))
    return document if failed and (document.get("message") or document.get("details")) else None


def error_in(event: bytes, data: bytes | None) -> JsonObject | None:
    """Return the error in an event's data, which may be plain text under `event: error`."""
    document = sse.json_of(data or b"")
    if document is None and event == b"error":
        return {"message": (data or b"").decode("utf-8", "replace").strip()}
    return error_of(document, event)

"""Find errors in the documents and events of backends, also with status 200, and read their text."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonObject
from app.wire import sse

_SUCCESS = range(200, 300)
_ERROR_MEMBERS = ("error", "detail", "message", "details")


def error_of(document: JsonObject | None, event: bytes = b"") -> JsonObject | None:
    """Return the document when it is an error, else None.  `event` is the name of the event that it came in.

    Servers have many forms: `{"error": …}`, `{"object": "error"}` (older vLLM), `{"type": "error"}`, `{"detail": …}`
    (FastAPI), `{"errors": […]}`, `{"code", "message"}`, and any data under `event: error`.  A part of a reply is
    never an error, whatever its members are.
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


def error_of_stored(document: JsonObject) -> JsonObject | None:
    """Return the error that came instead of a stored response, else None.  A response that failed contains an error,
    but is not an error."""
    return None if document.get("object") == "response" else error_of(document)


def error_in(event: bytes, data: bytes | None) -> JsonObject | None:
    """Return the error in an event's data, which may be plain text under `event: error`."""
    document = sse.json_of(data or b"")
    if document is None and event == b"error":
        return {"message": (data or b"").decode("utf-8", "replace").strip()}
    return error_of(document, event)


def error_fields(document: JsonObject) -> dict[str, str | None]:
    """Return message, type, param and code of a backend's error document, in any of its forms: an object, a text or
    `detail`."""
    error = next((document[name] for name in _ERROR_MEMBERS if document.get(name)), None)
    fields: dict[str, object] = {name: value for name, value in document.items() if isinstance(value, (str, int))}
    fields |= error if isinstance(error, Mapping) else {"message": _text_of(error)}
    named = {name: fields.get(name) for name in ("message", "type", "param", "code")}
    return {name: str(value) if value not in (None, "", "error") else None for name, value in named.items()}


def _text_of(error: object) -> str | None:
    """Return the text of an error that is no object: a text, or FastAPI's list of wrong fields."""
    if isinstance(error, list):
        entries = [entry for entry in error if isinstance(entry, Mapping) and entry.get("loc") and entry.get("msg")]
        places = [".".join(map(str, at)) if isinstance(at := entry["loc"], list) else str(at) for entry in entries]
        return "; ".join(f"{place}: {entry['msg']}" for place, entry in zip(places, entries, strict=True)) or None
    return error if isinstance(error, str) else None


def unquoted(document: JsonObject) -> JsonObject:
    """Return the error document that a server quotes as the text of its own, or else the document itself.  Ollama
    quotes that of its inference server: `{"error": "{\\"error\\": {\\"n_ctx\\": 4096, …}}"}`."""
    error = document.get("error")
    quoted = sse.json_of(error.encode("utf-8", "replace")) if isinstance(error, str) and error.startswith("{") else None
    return quoted if quoted and quoted.get("error") else document

"""Read errors of Ollama's API, and return them in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.types import JsonDict, JsonObject
from app.wire import sse
from app.wire.form import Refusal


def error_of(document: JsonObject) -> JsonDict:
    """Return the error in a line or a document that has one: `{"error": "text"}`.

    The text may quote the whole error document of the inference server behind it
    (`{"error": "{\\"error\\": {\\"n_ctx\\": 4096, …}}"}`): that is returned then.
    """
    error = document.get("error")
    quoted = sse.json_of(error.encode()) if isinstance(error, str) and error.startswith("{") else None
    inner = quoted.get("error") if quoted else error
    if isinstance(inner, Mapping):
        return {"type": "server_error", "param": None, "code": None, **inner, "message": str(inner.get("message"))}
    return {"message": str(inner), "type": "server_error", "param": None, "code": None}


def other_body(refusal: Refusal, body: bytes) -> bytes | None:
    """Return a body without the wish for reasoning that the model refused; None for any other refusal."""
    if "does not support thinking" not in (refusal.backend_text or ""):
        return None
    document = json.loads(body)
    if document.pop("think", None) is None:
        return None
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")

"""Read errors of Ollama's API, and return them in OpenAI's form."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.types import JsonDict, JsonObject
from app.wire.error_document import unquoted
from app.wire.form import Refusal
from app.wire.json_body import json_bytes


def error_of(document: JsonObject) -> JsonDict:
    """Return the error in a line or a document that has one: `{"error": "text"}`."""
    error = unquoted(document)["error"]
    if isinstance(error, Mapping):
        return {"type": "server_error", "param": None, "code": None, **error, "message": str(error.get("message"))}
    return {"message": str(error), "type": "server_error", "param": None, "code": None}


def other_body(refusal: Refusal, body: bytes) -> bytes | None:
    """Return a body without the wish for reasoning that the model refused; None for any other refusal."""
    if "does not support thinking" not in (refusal.backend_text or ""):
        return None
    document = json.loads(body)
    if document.pop("think", None) is None:
        return None
    return json_bytes(document)

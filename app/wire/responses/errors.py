"""Word errors of chat backends as the Responses API does."""

from __future__ import annotations

from collections.abc import Mapping

from app.redaction import excerpt
from app.types import JsonObject
from app.wire.error_document import error_fields

ErrorFields = Mapping[str, str | None]


def backend_error(document: JsonObject) -> dict[str, str | None]:
    """Return message, type, param and code of a backend's error, cut, without anything shaped like a key."""
    return {name: excerpt(value) if value else None for name, value in error_fields(document).items()}

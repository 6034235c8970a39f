"""Write errors of chat backends in the form of the Responses API."""

from __future__ import annotations

from collections.abc import Mapping

from app.redaction import excerpt
from app.types import JsonObject
from app.wire.error_document import error_fields

ErrorFields = Mapping[str, str | None]


def backend_error(document: JsonObject) -> dict[str, str | None]:
    """Return message, type, param and code of a backend's error, shortened and without keys."""
    return {name: excerpt(value) if value else None for name, value in error_fields(document).items()}

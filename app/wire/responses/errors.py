"""Errors of chat backends in the words of the Responses API."""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import error_fields, excerpt
from app.types import JsonObject

ErrorFields = Mapping[str, str | None]


def backend_error(document: JsonObject) -> dict[str, str | None]:
    """message, type, param and code of a backend's error, cut, without anything shaped like a key."""
    return {name: excerpt(value) if value else None for name, value in error_fields(document).items()}

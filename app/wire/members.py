"""Read the members of a request body that must have a certain type.  `null` means absent."""

from __future__ import annotations

from typing import TypeVar

from app.errors import RequestError
from app.types import JsonObject

NUMBER = (int, float)
_KINDS: dict[object, str] = {
    str: "a string",
    int: "an integer",
    NUMBER: "a number",
    bool: "true or false",
    list: "an array",
    dict: "an object",
}

T = TypeVar("T")


def read_member(fields: JsonObject, name: str, kind: type[T] | tuple[type[T], ...], prefix: str = "") -> T | None:
    """Return a member of the right kind, or None; a boolean is no number.  Raise RequestError that names it, with the
    `prefix` of its place in the body."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise RequestError(f"`{prefix}{name}` must be {_KINDS[kind]}.", param=f"{prefix}{name}")
    return value

"""Send a request with other members than the client's."""

from __future__ import annotations

import json
from functools import cached_property

from app.types import Body, Dialect, JsonDict, JsonObject, Wire
from app.wire.json_body import scan_object


class WithMembers:
    """Send a body with some members added or replaced (implements types.Body).  All other bytes stay the same.  It is
    sent as chat, or translated from chat, whatever the form of the client's body is."""

    def __init__(self, inner: Body, members: JsonObject, wire: Wire | None = None) -> None:
        """Take the names and the values of the members.  `wire` replaces the form of the client's body, so that a
        backend that speaks that form gets a chat body too."""
        self.wire = wire or inner.wire
        self._inner = inner
        self._members = members

    @cached_property
    def chat(self) -> JsonDict:
        return {**self._inner.chat, **self._members}

    @property
    def original(self) -> object:
        return self._inner.original

    def translate(self, dialect: Dialect) -> None:
        self._inner.translate(dialect)

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        return with_members(self._inner.encode(model, dialect, stream=stream), self._members, self._inner.chat)


def with_members(raw: bytes, members: JsonObject, before: JsonObject) -> bytes:
    """Return a body with other members.  `before` has the names of its members, so that a large body is parsed again
    only when a value must be replaced."""
    texts = {name: json.dumps(value) for name, value in members.items()}
    if raw.startswith(b"{") and not any(name.casefold() in texts for name in before):
        added = "".join(f'"{name}":{text},' for name, text in texts.items())
        return b"{" + added.encode() + raw[1:]
    return scan_object(raw.decode("utf-8")).with_members(texts)


def without_members(raw: bytes, members: JsonObject) -> bytes:
    """Return a body without some members."""
    return scan_object(raw.decode("utf-8")).with_members({}, tuple(members))

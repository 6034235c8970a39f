"""Write errors of the chat API for clients, and read refusals of servers that support fewer parameters."""

from __future__ import annotations

from app.errors import BackendRejected, RouterError
from app.types import JsonObject
from app.wire import sse
from app.wire.chat.request import without
from app.wire.form import Refusal

_NAMES = {  # the names of a parameter in refusals
    "max_tokens": ("max_tokens",),
    "max_completion_tokens": ("max_completion_tokens",),
    "reasoning_effort": ("reasoning_effort", "reasoning effort", "reasoning value", "support thinking"),
    "verbosity": ("verbosity",),
    "developer": ("developer",),
}
_UNSUPPORTED = (
    "unsupported",
    "not supported",
    "not support",
    "unknown",
    "unrecognized",
    "unrecognised",
    "unexpected",
    "not permitted",
    "not allowed",
)
# The texts of servers about an unknown value: for an effort or a role, the value itself is refused.
_BAD_VALUES = (*_UNSUPPORTED, "invalid", "input should be", "must be one of", "expected one of")


def error_document(error: RouterError) -> JsonObject:
    """Return `{"error": {"message", "type", "param", "code"}}` with all four members, or the backend's own error
    document when the client made a mistake that only the backend noticed."""
    if isinstance(error, BackendRejected) and error.document is not None:
        return error.document
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_event(error: RouterError) -> bytes:
    """Return the event that ends a failed stream."""
    return sse.event(error_document(error))


def other_body(refusal: Refusal, body: bytes) -> bytes | None:
    """Return a body without the parameter that the server does not support; None when the refusal has another
    reason."""
    member = refused_member(refusal)
    return without(body, member) if member else None


def refused_member(refusal: Refusal) -> str | None:
    """Return the parameter that a server does not support; None when the refusal has another reason."""
    if refusal.status not in (400, 422):
        return None
    text = f"{refusal.backend_text or ''} {refusal.code or ''}".lower()
    name = refusal.param if refusal.param in _NAMES else _first_named(text)
    signs = _BAD_VALUES if name in ("reasoning_effort", "developer") else _UNSUPPORTED
    return name if name and any(sign in text for sign in signs) else None


def _first_named(text: str) -> str | None:
    """Return the parameter that a refusal names first: the later ones are those to use instead."""
    places = [(text.find(word), name) for name, words in _NAMES.items() for word in words]
    return min((place for place in places if place[0] >= 0), default=(0, None))[1]

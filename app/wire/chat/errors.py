"""Refusals of chat servers: which word of a body they are about."""

from __future__ import annotations

from typing import Protocol

_NAMES = {  # how refusals name a word
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
# What servers say of a value that they do not know: of an effort and of a role it is the word that is refused.
_BAD_VALUES = (*_UNSUPPORTED, "invalid", "input should be", "must be one of", "expected one of")


class Refusal(Protocol):
    """What a backend said against a request."""

    status: int
    message: str
    said: str | None
    param: str | None
    code: str | None


def refused_member(refusal: Refusal) -> str | None:
    """Return the word of a dialect that a server refuses to know; None when its refusal is about anything else."""
    if refusal.status not in (400, 422):
        return None
    said = f"{refusal.said or ''} {refusal.code or ''}".lower()
    name = refusal.param if refusal.param in _NAMES else _first_named(said)
    signs = _BAD_VALUES if name in ("reasoning_effort", "developer") else _UNSUPPORTED
    return name if name and any(sign in said for sign in signs) else None


def _first_named(said: str) -> str | None:
    """Return the word that a refusal names first: what it names later is what to say instead."""
    places = [(said.find(word), name) for name, words in _NAMES.items() for word in words]
    return min((place for place in places if place[0] >= 0), default=(0, None))[1]

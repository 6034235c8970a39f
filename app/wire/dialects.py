"""Words of OpenAI's chat API that some servers refuse or ignore: what is changed in a body, what a refusal names."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Protocol

from app.types import Dialect, JsonObject

OTHER_LIMIT = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
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


def edit(document: JsonObject, raw: Callable[[str], str], dialect: Dialect, members: dict[str, str]) -> Collection[str]:
    """Put the members of a chat body that a dialect words otherwise into `members`, as JSON text, and return the names
    of those that must go.  `raw` returns the text of a member."""
    without: tuple[str, ...] = ()
    wanted = dialect.max_tokens_field
    if dialect.max_tokens_only and document.get(other := OTHER_LIMIT[wanted]) is not None:
        if other == "max_completion_tokens" or document.get(wanted) is None:  # the newer name counts
            members[wanted] = raw(other)
        without = (other,)
    effort = document.get("reasoning_effort")
    if isinstance(effort, str) and effort in dialect.efforts:
        members["reasoning_effort"] = json.dumps(dialect.efforts[effort])
    return without


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

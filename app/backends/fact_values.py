"""Read the values that a server tells about its models.  A server may tell anything: a value of the wrong kind, or one
that cannot be true, counts as not told.
"""

from __future__ import annotations

from app.types import CAPABILITIES

_MOST_TOKENS = 1_000_000_000  # as in the policy
_MOST_BYTES = 2**53
_MOST_PLACES = 10_000


def tokens(value: object) -> int | None:
    return _whole(value, _MOST_TOKENS)


def size_bytes(value: object) -> int | None:
    return _whole(value, _MOST_BYTES)


def places(value: object) -> int | None:
    return _whole(value, _MOST_PLACES)


def capabilities(value: object) -> frozenset[str] | None:
    """Return the known words of a list.  A server that lists none does not tell them."""
    words = frozenset(word for word in value if isinstance(word, str)) if isinstance(value, list) else frozenset()
    return words.intersection(CAPABILITIES) if words else None


def smallest(*windows: int | None) -> int | None:
    """Return the smallest window that is known."""
    return min((window for window in windows if window is not None), default=None)


def _whole(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None

"""Decide which waiting call gets the next free place.  Pure."""

from __future__ import annotations

from app.types import Lane

LANES = tuple(Lane)
PATIENCE_NS = 30_000_000_000  # a call that has waited so long goes before all that came later, whatever they want

Rank = tuple[int, bool, int]


def rank(lane: int, arrival_ns: int, now_ns: int, *, loads: bool) -> Rank:
    """Return the rank of a waiting call: the lowest one is the next.  `lane` is a position in LANES.  `loads` is True
    when the call would make the server load another model; such a call goes after those of its lane that would not."""
    if now_ns - arrival_ns >= PATIENCE_NS:
        return 0, False, arrival_ns
    return lane, loads, arrival_ns


def packed(lane: int, arrival_ns: int, *, loads: bool) -> int:
    """Return the three facts about a waiting call as one number of 63 bits, which another process reads as a whole."""
    return arrival_ns << 3 | lane << 1 | loads


def rank_of(call: int, now_ns: int) -> Rank:
    """Return the rank of a call from its packed facts."""
    return rank(call >> 1 & 3, call >> 3, now_ns, loads=bool(call & 1))

"""Order the members of a pool for one request.  Pure.

Each conversation has an own member: the first by a weighted rendezvous hash (Wang and Ravishankar; weights by
-w / ln u), which every worker computes alike.  When a member leaves, only its own conversations move.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from itertools import groupby
from typing import NamedTuple

from app.routing.choice import Choice, Rank, target_name
from app.types import ChatRequest, Conversation, Pool, Target

_MOST_CHARS = 2_000  # of each text at the start of a conversation: enough to tell conversations apart
_MOST_MESSAGES = 8  # before the first reply
_MOST_PARTS = 8  # of a message
_MS_A_TOKEN = 1.0  # to read a prompt: 1,000 tokens a second, less than most GPUs and more than most CPUs reach


def pool(choice: Choice) -> None:
    """Order the members of each pool, and let the first one stand for the pool as the primary."""
    if all(target.pool is None for target in choice.targets):
        return
    targets: list[Target] = []
    for name, group in groupby(choice.targets, key=lambda target: target.pool):
        members = tuple(group)
        if name is not None and len(members) > 1:
            members = _ordered(name, members, choice)
        if name is not None and name == choice.primary:
            choice.primary = members[0].backend
        targets += members
    choice.targets = tuple(targets)


# --- the own member of a conversation -----------------------------------------------------------


def conversation_of(request: ChatRequest) -> Conversation:
    """Return the conversation of a request: by the messages before the first reply, and by its session identifier."""
    if request.conversation is not None:
        return request.conversation
    messages = request.body.chat.get("messages")
    start, is_first = _start(messages if isinstance(messages, list) else [])
    text = "\0".join((request.session[:_MOST_CHARS], *start))
    return Conversation(_number(text, 2), is_first)


def _start(messages: Sequence[object]) -> tuple[list[str], bool]:
    """Return the roles and texts before the first reply, and True when there is no reply yet."""
    start: list[str] = []
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        if message.get("role") == "assistant":
            return start, False
        if index < _MOST_MESSAGES:
            start += (str(message.get("role")), *_texts(message.get("content")))
    return start, True


def _number(text: str, size: int) -> int:
    """Return a hash of `size` bytes."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest())


def conversation_of_id(request_id: str) -> Conversation:
    """Return a conversation for a request whose own one is not known, so that weights hold over such requests."""
    return Conversation(_number(request_id, 2), is_first=True)


def _texts(content: object) -> Iterator[str]:
    """Yield the beginnings of the texts, and of the addresses of images, in the content of a message."""
    if isinstance(content, str):
        yield content[:_MOST_CHARS]
    for part in content[:_MOST_PARTS] if isinstance(content, list) else ():
        for value in part.values() if isinstance(part, dict) else ():
            inner = value.get("url") if isinstance(value, dict) else value
            if isinstance(inner, str):
                yield inner[:_MOST_CHARS]


def _share(key: int, member: str) -> float:
    """Return -1 / ln u for a number u between 0 and 1 that belongs to the conversation and the member."""
    return -1.0 / math.log((_number(f"{key}/{member}", 8) + 1) / (2**64 + 2))


def ranks(key: int, members: tuple[str, ...], rules: Pool) -> dict[str, int]:
    """Return the rank of each member for a conversation; 0 = its own member."""
    ordered = sorted(members, key=lambda name: (-rules.weight(name) * _share(key, name), name))
    return {name: rank for rank, name in enumerate(ordered)}


# --- the order of members -----------------------------------------------------------------------


class _Member(NamedTuple):
    """Hold the state of one member."""

    target: Target
    rank: int  # by the hash; 0 = the own member
    ill: bool  # it is tried last: its circuit is open, for example
    full: bool  # all places are taken
    limited: bool  # it has places
    cold: bool  # the model is not loaded
    in_flight: int
    wait_ms: float  # for a place
    read_ms: float  # to load the model and to read the transcript


def _ordered(name: str, targets: tuple[Target, ...], choice: Choice) -> tuple[Target, ...]:
    rules = choice.policy.pools[name]
    if choice.conversation is None:
        choice.conversation = conversation_of(choice.request)
    rank = ranks(choice.conversation.key, tuple(target.backend for target in targets), rules)
    members = [_member(target, rank[target.backend], choice) for target in targets]
    weighted, is_first = bool(rules.weights), choice.conversation.is_first
    own, patience_ms = _first_turn(members, weighted=weighted) if is_first else _later_turn(members, choice)
    others = sorted((one for one in members if one is not own), key=_by_weight if weighted else _by_state)
    first = own or others.pop(0)
    _tell(name, first, others, patience_ms, choice)
    targets = (first.target, *(one.target for one in others))
    return targets if patience_ms is None else (replace(first.target, patience_ms=patience_ms), *targets[1:])


def _by_weight(member: _Member) -> tuple[float, ...]:
    return member.ill, member.full, member.rank


def _by_state(member: _Member) -> tuple[float, ...]:
    return member.ill, member.full, member.cold, member.in_flight, member.wait_ms, member.rank


def _member(target: Target, rank: int, choice: Choice) -> _Member:
    observations, config, expected = choice.observations, choice.config(target), choice.expected(target)
    is_unhealthy = target.backend in observations.unhealthy or target.backend in observations.busy
    read_ms = max(expected.warm_ms or 0.0, choice.tags.tokens * _MS_A_TOKEN)
    return _Member(
        target=target,
        rank=rank,
        ill=is_unhealthy or not target.model or choice.rank(target) > Rank.READY,
        full=expected.ahead > 0,
        limited=bool(config.max_concurrency.get(config.places_of(target.model))),
        cold=expected.is_cold,
        in_flight=observations.in_flight.get(target.backend, 0),
        wait_ms=expected.wait_ms or 0.0,
        read_ms=(expected.load_ms or 0.0) + read_ms,
    )


def _first_turn(members: list[_Member], *, weighted: bool) -> tuple[_Member | None, float | None]:
    """Return the member that the first request of a conversation prefers, and its Target.patience_ms.  It is the own
    member when that has a free place, and with weights the next one by the hash that has one.  Return None when no
    member is preferred."""
    free = sorted((member for member in members if not member.ill and not member.full), key=_by_weight)
    if not free:
        return None, None
    if weighted:
        return free[0], 0.0
    own = min((member for member in members if not member.ill), key=lambda member: member.rank)
    is_idle = own.limited or own.in_flight <= min(member.in_flight for member in free)
    if own not in free or not is_idle:
        return None, None
    is_mixed = not own.limited and any(member.limited for member in free)
    return own, 0.0 if is_mixed else None  # without it, the call takes a free place of a member with places


def _later_turn(members: list[_Member], choice: Choice) -> tuple[_Member | None, float | None]:
    """Return the own member of a conversation that goes on, and how long it may wait there in ms: as long as the
    policy allows, and no longer than another member needs to read the whole transcript.  Return None when it would
    wait longer."""
    own = min((member for member in members if not member.ill), key=lambda member: member.rank, default=None)
    if own is None:
        return None, None
    elsewhere = (one.wait_ms + one.read_ms for one in members if one is not own and not one.ill)
    longest_ms = choice.config(own.target).longest_wait_ms if own.limited else 0.0
    patience_ms = min((longest_ms, *elsewhere))
    return (own, patience_ms) if own.wait_ms <= patience_ms else (None, None)


def _tell(name: str, first: _Member, others: list[_Member], patience_ms: float | None, choice: Choice) -> None:
    for member in others:
        if member.full and not member.ill:
            choice.note("pool", f"{name}: {target_name(member.target)} is passed over, all its places are taken")
    if first.rank < min((one.rank for one in others if not one.ill), default=first.rank + 1):
        why = "the own member of the conversation"
    elif first.full:
        why = "its wait is the shortest"
    else:
        why = "it has a free place"
    if first.full and patience_ms:
        why += f", which waits up to {patience_ms:.0f} ms for a place"
    choice.note("pool", f"{name}: {target_name(first.target)} goes first, {why}")

"""Tell the workers of one machine of each other's requests and escalations, before these have rows in the database.

The events are in a ring in shared memory: an event overwrites the oldest one, and each worker reads those that are new
to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from app.places.table import Lock, hash_of, memory

SHARES_FD = "_LLR_SHARES_FD"  # gunicorn.conf.py sets it for the workers; absent = this process alone
_EVENTS = 8192  # a worker reads them once a second at least
_WORDS = 3  # of an event
_BYTES = 8 * (1 + _EVENTS * _WORDS)  # 200 kB; the first word is the number of all events so far
_KIND_BITS = 2


class EventKind(IntEnum):
    """Name what happened to a request."""

    BEGUN = 0
    CLAIMED = 1  # it may be escalated
    WITHDRAWN = 2  # it was not escalated after all


class Event(NamedTuple):
    """Hold one event; names are hashes (places.table.hash_of)."""

    route: int
    request: int
    ts_ms: int
    kind: EventKind


class ShareEvents:
    """Append events, and read those of all workers.  Both must be done under `lock`."""

    def __init__(self, fd: int | None = None) -> None:
        """`fd` is a file that the master opened before it forked; None: this process is alone.  Events from before are
        not read: they have rows, or will have them soon."""
        self.lock = Lock(fd)
        with self.lock:
            self._words = memoryview(memory(fd, _BYTES)).cast("q")
            self._read = self._words[0]

    def append(self, route: str, request_id: str, now_ms: int, kind: EventKind) -> None:
        count = self._words[0]
        begin = self._begin(count)
        event = (hash_of(route), hash_of(request_id), now_ms << _KIND_BITS | kind)
        for place, word in enumerate(event):
            self._words[begin + place] = word
        self._words[0] = count + 1

    def news(self) -> Iterator[Event]:
        """Yield the events since the last time."""
        count = self._words[0]
        for number in range(max(self._read, count - _EVENTS), count):
            begin = self._begin(number)
            route, request, moment = self._words[begin : begin + _WORDS]
            kind = EventKind(moment & (1 << _KIND_BITS) - 1)
            yield Event(route, request, moment >> _KIND_BITS, kind)
        self._read = count

    def _begin(self, number: int) -> int:
        return 1 + number % _EVENTS * _WORDS

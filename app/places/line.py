"""Hold the groups of places, and the calls of this worker that wait for them."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from gevent.event import Event

from app.places.order import rank
from app.places.table import Cells, hash_of
from app.types import Target, model_key


@dataclass(slots=True, eq=False)
class Waiter:
    """Hold a waiting call.  It gets the first place that becomes free for one of its targets."""

    wanted: Sequence[tuple[Group, Target]]
    lane: int  # a position in order.LANES
    arrival_ns: int
    number: int  # tells calls apart that arrived at the same time
    signal: Event = field(default_factory=Event)
    place: Place | None = None
    begin: dict[Group, tuple[int, int]] = field(default_factory=dict)  # then: calls waiting in its lane, and served


class Line:
    """Hold the calls of this worker that wait for one group, in the order of arrival for each lane and model."""

    def __init__(self) -> None:
        self._calls: dict[tuple[int, str], list[tuple[int, int, Waiter, Target]]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, waiter: Waiter, target: Target) -> None:
        calls = self._calls.setdefault((waiter.lane, target.model), [])
        insort(calls, (waiter.arrival_ns, waiter.number, waiter, target))

    def remove(self, waiter: Waiter, target: Target) -> None:
        kind = waiter.lane, target.model
        calls = self._calls[kind]
        del calls[bisect_left(calls, (waiter.arrival_ns, waiter.number))]
        if not calls:
            del self._calls[kind]

    def next(self, now_ns: int, loads: Callable[[str], bool]) -> tuple[Waiter, Target, bool]:
        """Return the call that gets the next place, its target, and whether it would load another model.  `loads` says
        this of a model.  Only the first call of each lane and model can be the next."""
        firsts = [(calls[0], loads(model)) for (_, model), calls in self._calls.items()]
        (_, _, waiter, target), would_load = min(
            firsts, key=lambda one: (rank(one[0][2].lane, one[0][0], now_ns, loads=one[1]), one[0][1])
        )
        return waiter, target, would_load


class Group:
    """Hold the places that a backend's calls to some models share."""

    __slots__ = (
        "_latest",
        "_name",
        "backend",
        "calls",
        "first",
        "hash",
        "latest",
        "limit",
        "limits",
        "line",
        "model",
        "name",
        "served",
    )

    def __init__(self, backend: str, name: str, limit: int, cells: Cells) -> None:
        """`name` is BackendConfig.places_of; `limit` 0 = no limit."""
        self.backend, self.name = backend, name
        self.limit = limit
        self.line = Line()
        self.calls, self.limits, self.first, self.served = cells.calls, cells.limits, cells.first, cells.served
        self.latest, self._name = cells.model, cells.name
        self.model = ""  # the model of the latest call of this worker
        self.hash = 0
        self._latest = 0, ""

    def note_model(self, model: str) -> None:
        """Note the model of the latest call that got a place.  Must be called under the lock."""
        if model != self.model:
            self.model, self.hash = model, hash_of(model_key(model))
        if self.latest[0] != self.hash:
            name = model.encode("utf-8", "replace")[: len(self._name)]
            self._name[:] = name.ljust(len(self._name), b"\0")
            self.latest[0] = self.hash

    def runs(self, model: str) -> bool:
        """Return True for the model of the latest call of all workers."""
        return hash_of(model_key(model)) == self.latest[0]

    def latest_model(self) -> str:
        """Return the name of the model of the latest call of all workers; "" = unknown."""
        if self._latest[0] != self.latest[0]:
            name = bytes(self._name).rstrip(b"\0").decode("utf-8", "replace")
            number = hash_of(model_key(name))
            if number != self.latest[0]:
                return ""  # another worker is writing it
            self._latest = number, name
        return self._latest[1]


class Place(NamedTuple):
    """The right to one call to a target, until it is released."""

    group: Group
    target: Target

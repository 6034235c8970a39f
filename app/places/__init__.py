"""Limit the calls that a backend gets at the same time (`maxConcurrency`), first come first served over all workers of
the machine.

The shared table says how many calls each worker has, and which of its waiting calls is the first.  A worker gives a
free place to its own waiting call when that is the first of all: at once when one of its own calls ends, and otherwise
when its poller notices the free place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import gevent

from app.errors import NoPlace
from app.places.line import Group, Place, Waiter
from app.places.order import LANES, packed, rank_of
from app.places.table import MOST_WAITING, RUNNING, WAITING, Table, running, waiting
from app.types import BackendConfig, Lane, Queue, Target, model_key

__all__ = ["PLACES_FD", "Place", "Places"]

PLACES_FD = "_LLR_PLACES_FD"  # gunicorn.conf.py sets it for the workers; absent = this process alone
_LOOK_EVERY_S = 0.005
_CLEAR_EVERY_NS = 250_000_000
_SILENT_NS = 1_000_000_000  # the waiting calls of a worker that has not looked for so long are passed over

Loads = Callable[[str, str], bool]
"""A function that returns True when a backend would have to load a model first."""


Tell = Callable[[Callable[[], str]], AbstractContextManager[None]]
"""A function that takes the description of a wait, which holds in the block of the context."""


def _tell_none(_describe: Callable[[], str]) -> AbstractContextManager[None]:
    return nullcontext()


def _never(_backend: str, _model: str) -> bool:
    return False


class Places:
    """Hold the places of all backends, for one worker."""

    def __init__(
        self,
        configs: Iterable[BackendConfig],
        fd: int | None = None,
        *,
        loads: Loads = _never,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`fd` is the file that the master opened; None: this process is alone.  `clock_ns` must be the same for all
        processes of the machine."""
        self._configs = tuple(configs)
        self._table = Table(fd)
        self._loads = loads
        self._clock_ns = clock_ns
        self._numbers = itertools.count()
        self._is_polling = False
        self._cleared_ns = 0  # when dead workers were last looked for
        self._claim()

    def _claim(self) -> None:
        """Take a row of the table, at the start and in the child of a fork."""
        names = [(config, name) for config in self._configs for name in {"*": 0, **config.max_concurrency}]
        cells = self._table.claim(
            (f"{config.name} {config.endpoint} {name}", config.max_concurrency.get(name, 0)) for config, name in names
        )
        self._groups: dict[str, dict[str, Group]] = {config.name: {} for config in self._configs}
        for (config, name), own in zip(names, cells, strict=True):
            self._groups[config.name][name] = Group(config.name, name, config.max_concurrency.get(name, 0), own)
        self._limited = [group for groups in self._groups.values() for group in groups.values() if group.limit]
        self._only = {name: groups["*"] for name, groups in self._groups.items() if len(groups) == 1}
        self._lock = self._table.lock
        self._enter, self._leave = self._lock.enter, self._lock.leave
        self._waited: set[Group] = set()  # groups that calls of this worker wait for

    # --- what callers do ------------------------------------------------------------------------

    def take(self, targets: Sequence[Target]) -> Place | None:
        """Return a place that is free now: for the first target with a limit that has one, else for the target without
        a limit that has the fewest calls.  Return None when all places are taken, or other calls wait for them."""
        table, target = self._table, targets[0]
        if table.row < 0:
            self._claim()
        group = self._only.get(target.backend) or self._group(target)
        if len(targets) == 1 and not group.limit:
            group.calls[table.row] += RUNNING
            return Place(group, target)
        self._enter()
        try:
            if len(targets) > 1:
                return self._take_one([(self._group(target), target) for target in targets])
            if sum(group.calls[: table.used[0]]) >= group.limit:  # as in _calls
                return None
            group.calls[table.row] += RUNNING
            if target.model != group.model or group.hash != group.latest[0]:
                group.note_model(target.model)
            return Place(group, target)
        finally:
            self._leave()

    def release(self, place: Place) -> None:
        """Release a place at the end of its call.  The next waiting call gets it, if that is one of this worker."""
        group = place.group
        group.calls[self._table.row] -= RUNNING
        if group in self._waited:
            with self._lock:
                self._serve(group)

    def wait(
        self,
        targets: Sequence[Target],
        lane: Lane,
        wait_s: float,
        arrival_ns: int | None = None,
        tell: Tell = _tell_none,
    ) -> Place:
        """Return the first place that becomes free for one of these targets.  Raise NoPlace when none does within
        `wait_s`.  `arrival_ns` is the time when the request began to wait, if it has waited before.  `tell` gets a
        function that describes the wait."""
        arrival_ns = self._clock_ns() if arrival_ns is None else arrival_ns
        wanted = [(self._group(target), target) for target in targets]
        waiter = Waiter(wanted, LANES.index(lane), arrival_ns, next(self._numbers))
        self._join(waiter)
        try:
            with tell(partial(self._describe, waiter)):
                waiter.signal.wait(wait_s)
        except BaseException:
            if waiter.place is not None:
                self.release(waiter.place)
            raise
        finally:
            if waiter.place is None:
                self._withdraw(waiter)
        if waiter.place is None:
            raise NoPlace(f"{_all_places(wanted)} stayed taken for {wait_s:g} s")
        return waiter.place

    # --- what others see ------------------------------------------------------------------------

    def queues(self) -> dict[tuple[str, str], Queue]:
        """Return the state of the places that are all taken, as in Observations."""
        queues = {}
        for group in self._limited:
            calls = self._calls(group)
            if calls >= group.limit:
                queues[group.backend, group.name] = Queue(group.limit, waiting(calls), group.latest_model())
        if queues and not self._waited:
            self._clear_dead()  # else places of a dead worker could stay taken, because no call waits for them
        return queues

    @property
    def fd(self) -> int | None:
        """Return the file that all workers share; None: this process is alone."""
        return self._table.fd

    def in_flight(self, backend: str) -> int:
        """Return the calls of all workers to a backend."""
        return sum(running(self._calls(group)) for group in self._groups[backend].values())

    def own(self, backend: str) -> tuple[int, tuple[int, int, int]]:
        """Return the calls of this worker to a backend, and those that wait, by lane."""
        word = sum(group.calls[self._table.row] for group in self._groups[backend].values())
        return running(word), waiting(word)

    # --- turns ----------------------------------------------------------------------------------

    def _group(self, target: Target) -> Group:
        groups = self._groups[target.backend]
        return groups.get(model_key(target.model)) or groups["*"]

    def _calls(self, group: Group) -> int:
        """Return the sum of the words of all workers.  It is less than the limit when a place is free and no call
        waits, because waiting calls stand in higher bits than running ones."""
        return sum(group.calls[: self._table.used[0]])

    def _describe(self, waiter: Waiter) -> str:
        names = " or ".join(dict.fromkeys(group.backend for group, _ in waiter.wanted))
        return f"waiting for a place at {names}, {min(self._ahead(waiter, group) for group in waiter.begin)} ahead"

    def _ahead(self, waiter: Waiter, group: Group) -> int:
        """Return about how many calls run or wait before a waiting one.  Those of its lane were counted when it began
        to wait; since then some have got a place, and others may have left."""
        by_lane = waiting(self._calls(group))
        before, served = waiter.begin[group]
        same_lane = min(before - (group.served[waiter.lane] - served), by_lane[waiter.lane] - 1)
        return group.limit + sum(by_lane[: waiter.lane]) + max(same_lane, 0)

    def _run(self, group: Group, target: Target) -> Place:
        """Count a call that has a place now."""
        group.calls[self._table.row] += RUNNING
        if group.limit:
            group.note_model(target.model)
        return Place(group, target)

    def _take_one(self, wanted: Sequence[tuple[Group, Target]]) -> Place | None:
        """Take a place for one of several targets, under the lock."""
        for group, target in wanted:
            if group.limit and self._calls(group) < group.limit:
                return self._run(group, target)
        unlimited = [one for one in wanted if not one[0].limit]
        return self._run(*min(unlimited, key=lambda one: running(self._calls(one[0])))) if unlimited else None

    def _join(self, waiter: Waiter) -> None:
        """Let a call wait for all the places that it wants.  It may get one at once."""
        row = self._table.row
        with self._lock:
            if any(sum(waiting(self._calls(group))) >= MOST_WAITING for group, _ in waiter.wanted):
                raise NoPlace(f"{_all_places(waiter.wanted)} are taken, and {MOST_WAITING} requests wait for them")
            self._table.looks[row] = self._clock_ns()
            for group, target in waiter.wanted:
                waiter.begin[group] = waiting(self._calls(group))[waiter.lane], group.served[waiter.lane]
                group.line.add(waiter, target)
                group.calls[row] += WAITING[waiter.lane]
                self._waited.add(group)
            for group, _ in waiter.wanted:
                self._serve(group)
        if self._waited and not self._is_polling:
            self._is_polling = True
            gevent.spawn(self._poll)

    def _withdraw(self, waiter: Waiter) -> None:
        """Take a call out of its lines.  The next one may have its turn now."""
        with self._lock:
            self._remove(waiter)
            for group, _ in waiter.wanted:
                self._serve(group)

    def _remove(self, waiter: Waiter) -> None:
        for group, target in waiter.wanted:
            group.line.remove(waiter, target)
            group.calls[self._table.row] -= WAITING[waiter.lane]
            self._show(group)

    def _serve(self, group: Group) -> None:
        """Give free places to the waiting calls of this worker, as long as they come before those of the others.  Must
        be called under the lock."""
        while (next_one := self._show(group)) is not None:
            if running(self._calls(group)) >= group.limit or self._is_behind(group):
                return
            waiter, target = next_one
            waiter.place = self._run(group, target)
            group.served[waiter.lane] += 1
            self._remove(waiter)
            waiter.signal.set()

    def _show(self, group: Group) -> tuple[Waiter, Target] | None:
        """Return the first waiting call of this worker, and show it to the other workers."""
        if not group.line:
            self._waited.discard(group)
            group.first[self._table.row] = 0
            return None
        waiter, target, loads = group.line.next(self._clock_ns(), partial(self._would_load, group))
        group.first[self._table.row] = packed(waiter.lane, waiter.arrival_ns, loads=loads)
        return waiter, target

    def _would_load(self, group: Group, model: str) -> bool:
        return not group.runs(model) and self._loads(group.backend, model)

    def _is_behind(self, group: Group) -> bool:
        """Return True when the first waiting call of another worker comes before that of this worker, and may take the
        place: after a reload, the limits of old workers may be lower."""
        now, calls = self._clock_ns(), running(self._calls(group))
        first, limits, looks = group.first, group.limits, self._table.looks
        mine = rank_of(first[self._table.row], now)
        return any(
            first[row] and calls < limits[row] - 1 and now - looks[row] < _SILENT_NS and rank_of(first[row], now) < mine
            for row in range(self._table.used[0])
        )

    def _poll(self) -> None:
        try:
            while self._waited:
                gevent.sleep(_LOOK_EVERY_S)
                self._serve_all()
        finally:
            self._is_polling = False

    def _serve_all(self) -> None:
        """Give places that other workers have released to the waiting calls of this worker."""
        self._table.looks[self._table.row] = self._clock_ns()
        self._clear_dead()
        for group in tuple(self._waited):
            if running(self._calls(group)) < group.limit:
                with self._lock:
                    self._serve(group)
            else:
                self._show(group)

    def _clear_dead(self) -> None:
        """Free the places of workers that have died, now and then."""
        now = self._clock_ns()
        if now - self._cleared_ns > _CLEAR_EVERY_NS:
            self._cleared_ns = now
            with self._lock:
                self._table.clear_dead()


def _all_places(wanted: Sequence[tuple[Group, Target]]) -> str:
    return f"all {sum(group.limit for group, _ in wanted)} places (maxConcurrency)"

"""Count the requests and the escalations of each route with `verify`, for its `dailyShare`.

The counts are those of the rows in the database, and those of the workers of this machine that have no row yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.beliefs.share_events import Event, EventKind, ShareEvents
from app.metrics.shares import RouteCount
from app.places.table import hash_of
from app.types import Policy, Reason

DAY_MS = 86_400_000
_FREE = 20  # requests of a route from which on its share is limited
_STEP_MS = 600_000  # rows are counted in steps of ten minutes
_WAITING_MS = 600_000  # a request without a row after this time gets none: it was refused, for example


@dataclass(slots=True)
class _Route:
    """Hold the counts of one route."""

    share: float
    steps: dict[int, tuple[int, int]] = field(default_factory=dict)  # begin (Unix ms) -> requests, escalated
    requests: int = 0  # the sums of the steps
    escalated: int = 0
    open: dict[int, int] = field(default_factory=dict)  # hash of a request without a row -> its begin (Unix ms)
    claims: dict[int, int] = field(default_factory=dict)  # the same for escalations

    def has_room(self, more: int = 0) -> bool:
        """Return True when one of the requests, and of so many more, may still be escalated."""
        requests = self.requests + len(self.open) + more
        if requests < _FREE:
            return self.share > 0
        return self.escalated + len(self.claims) + 1 <= self.share * requests + 1e-9

    def note(self, event: Event) -> None:
        if event.kind is EventKind.BEGUN:
            self.open[event.request] = event.ts_ms
        elif event.kind is EventKind.CLAIMED:
            self.claims[event.request] = event.ts_ms
        else:
            self.claims.pop(event.request, None)

    def add(self, row: RouteCount) -> None:
        begin = row.ts // _STEP_MS * _STEP_MS
        requests, escalated = self.steps.get(begin, (0, 0))
        self.steps[begin] = requests + row.requests, escalated + row.escalated
        if row.requests:
            self.open.pop(hash_of(row.request_id), None)
        if row.reason == Reason.ESCALATED:
            self.claims.pop(hash_of(row.request_id), None)

    def settle(self, now_ms: int) -> None:
        """Forget what is older than a day, and requests that get no row, and add up the rest."""
        self.steps = {begin: counts for begin, counts in self.steps.items() if begin >= now_ms - DAY_MS}
        self.requests = sum(requests for requests, _ in self.steps.values())
        self.escalated = sum(escalated for _, escalated in self.steps.values())
        for waiting in (self.open, self.claims):
            while waiting and next(iter(waiting.values())) < now_ms - _WAITING_MS:
                del waiting[next(iter(waiting))]


class Escalations:
    """Hold the counts of all routes with `verify`."""

    def __init__(self, policy: Policy, events: ShareEvents | None = None) -> None:
        self._routes: Mapping[str, _Route] = {
            route.label: _Route(route.verify.daily_share) for route in policy.routes if route.verify
        }
        self._by_hash = {hash_of(label): route for label, route in self._routes.items()}
        self._events = events or ShareEvents()
        self.routes = tuple(self._routes)
        self.is_read = False  # False: the rows of the last day are not known yet
        self.spent: frozenset[str] = frozenset()  # Observations.spent

    def begin(self, route: str, request_id: str, now_ms: int) -> None:
        """Count a request."""
        with self._events.lock:
            self._append(route, request_id, now_ms, EventKind.BEGUN)

    def claim(self, route: str, request_id: str, now_ms: int) -> bool:
        """Return True when a request may be escalated.  It counts as such from now on."""
        with self._events.lock:
            self._read_news()
            may = self._routes[route].has_room()
            if may:
                self._append(route, request_id, now_ms, EventKind.CLAIMED)
            return may

    def withdraw(self, route: str, request_id: str, now_ms: int) -> None:
        """Count a request as not escalated."""
        with self._events.lock:
            self._append(route, request_id, now_ms, EventKind.WITHDRAWN)

    def read(self, rows: Iterable[RouteCount], now_ms: int) -> None:
        """Add new rows of the database.  Their requests have counted already, since their events."""
        self.is_read = True
        with self._events.lock:
            self._read_news()
        for row in rows:
            if row.route in self._routes:
                self._routes[row.route].add(row)
        for route in self._routes.values():
            route.settle(now_ms)
        self._note_spent()

    def _append(self, route: str, request_id: str, now_ms: int, kind: EventKind) -> None:
        self._events.append(route, request_id, now_ms, kind)
        self._read_news()
        self._note_spent()

    def _read_news(self) -> None:
        for event in self._events.news():
            if event.route in self._by_hash:
                self._by_hash[event.route].note(event)

    def _note_spent(self) -> None:
        spent = frozenset(name for name, route in self._routes.items() if not route.has_room(more=1))
        if spent != self.spent:
            self.spent = spent

"""Add up the calls of a window: from its rows when there are few, else from stored aggregates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import peewee

from app.metrics.aggregates import Aggregate, CallRow, Key
from app.metrics.rollup import BUCKET_S, SPANS_S, Backlog, Stored, call_rows, last_id, progress, stored
from app.storage import now_ms
from app.storage.model import Metric
from app.types import JsonDict, Kind
from app.words import utc

_EXACT_ROWS = 5_000  # smaller windows are added up from their rows, which takes 10 ms of CPU at most
AHEAD_MS = 60_000  # the clocks of machines may differ by this

Steps = Mapping[int, Mapping[tuple[str, str], Aggregate]]  # begin, Unix s -> (backend, model) -> live calls


class Summed(NamedTuple):
    """Tell which part of a window the aggregates include: not all of it while there is a backlog after an upgrade."""

    share: float = 1.0  # of its calls
    since_ms: int | None = None  # Unix time since when all calls are included; None = the begin of the window

    def document(self) -> JsonDict:
        """Return the member `summed` of a JSON report; nothing when the window is complete."""
        return {} if self.since_ms is None else {"summed": {"share": self.share, "since": utc(self.since_ms)}}


class Window(NamedTuple):
    """Hold the aggregates of the calls of a window by key, and those of the live calls by steps of time."""

    aggregates: Mapping[Key, Aggregate]
    steps: Steps
    summed: Summed


def read_window(database: peewee.Database, since_ms: int, step_s: int) -> Window:
    """Return the aggregates of the calls since then, over time in steps of a multiple of BUCKET_S (0: no steps).  A
    few rows are added up exactly.  When there are many, only the edges of the window come from rows, and the rest
    from stored aggregates.  Calls from the future, written while a clock was wrong, would be in every window, so
    they are left out.  All queries must see the database at one moment."""
    sums, until_ms = _Sums(step_s), now_ms() + AHEAD_MS
    until_s = until_ms // 1000
    inside = Metric.ts.between(since_ms, until_ms)
    many = Metric.select(Metric.id).where(inside).limit(_EXACT_ROWS + 1).count(database) > _EXACT_ROWS
    if not many:
        sums.add(call_rows(database, "ts >= ? AND ts <= ?", since_ms, until_ms))
        return sums.window(Summed())
    begin_s = begin = max(1, -(-since_ms // 1000 // BUCKET_S)) * BUCKET_S
    spans = [span for span in SPANS_S if step_s % span == 0]  # a longer span does not fit into a step
    for span, coarser in zip(spans, (*spans[1:], None), strict=True):
        end = min(-(-begin // coarser) * coarser if coarser else until_s, until_s)
        sums.merge(stored(database, "span = ? AND bucket >= ? AND bucket < ?", span, begin, end))
        begin = end
    sums.add(call_rows(database, "ts >= ? AND ts < ?", since_ms, begin_s * 1000))
    rolled_to, backlog = progress(database)
    # `+ts` keeps SQLite from walking through all of the window in the index on `ts`: a million entries take 50 ms
    sums.add(call_rows(database, "id > ? AND +ts >= ? AND +ts <= ?", rolled_to, begin_s * 1000, until_ms))
    return sums.window(_summed(database, backlog, since_ms))


def _summed(database: peewee.Database, backlog: Backlog, since_ms: int) -> Summed:
    """Return which part of a window the aggregates include.  Ids rise with time, so they are used to count calls."""
    rows = Metric.select(Metric.ts).where((Metric.id > backlog.after) & (Metric.id <= backlog.to))
    newest_ms = rows.order_by(Metric.id.desc()).limit(1).scalar(database)
    if newest_ms is None or newest_ms < since_ms:
        return Summed()
    first = Metric.select(Metric.id).where(Metric.ts >= since_ms).order_by(Metric.ts).limit(1).scalar(database)
    missing = backlog.to - max(backlog.after, first - 1)
    share = 1 - missing / max(1, last_id(database) - first + 1)
    return Summed(min(max(round(share, 4), 0.0), 0.9999), newest_ms + 1)


class _Sums:
    """Add up rows and stored aggregates by key, and those of live calls by steps of time too."""

    def __init__(self, step_s: int) -> None:
        self.aggregates: dict[Key, Aggregate] = defaultdict(Aggregate)
        self.steps: dict[int, dict[tuple[str, str], Aggregate]] = defaultdict(lambda: defaultdict(Aggregate))
        self._step_s = step_s

    def add(self, rows: Iterable[CallRow]) -> None:
        for row in rows:
            for aggregate in self._aggregates(row.key, row.ts // 1000):
                aggregate.add(row)

    def merge(self, stored_aggregates: Iterable[Stored]) -> None:
        for other in stored_aggregates:
            for aggregate in self._aggregates(other.key, other.bucket.begin_s):
                other.add_to(aggregate)

    def window(self, summed: Summed) -> Window:
        return Window(self.aggregates, self.steps, summed)

    def _aggregates(self, key: Key, at_s: int) -> tuple[Aggregate, ...]:
        """Return the aggregates that count the calls of a key at a time."""
        aggregate = self.aggregates[key]
        if not self._step_s or key.kind != Kind.LIVE:
            return (aggregate,)
        return aggregate, self.steps[at_s // self._step_s * self._step_s][key[:2]]

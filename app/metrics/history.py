"""Read what the calls of a window amount to, from the rows where they are few, from stored aggregates where they are
many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import peewee

from app.metrics.aggregates import Aggregate, Bucket, Key
from app.metrics.rollup import BUCKET_S, SPANS_S, Row, rolled_to, rows, stored
from app.storage import now_ms
from app.storage.model import Metric

_EXACT_ROWS = 20_000  # windows of up to so many rows are summed up from the rows themselves
AHEAD_MS = 60_000  # as far as clocks of machines differ

Steps = dict[int, dict[tuple[str, str], Aggregate]]  # begin of a step, Unix s -> (backend, model) -> its live calls


class History:
    """Hold the aggregates of a window by key, and those of its live calls by steps of time."""

    def __init__(self, step_s: int) -> None:
        self.totals: dict[Key, Aggregate] = defaultdict(Aggregate)
        self.steps: Steps = defaultdict(lambda: defaultdict(Aggregate))
        self._step_s = step_s

    def add(self, fresh: Iterator[Row]) -> None:
        for row in fresh:
            key = row.key
            self.totals[key].add(row)
            if self._step_s and key[3] == "live":
                self._step(row.ts // 1000, key).add(row)

    def merge(self, aggregates: Iterator[tuple[Bucket, Key, Aggregate]]) -> None:
        for (_, begin), key, aggregate in aggregates:
            self.totals[key].merge(aggregate)
            if self._step_s and key[3] == "live":
                self._step(begin, key).merge(aggregate)

    def _step(self, at_s: int, key: Key) -> Aggregate:
        return self.steps[at_s // self._step_s * self._step_s][key[:2]]


def read_history(database: peewee.Database, since_ms: int, step_s: int) -> History:
    """Return the aggregates of the calls since then, and of the live ones of them over time, in steps of a multiple of
    BUCKET_S (0: no steps).  Few rows are summed up exactly; of many, all but the edges of the window come from stored
    aggregates.  Calls from the future, of a time when a clock was wrong, would be in every window: they are left out.

    `database` shows one moment to all queries."""
    history, until_ms = History(step_s), now_ms() + AHEAD_MS
    until_s = until_ms // 1000
    window = Metric.ts.between(since_ms, until_ms)
    many = Metric.select(Metric.id).where(window).limit(_EXACT_ROWS + 1).count(database) > _EXACT_ROWS
    if not many:
        history.add(rows(database, "ts >= ? AND ts <= ?", since_ms, until_ms))
        return history
    begin_s = begin = max(1, -(-since_ms // 1000 // BUCKET_S)) * BUCKET_S
    spans = [span for span in SPANS_S if step_s % span == 0]  # a longer one does not fit into a step
    for span, coarser in zip(spans, (*spans[1:], None), strict=True):
        end = min(-(-begin // coarser) * coarser if coarser else until_s, until_s)
        history.merge(stored(database, "span = ? AND bucket >= ? AND bucket < ?", span, begin, end))
        begin = end
    history.add(rows(database, "ts >= ? AND ts < ?", since_ms, begin_s * 1000))
    fresh = "id > ? AND ts >= ? AND ts <= ?"
    history.add(rows(database, fresh, rolled_to(database), begin_s * 1000, until_ms))
    return history

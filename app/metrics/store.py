"""Keep metrics in the database: rows in, aggregates out.

Every method may block and may raise storage.StoreError; none is called on the request path.  A Store belongs to one
thread at a time (under gunicorn: its own thread, see background/thread.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from app.metrics import queries, rollup, workers
from app.metrics.aggregates import Aggregate, Key
from app.metrics.queries import CallGroup, Pair, PastCall, SentCall, ShownCall, Source, TimedCall, TimedPart
from app.metrics.refusals import add_refusals, count_refusals
from app.metrics.rows import insert
from app.metrics.shares import RouteCount, counts_after
from app.metrics.window import Window, read_window
from app.storage import Storage, now_ms
from app.storage.model import DROPPED, Metric, Refusals, State, StoredAggregate
from app.types import CallRecord, JsonDict, JsonObject


class Store:
    def __init__(self, location: str, *, read_only: bool = False) -> None:
        """`location` is LLR_DB.  Nothing is opened yet.  A `read_only` store creates and changes no database."""
        self._storage = Storage(location, read_only=read_only)

    # --- writing ---

    def write(
        self, calls: Sequence[CallRecord], dropped: int = 0, refusals: Mapping[tuple[int, str], int] | None = None
    ) -> None:
        """Add one row a call, and add the new rows to the aggregates, in one transaction.  `refusals` has the
        numbers of refused requests by the begin of their ten minutes (Unix s) and by code."""
        with self._storage.transaction() as database:
            progress = rollup.lock(database)
            if calls:
                insert(database, calls)
            if dropped:
                State.update(value=State.value + dropped).where(State.name == DROPPED).execute(database)
            if refusals:
                add_refusals(database, refusals)
            rollup.fold(database, progress)

    def catch_up(self) -> bool:
        """Fold some of the rows that are in no aggregate yet: those of an older version, of another program or of a
        killed worker.  Return True when there may be more of them."""
        with self._storage.reading() as database:
            rolled_to, backlog = rollup.progress(database)
            if rollup.last_id(database) <= rolled_to and not backlog.rows:
                return False
        with self._storage.transaction() as database:
            rollup.fold(database, rollup.lock(database))
            rollup.fold_backlog(database, rollup.progress(database))
        return True

    def prune(self, before_ms: int, most: int = 1000) -> int:
        """Delete at most `most` of the rows older than `before_ms`, and their aggregates.  The newest row stays, so
        that no id is used twice.  Return the number of deleted rows."""
        with self._storage.transaction() as database:
            rolled_to, backlog = rollup.lock(database)
            summed = (Metric.id < rolled_to) & ~Metric.id.between(backlog.after + 1, backlog.to)
            old = (Metric.ts < before_ms) & summed
            oldest = Metric.select(Metric.id).where(old).order_by(Metric.ts).limit(most)
            gone = Metric.delete().where(Metric.id.in_(oldest)).execute(database)
            for table in (StoredAggregate, Refusals):
                over = table.bucket + table.span <= before_ms // 1000
                table.delete().where((table.span > 0) & over).execute(database)
            return int(gone)

    def report_worker(self, name: str, now_ms: int, document: JsonObject) -> None:
        """Publish the report of a worker."""
        with self._storage.transaction() as database:
            workers.report(database, name, now_ms, document)

    def forget_worker(self, name: str) -> None:
        with self._storage.transaction() as database:
            workers.forget(database, name)

    # --- reading ---

    def calls_after(self, row_id: int, since_ms: int, most: int = 5000) -> tuple[int, list[TimedCall]]:
        """Return the id of the last row, and the newest successful live calls and probes after `row_id`."""
        with self._storage.reading() as database:
            return queries.calls_after(database, row_id, since_ms, most)

    def counts_after(self, row_id: int | None, since_ms: int, routes: Sequence[str]) -> tuple[int, list[RouteCount]]:
        """Return the id of the last row, and the counts of these routes after `row_id`, or of all rows since then."""
        with self._storage.reading() as database:
            return counts_after(database, row_id, since_ms, routes)

    def window(self, since_ms: int, step_s: int = 0) -> Window:
        """Return the aggregates of the calls since then, also over time in steps of a multiple of BUCKET_S (0: no
        steps)."""
        with self._storage.snapshot() as database:
            return read_window(database, since_ms, step_s)

    def latest(self, most: int) -> list[ShownCall]:
        """Return the newest calls of every kind, newest first."""
        with self._storage.reading() as database:
            return queries.latest(database, most)

    def pairs(self, since_ms: int) -> list[Pair]:
        """Return the newest shadow calls since then, each beside the live calls of its request."""
        with self._storage.reading() as database:
            return queries.pairs(database, since_ms)

    def groups(self, since_ms: int) -> list[CallGroup]:
        """Count the live calls since then, in groups of equal values."""
        with self._storage.reading() as database:
            return queries.groups(database, since_ms)

    def timed_parts(self, since_ms: int, most: int = 20_000) -> list[TimedPart]:
        """Return what the newest calls of every kind since then waited for, newest first."""
        with self._storage.reading() as database:
            return queries.timed_parts(database, since_ms, most)

    def totals(self) -> dict[Key, Aggregate]:
        """Return the aggregates of all calls, also of pruned rows, but without the rows that `unsummed` counts."""
        aggregates: dict[Key, Aggregate] = defaultdict(Aggregate)
        with self._storage.reading() as database:
            for stored in rollup.stored(database, "span = 0"):
                stored.add_to(aggregates[stored.key])
        return aggregates

    def unsummed(self) -> int:
        """Return the number of rows that wait to be folded in the background, after an upgrade."""
        with self._storage.reading() as database:
            return rollup.progress(database).backlog.rows

    def source(self) -> Source:
        """Return the name of the database, and the times of its first and last call."""
        with self._storage.reading() as database:
            return Source(self._storage.name, *queries.ends(database))

    def dropped(self) -> int:
        """Return the number of rows that were dropped because the queue was full."""
        with self._storage.reading() as database:
            return int(State.select(State.value).where(State.name == DROPPED).scalar(database) or 0)

    def refusals(self, hours: float | None = None) -> dict[str, int]:
        """Return the number of requests that were refused before any call, by code, the most frequent code first: of
        the last `hours`, to ten minutes, or of all time."""
        since_s = None if hours is None else now_ms() // 1000 - int(hours * 3600)
        with self._storage.reading() as database:
            return count_refusals(database, since_s)

    def workers(self, now_ms: int, within_ms: int) -> dict[str, JsonDict]:
        """Return the latest reports of the workers."""
        with self._storage.reading() as database:
            return workers.reports(database, now_ms, within_ms)

    def egress(self, since_ms: int) -> Iterator[list[SentCall]]:
        """Yield every call since then to a target that is not local, oldest first, in pages."""
        return queries.egress(self._storage, since_ms)

    def live_calls(self, since_ms: int) -> Iterator[tuple[float, list[PastCall]]]:
        """Yield every live call and second opinion since then, oldest first, in pages: the share that was read so far,
        and the calls."""
        return queries.live_calls(self._storage, since_ms)

    def exists(self) -> bool:
        """Return True when the database exists."""
        return self._storage.exists()

    def check_writable(self) -> None:
        """Change nothing.  Raise StoreError when rows could not be written."""
        self._storage.check_writable()

    def close(self) -> None:
        self._storage.close()

"""Metrics in the database: rows in, tallies out.

Every method may block and may raise storage.StoreError; none is called on the request path.  A Store belongs to one
thread at a time (under gunicorn: its own lane, see background/lane.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import peewee

from app.metrics.tally import COUNTS, Spread, Tally
from app.storage import Storage
from app.storage.model import DROPPED, ROLLED_TO, HourRollup, Metric, Rollup, State, Worker
from app.types import CallRecord

BUCKET_S, HOUR_S = 600, 3600
_EXACT_ROWS = 20_000  # windows of up to so many rows are summed up from the rows themselves
_FOLD_ROWS = 5_000  # rows summed up in one transaction
_BUSY_MS = 200  # wait for another writer; the batch is kept when it was not enough

_MOST_CHARS = 200
_MOST = 2**31 - 1  # what an integer column holds; nobody counted further

Key = tuple[str, str, str, str]  # backend, model, route, kind
Model = tuple[str, str]  # backend, model
Steps = dict[int, dict[Model, Tally]]  # the beginning of a step, Unix s -> what its live calls amount to

_COLUMNS = (
    "ts_ms", "backend", "model", "route", "surface", "stream", "task", "complexity", "latency_ms", "ttfb_ms", "outcome",
    "error", "fallback_for", "input_tokens", "output_tokens", "cost_usd", "request_id", "kind",
    "reason", "destination", "sent_bytes",
)  # fmt: skip
_ROLLUP = ("bucket", "backend", "model", "route", "kind", *COUNTS, "latency", "ttfb")


class _Row(NamedTuple):
    """The columns of `metrics` that are summed up."""

    id: int
    ts: int
    backend: str
    model: str | None
    route: str | None
    kind: str | None
    shadow: bool
    error: str | None
    outcome: str | None
    ok: bool
    fallback_for: str | None
    reason: str | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    latency_ms: int
    ttfb_ms: int | None


class Store:
    def __init__(self, location: str) -> None:
        """`location` is LLR_DB.  Nothing is opened yet."""
        self._storage = Storage(location)

    # --- writing ---

    def write(self, calls: Sequence[CallRecord], dropped: int = 0) -> None:
        """Adds one row a call, and sums up what is new, in one transaction."""
        with self._storage.transaction() as database:
            rolled_to = self._lock(database)
            if calls:
                Metric.insert_many([_row(call) for call in calls]).execute(database)
            if dropped:
                State.update(value=State.value + dropped).where(State.name == DROPPED).execute(database)
            self._fold(database, rolled_to)

    def catch_up(self) -> bool:
        """Sums up some of the rows that nobody has yet: those of an original database, or of another program.
        Whether there were any."""
        with self._storage.transaction() as database:
            return self._fold(database, self._lock(database))

    def prune(self, before_ms: int, most: int = 1000) -> int:
        """Deletes at most `most` of the rows older than `before_ms`, and their rollups.  The newest row stays, so
        that ids go on rising.  Returns how many went."""
        with self._storage.transaction() as database:
            rolled_to = self._lock(database)
            oldest = (
                Metric.select(Metric.id)
                .where((Metric.ts < before_ms) & (Metric.id < rolled_to))
                .order_by(Metric.ts)
                .limit(most)
            )
            gone = Metric.delete().where(Metric.id.in_(oldest)).execute(database)
            first_kept = before_ms // 1000 // BUCKET_S * BUCKET_S
            Rollup.delete().where((Rollup.bucket > 0) & (Rollup.bucket < first_kept)).execute(database)
            HourRollup.delete().where(HourRollup.bucket < before_ms // 1000 // HOUR_S * HOUR_S).execute(database)
            return int(gone)

    def report_worker(self, name: str, now_ms: int, document: Mapping[str, Any]) -> None:
        """Publishes what a worker says of itself; reports older than a day are removed."""
        with self._storage.transaction() as database:
            columns = {"ts": now_ms, "document": json.dumps(document)}
            insert = Worker.insert(name=name, **columns)
            insert.on_conflict(conflict_target=[Worker.name], update=columns).execute(database)
            Worker.delete().where(Worker.ts < now_ms - 86_400_000).execute(database)

    def forget_worker(self, name: str) -> None:
        with self._storage.transaction() as database:
            Worker.delete().where(Worker.name == name).execute(database)

    # --- reading ---

    def calls_after(self, row_id: int, since_ms: int, most: int = 5000) -> tuple[int, list[Any]]:
        """The newest successful live and probe calls behind `row_id`, oldest first, and the last row id there is."""
        with self._storage.reading() as database:
            last = Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0
            columns = (Metric.request_id, Metric.ts, Metric.backend, Metric.model, Metric.stream, Metric.latency_ms)
            query = (
                Metric.select(Metric.id, *columns, Metric.ttfb_ms)
                .where((Metric.id > max(row_id, last - most)) & (Metric.ts >= since_ms) & Metric.ok)
                .where(Metric.kind.in_(("live", "probe")))
                .order_by(Metric.id)
            )
            return int(last), list(query.namedtuples().execute(database))

    def tallies(self, since_ms: int) -> dict[Key, Tally]:
        """What the calls since then amount to."""
        return self.history(since_ms, 0)[0]

    def history(self, since_ms: int, step_s: int) -> tuple[dict[Key, Tally], Steps]:
        """What the calls since then amount to, and the live ones of them over time, in steps of a multiple of
        BUCKET_S (0: none).  Few rows are summed up exactly; of many, all but the edges of the window come from the
        rollups, so that it costs the same on any number of rows."""
        sums = _Sums(step_s)
        with self._storage.reading() as database:
            window = Metric.ts >= since_ms
            many = Metric.select(Metric.id).where(window).limit(_EXACT_ROWS + 1).count(database) > _EXACT_ROWS
            if many:
                first, first_hour = (max(1, -(-since_ms // 1000 // size)) * size for size in (BUCKET_S, HOUR_S))
                edge = window & (Metric.ts < first * 1000)
                window = edge | (Metric.ts >= first * 1000) & (Metric.id > self._rolled_to(database))
                parts = [(Rollup, Rollup.bucket >= first)]
                if step_s % HOUR_S == 0:  # sums of an hour do not fit into shorter steps
                    parts = [(Rollup, parts[0][1] & (Rollup.bucket < first_hour))]
                    parts.append((HourRollup, HourRollup.bucket >= first_hour))
                for table, which in parts:
                    for rollup in self._rollups(database, table, which):
                        sums.merge(rollup[0], _rollup_key(rollup), _load(rollup))
            for row in self._rows(database, window):
                sums.add(row)
        return sums.by_key, sums.by_step

    def totals(self) -> dict[Key, Tally]:
        """All calls ever made, pruned rows included."""
        with self._storage.reading() as database:
            return {_rollup_key(one): _load(one) for one in self._rollups(database, Rollup, Rollup.bucket == 0)}

    def latest(self, most: int) -> list[Any]:
        """The newest calls of every kind, newest first, as rows with the columns of `metrics`."""
        with self._storage.reading() as database:
            return list(Metric.select().order_by(Metric.id.desc()).limit(most).namedtuples().execute(database))

    def dropped(self) -> int:
        """Rows that never reached the database because the queue was full."""
        with self._storage.reading() as database:
            return int(State.select(State.value).where(State.name == DROPPED).scalar(database) or 0)

    def workers(self, since_ms: int) -> dict[str, dict[str, Any]]:
        """What the workers heard of since then say about themselves."""
        with self._storage.reading() as database:
            rows = Worker.select().where(Worker.ts >= since_ms).namedtuples().execute(database)
            return {row.name: json.loads(row.document) for row in rows}

    def egress(self, since_ms: int) -> list[Any]:
        """Every call since then that went beyond the local backends, oldest first."""
        columns = (Metric.ts, Metric.destination, Metric.backend, Metric.model, Metric.route, Metric.reason)
        sizes = (Metric.sent_bytes, Metric.input_tokens, Metric.output_tokens, Metric.outcome, Metric.request_id)
        with self._storage.reading() as database:
            query = Metric.select(*columns, *sizes).where((Metric.ts >= since_ms) & Metric.destination.is_null(False))
            return list(query.order_by(Metric.id).namedtuples().execute(database))

    def close(self) -> None:
        self._storage.close()

    # --- inside ---

    def _lock(self, database: peewee.Database) -> int:
        """Makes other writers wait, so that rows become visible in the order of their ids.  Returns rolled_to."""
        State.update(value=State.value).where(State.name == ROLLED_TO).execute(database)
        return self._rolled_to(database)

    def _rolled_to(self, database: peewee.Database) -> int:
        return int(State.select(State.value).where(State.name == ROLLED_TO).scalar(database) or 0)

    def _fold(self, database: peewee.Database, rolled_to: int) -> bool:
        """Sums up the rows behind `rolled_to` into their ten minutes and into the totals, a bounded number a turn.
        Whether there were any."""
        rows = list(self._rows(database, Metric.id > rolled_to, _FOLD_ROWS))
        if not rows:
            return False
        fresh: dict[tuple[int, Key], Tally] = defaultdict(Tally)
        for row in rows:
            fresh[row.ts // 1000 // BUCKET_S * BUCKET_S, _key(row)].add(row)
        sums: dict[tuple[type[Rollup], int, Key], Tally] = defaultdict(Tally)
        for (bucket, key), tally in fresh.items():
            hour = bucket // HOUR_S * HOUR_S
            for table, at in {(Rollup, 0), (Rollup, bucket), (HourRollup, hour)}:
                sums[table, at, key].merge(tally)
        for (table, at, key), tally in sums.items():
            self._add(database, table, at, key, tally)
        State.update(value=rows[-1].id).where(State.name == ROLLED_TO).execute(database)
        return True

    def _add(self, database: peewee.Database, table: type[Rollup], bucket: int, key: Key, tally: Tally) -> None:
        """Adds to one row of the sums."""
        named = dict(zip(("backend", "model", "route", "kind"), key, strict=True))
        same = table.bucket == bucket
        for column, value in named.items():
            same &= getattr(table, column) == value
        for old in self._rollups(database, table, same):
            tally.merge(_load(old))
        table.delete().where(same).execute(database)
        table.insert(bucket=bucket, **named, **_dump(tally)).execute(database)

    def _rows(self, database: peewee.Database, where: Any, most: int | None = None) -> Iterator[Any]:
        query = Metric.select(*(getattr(Metric, column) for column in _Row._fields)).where(where).order_by(Metric.id)
        if most is not None:
            query = query.limit(most)
        return map(_Row._make, database.execute(query))  # as the driver gives them: peewee's rows take twice as long

    def _rollups(self, database: peewee.Database, table: type[Rollup], where: Any) -> Iterator[tuple[Any, ...]]:
        """Tuples of the columns _ROLLUP."""
        query = table.select(*(getattr(table, column) for column in _ROLLUP)).where(where)
        return iter(database.execute(query))


def _row(call: CallRecord) -> dict[str, Any]:
    row = {name: _storable(getattr(call, name)) for name in _COLUMNS}
    del row["ts_ms"]
    return {**row, "ts": call.ts_ms, "ok": call.outcome == "ok", "shadow": call.kind != "live"}


def _storable(value: Any) -> Any:
    """Clients name models and backends count tokens: what no database takes must not cost the whole batch."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "?" for char in value[:_MOST_CHARS])
    return None if type(value) is int and value > _MOST else value


def _key(row: Any) -> Key:
    """Clients may name any model: what is not there gets no sums of its own."""
    model = "" if row.error == "http_404" else row.model or ""
    return row.backend, model, row.route or "", row.kind or ("shadow" if row.shadow else "live")


def _rollup_key(rollup: tuple[Any, ...]) -> Key:
    return rollup[1], rollup[2], rollup[3], rollup[4]


class _Sums:
    """Tallies by key, and by step of time for live calls."""

    def __init__(self, step_s: int) -> None:
        self._step_s = step_s
        self.by_key: dict[Key, Tally] = defaultdict(Tally)
        self.by_step: dict[int, dict[Model, Tally]] = defaultdict(lambda: defaultdict(Tally))

    def add(self, row: Any) -> None:
        key = _key(row)
        self.by_key[key].add(row)
        if self._step_s and key[3] == "live":
            self._step(row.ts // 1000, key).add(row)

    def merge(self, at_s: int, key: Key, tally: Tally) -> None:
        self.by_key[key].merge(tally)
        if self._step_s and key[3] == "live":
            self._step(at_s, key).merge(tally)

    def _step(self, at_s: int, key: Key) -> Tally:
        return self.by_step[at_s // self._step_s * self._step_s][key[:2]]


def _load(rollup: tuple[Any, ...]) -> Tally:
    counts: dict[str, Any] = dict(zip(COUNTS, rollup[5:-2], strict=True))
    return Tally(**counts, latency=Spread.load(rollup[-2]), ttfb=Spread.load(rollup[-1]))


def _dump(tally: Tally) -> dict[str, Any]:
    counts = {name: getattr(tally, name) for name in COUNTS}
    return {**counts, "latency": tally.latency.dump(), "ttfb": tally.ttfb.dump()}

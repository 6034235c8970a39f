"""Metrics in the database: rows in, tallies out.

Every method may block and may raise storage.StoreError; none is called on the request path.  A Store belongs to one
thread at a time (under gunicorn: its own lane, see background/lane.py).
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import peewee

from app.metrics.tally import COUNTS, Spread, Tally
from app.routing.basis import dump
from app.storage import Storage
from app.storage.model import DROPPED, ROLLED_TO, Metric, Rollup, State, Worker
from app.types import CallRecord

BUCKET_S = 600
_EXACT_ROWS = 20_000  # windows of up to so many rows are summed up from the rows themselves
_PAGE_ROWS = 2_000  # of a long read, so that it keeps no transaction open
_FOLD_ROWS = 5_000  # rows summed up in one transaction
_BUSY_MS = 200  # wait for another writer; the batch is kept when it was not enough

_MOST_CHARS = 200
_MOST = 2**53  # a whole number beyond it was never counted

Key = tuple[str, str, str, str]  # backend, model, route, kind

_COLUMNS = (
    "ts_ms", "backend", "model", "route", "surface", "stream", "task", "complexity", "latency_ms", "ttfb_ms", "outcome",
    "error", "fallback_for", "input_tokens", "output_tokens", "cost_usd", "request_id", "kind",
    "reason", "destination", "sent_bytes", "sensitivity", "modality", "family", "tokens", "difficulty", "confidence",
)  # fmt: skip
_BUT_BASIS = [field for field in Metric._meta.sorted_fields if field is not Metric.basis]  # the one long column


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
        """What the calls since then amount to.  Few rows are summed up exactly; of many, all but the edges of the
        window come from the rollups."""
        with self._storage.reading() as database:
            window = Metric.ts >= since_ms
            many = Metric.select(Metric.id).where(window).limit(_EXACT_ROWS + 1).count(database) > _EXACT_ROWS
            if not many:
                return _tally(self._rows(database, window))
            first_bucket = -(-since_ms // 1000 // BUCKET_S) * BUCKET_S
            rolled_to = self._rolled_to(database)
            edge = window & (Metric.ts < first_bucket * 1000)
            tail = (Metric.ts >= first_bucket * 1000) & (Metric.id > rolled_to)
            totals = _rolled_up(Rollup.select().where(Rollup.bucket >= first_bucket).execute(database))
            for key, tally in _tally(self._rows(database, edge | tail)).items():
                totals[key].merge(tally)
            return totals

    def totals(self) -> dict[Key, Tally]:
        """All calls ever made, pruned rows included."""
        with self._storage.reading() as database:
            return _rolled_up(Rollup.select().where(Rollup.bucket == 0).execute(database))

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

    def live_calls(self, since_ms: int) -> Iterator[tuple[float, list[Any]]]:
        """Every live call since then that is there now, oldest first, in pages: the share read so far, and rows."""
        with self._storage.reading() as database:
            ends = Metric.select(peewee.fn.MIN(Metric.id), peewee.fn.MAX(Metric.id)).where(Metric.ts >= since_ms)
            first, last = ends.scalar(database, as_tuple=True)
        after = (first or 0) - 1
        live = (Metric.ts >= since_ms) & ~Metric.shadow
        while first is not None and after < last:
            with self._storage.reading() as database:
                query = Metric.select().where((Metric.id > after) & (Metric.id <= last) & live).order_by(Metric.id)
                rows = list(query.limit(_PAGE_ROWS).namedtuples().execute(database))
            after = rows[-1].id if len(rows) == _PAGE_ROWS else last
            yield (after - first + 1) / (last - first + 1), rows

    def close(self) -> None:
        self._storage.close()

    # --- inside ---

    def _lock(self, database: peewee.Database) -> int:
        """Makes other writers wait, so that rows become visible in the order of their ids.  Returns rolled_to."""
        State.update(value=State.value).where(State.name == ROLLED_TO).execute(database)
        return self._rolled_to(database)

    def _rolled_to(self, database: peewee.Database) -> int:
        return int(State.select(State.value).where(State.name == ROLLED_TO).scalar(database) or 0)

    def _fold(self, database: peewee.Database, rolled_to: int) -> None:
        """Sums up the rows behind `rolled_to` into their ten minutes and into the totals, a bounded number a turn."""
        rows = list(self._rows(database, Metric.id > rolled_to, _FOLD_ROWS))
        if not rows:
            return
        fresh: dict[tuple[int, Key], Tally] = defaultdict(Tally)
        for row in rows:
            for bucket in (0, row.ts // 1000 // BUCKET_S * BUCKET_S):
                fresh[bucket, _key(row)].add(row)
        for (bucket, key), tally in fresh.items():
            same = (Rollup.bucket == bucket) & (Rollup.backend == key[0]) & (Rollup.model == key[1])
            same &= (Rollup.route == key[2]) & (Rollup.kind == key[3])
            for old in Rollup.select().where(same).execute(database):
                tally.merge(_load(old))
            Rollup.delete().where(same).execute(database)
            named = dict(zip(("backend", "model", "route", "kind"), key, strict=True))
            Rollup.insert(bucket=bucket, **named, **_dump(tally)).execute(database)
        State.update(value=rows[-1].id).where(State.name == ROLLED_TO).execute(database)

    def _rows(self, database: peewee.Database, where: Any, most: int | None = None) -> Iterator[Any]:
        query = Metric.select(*_BUT_BASIS).where(where).order_by(Metric.id)
        if most is not None:
            query = query.limit(most)
        return iter(query.namedtuples().iterator(database))


def _row(call: CallRecord) -> dict[str, Any]:
    row = {name: _storable(getattr(call, name)) for name in _COLUMNS}
    row["ts"] = row.pop("ts_ms")
    basis = call.basis
    row["policy"], row["asked_model"] = (basis.policy, basis.asked_model) if basis else (None, None)
    row["basis"] = dump(basis) if basis else None
    return {**row, "ok": call.outcome == "ok", "shadow": call.kind != "live"}


def _storable(value: Any) -> Any:
    """Clients name models and backends count tokens: what no database takes must not cost the whole batch."""
    if isinstance(value, str):
        return "".join(char if char.isprintable() else "?" for char in value[:_MOST_CHARS])
    return None if type(value) is int and value > _MOST else value


def _key(row: Any) -> Key:
    """Clients may name any model: what is not there gets no sums of its own."""
    model = "" if row.error == "http_404" else row.model or ""
    return row.backend, model, row.route or "", row.kind or ("shadow" if row.shadow else "live")


def _tally(rows: Iterator[Any]) -> dict[Key, Tally]:
    tallies: dict[Key, Tally] = defaultdict(Tally)
    for row in rows:
        tallies[_key(row)].add(row)
    return tallies


def _rolled_up(rollups: Any) -> dict[Key, Tally]:
    tallies: dict[Key, Tally] = defaultdict(Tally)
    for rollup in rollups:
        tallies[rollup.backend, rollup.model, rollup.route, rollup.kind].merge(_load(rollup))
    return tallies


def _load(rollup: Any) -> Tally:
    counts = {name: getattr(rollup, name) for name in COUNTS}
    return Tally(**counts, latency=Spread.load(rollup.latency), ttfb=Spread.load(rollup.ttfb))


def _dump(tally: Tally) -> dict[str, Any]:
    counts = {name: getattr(tally, name) for name in COUNTS}
    return {**counts, "latency": tally.latency.dump(), "ttfb": tally.ttfb.dump()}

"""Metrics in the database: rows in, tallies out.

Every method may block and may raise storage.StoreError; none is called on the request path.  A Store belongs to one
thread at a time (under gunicorn: its own lane, see background/lane.py).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

import peewee

from app.metrics.tally import COUNTS, Spread, Tally
from app.routing.basis import dump
from app.storage import Storage, fetch, now_ms, plain, portions
from app.storage.model import DROPPED, ROLLED_TO, Metric, Refusals, State, Sums, Worker
from app.types import CallRecord
from app.words import utc

BUCKET_S = 600
SPANS_S = (BUCKET_S, 3600, 86_400)  # what calls are summed up by; each a multiple of the one before
_ALL_TIME = (0, 0)  # span and bucket of the sums that only ever grow
_EXACT_ROWS = 20_000  # windows of up to so many rows are summed up from the rows themselves
_PAGE_ROWS = 500  # of a long read: it keeps no transaction open and little in memory, and larger ones are no faster
_FOLD_ROWS = 5_000  # rows summed up in one transaction
_MOST_MODELS = 1000  # of a backend, with sums of their own: some answer to any name that a client thinks of
_AHEAD_MS = 60_000  # as far as clocks of machines differ
_BUSY_MS = 200  # wait for another writer; the batch is kept when it was not enough
_MOST_MIRRORED = 2000  # newest mirrored calls that an A/B report reads: it costs the same on any history
_BETWEEN_MS = 5000  # at most, between the end of a live call and the beginning of its mirrored one

_MOST_CHARS = 200
_MOST = 2**31 - 1  # what an integer column holds; nobody counted further

Key = tuple[str, str, str, str]  # backend, model, route, kind
Bucket = tuple[int, int]  # span and begin, in s
Steps = dict[int, dict[tuple[str, str], Tally]]  # begin of a step, Unix s -> (backend, model) -> its live calls

_COLUMNS = (
    "backend", "model", "route", "surface", "stream", "task", "complexity", "latency_ms", "ttfb_ms", "outcome", "error",
    "fallback_for", "input_tokens", "output_tokens", "cost_usd", "request_id", "kind",
    "reason", "destination", "sent_bytes", "sensitivity", "modality", "family", "tokens", "difficulty", "confidence",
    "sensitivity_reason", "finish", "answer_chars",
)  # fmt: skip
_values = attrgetter(*_COLUMNS)
_SUMS = ("span", "bucket", "backend", "model", "route", "kind", *COUNTS, "latency", "ttfb")


class Seen(NamedTuple):
    """What medians are made of, of one row."""

    id: int
    request_id: str | None
    ts: int
    backend: str
    model: str
    stream: bool
    latency_ms: int
    ttfb_ms: int | None


class Source(NamedTuple):
    """The database that a report was made from."""

    database: str  # LLR_DB, without a password
    oldest_ms: int | None  # Unix time of its calls; None = it holds none
    newest_ms: int | None

    def document(self) -> dict[str, str | None]:
        """Return the members of a JSON report that name it."""
        return {"database": self.database, "rows_since": None if self.oldest_ms is None else utc(self.oldest_ms)}


class CallGroup(NamedTuple):
    """Live calls that are alike, counted: what `flask doctor` reads of the last hour."""

    backend: str
    route: str | None
    reason: str | None
    outcome: str
    error: str | None
    is_away: bool  # they left for a backend that is not local
    asked_model: str | None  # of pins that left
    calls: int
    first_ms: int
    last_ms: int


class Answered(NamedTuple):
    """What an A/B report reads of one call."""

    backend: str
    model: str | None
    latency_ms: int
    outcome: str  # ok | error
    output_tokens: int | None
    finish: str | None
    answer_chars: int | None


class Pair(NamedTuple):
    """A live call, and the mirrored call of the same request."""

    live: Answered
    mirrored: Answered


class Store:
    def __init__(self, location: str, *, read_only: bool = False) -> None:
        """`location` is LLR_DB.  Nothing is opened yet.  A `read_only` one makes and changes no database."""
        self._storage = Storage(location, read_only=read_only)

    # --- writing ---

    def write(
        self, calls: Sequence[CallRecord], dropped: int = 0, refusals: Mapping[tuple[int, str], int] | None = None
    ) -> None:
        """Add one row a call, and sum up what is new, in one transaction.  `refusals` are numbers of refused requests
        by the begin of their ten minutes (Unix s) and by code."""
        with self._storage.transaction() as database:
            rolled_to = self._lock(database)
            if calls:
                _insert(database, calls)
            if dropped:
                State.update(value=State.value + dropped).where(State.name == DROPPED).execute(database)
            if refusals:
                _add_refusals(database, refusals)
            self._fold(database, rolled_to)

    def catch_up(self) -> bool:
        """Sums up rows that nobody has yet, of a database that another program or a killed worker left.  True when
        there may be more of them."""
        with self._storage.reading() as database:
            last = Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0
            if last <= self._rolled_to(database):
                return False
        with self._storage.transaction() as database:
            self._fold(database, self._lock(database))
        return True

    def prune(self, before_ms: int, most: int = 1000) -> int:
        """Deletes at most `most` of the rows older than `before_ms`, and their sums.  The newest row stays, so
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
            for table in (Sums, Refusals):
                over = table.bucket + table.span <= before_ms // 1000
                table.delete().where((table.span > 0) & over).execute(database)
            return int(gone)

    def report_worker(self, name: str, now_ms: int, document: Mapping[str, Any]) -> None:
        """Publishes what a worker says of itself; reports of more than a day ago or ahead are removed."""
        with self._storage.transaction() as database:
            columns = {"ts": now_ms, "document": json.dumps(document)}
            insert = Worker.insert(name=name, **columns)
            insert.on_conflict(conflict_target=[Worker.name], update=columns).execute(database)
            lately = Worker.ts.between(now_ms - 86_400_000, now_ms + 86_400_000)
            Worker.delete().where(~lately).execute(database)

    def forget_worker(self, name: str) -> None:
        with self._storage.transaction() as database:
            Worker.delete().where(Worker.name == name).execute(database)

    # --- reading ---

    def calls_after(self, row_id: int, since_ms: int, most: int = 5000) -> tuple[int, list[Seen]]:
        """The newest successful live and probe calls behind `row_id`, oldest first, and the last row id there is."""
        with self._storage.reading() as database:
            last = Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0
            after = max(row_id, last - most)
            where = f"id > {after:d} AND ts >= {since_ms:d} AND ok AND kind IN ('live', 'probe') AND model IS NOT NULL"
            found = database.execute_sql(f"SELECT {', '.join(Seen._fields)} FROM metrics WHERE {where} ORDER BY id")
            return int(last), list(map(Seen._make, found))

    def tallies(self, since_ms: int) -> dict[Key, Tally]:
        """What the calls since then amount to."""
        return self.history(since_ms, 0)[0]

    def history(self, since_ms: int, step_s: int) -> tuple[dict[Key, Tally], Steps]:
        """What the calls since then amount to, and the live ones of them over time, in steps of a multiple of BUCKET_S
        (0: no steps).  Few rows are summed up exactly; of many, all but the edges of the window come from the sums.
        Calls from the future, of a time when a clock was wrong, would be in every window: they are left out."""
        found, until_ms = _History(step_s), now_ms() + _AHEAD_MS
        until_s = until_ms // 1000
        with self._storage.snapshot() as database:
            window = Metric.ts.between(since_ms, until_ms)
            many = Metric.select(Metric.id).where(window).limit(_EXACT_ROWS + 1).count(database) > _EXACT_ROWS
            if not many:
                found.add(_rows(database, "ts >= ? AND ts <= ?", since_ms, until_ms))
                return found.totals, found.steps
            begin_s = begin = max(1, -(-since_ms // 1000 // BUCKET_S)) * BUCKET_S
            spans = [span for span in SPANS_S if step_s % span == 0]  # a longer one does not fit into a step
            for span, coarser in zip(spans, (*spans[1:], None), strict=True):
                end = min(-(-begin // coarser) * coarser if coarser else until_s, until_s)
                found.merge(_sums(database, "span = ? AND bucket >= ? AND bucket < ?", span, begin, end))
                begin = end
            found.add(_rows(database, "ts >= ? AND ts < ?", since_ms, begin_s * 1000))
            fresh = "id > ? AND ts >= ? AND ts <= ?"
            found.add(_rows(database, fresh, self._rolled_to(database), begin_s * 1000, until_ms))
            return found.totals, found.steps

    def latest(self, most: int) -> list[Any]:
        """The newest calls of every kind, newest first, as rows with the columns of `metrics`."""
        with self._storage.reading() as database:
            return fetch(Metric.select().order_by(Metric.id.desc()).limit(most), database)

    def pairs(self, since_ms: int) -> list[Pair]:
        """The newest mirrored calls since then, each beside the live calls of its request.  Mirrored calls that a stop
        of the router ended are left out.

        The index on `ts` finds the live call, because an index of random request ids would cost every row 10 us.  Rows
        that do not say when their live call ended are of older versions: it ended just before the mirrored call began.
        """
        sides = ", ".join(f"{side}.{name}" for side in ("live", "mirrored") for name in Answered._fields)
        began = f"ts - latency_ms - {_BETWEEN_MS}"
        mirrored = (
            f"SELECT id, request_id, {', '.join(Answered._fields)}, COALESCE(live_ts, {began}) AS from_ts,"
            f" COALESCE(live_ts, ts + {_BETWEEN_MS}) AS to_ts FROM metrics WHERE shadow AND ts >= ? AND ts <= ?"
            f" AND kind = 'shadow' AND outcome <> 'cancelled' ORDER BY ts DESC LIMIT {_MOST_MIRRORED}"
        )
        sql = (  # CROSS JOIN keeps SQLite from reading all live calls first
            f"SELECT {sides}, mirrored.id FROM ({mirrored}) AS mirrored CROSS JOIN metrics AS live"
            " WHERE live.ts >= mirrored.from_ts AND live.ts <= mirrored.to_ts"
            " AND live.request_id = mirrored.request_id AND NOT live.shadow AND live.outcome <> 'cancelled'"
            " ORDER BY live.id"
        )
        half = len(Answered._fields)
        with self._storage.reading() as database:
            rows = database.execute_sql(sql.replace("?", database.param), (since_ms, now_ms() + _AHEAD_MS))
            pairs = {}
            for row in rows:  # an id that two requests have: the later call of a backend counts
                live, mirror = Answered(*row[:half]), Answered(*row[half:-1])
                pairs[row[-1], live.backend] = Pair(live, mirror)
            return list(pairs.values())

    def groups(self, since_ms: int) -> list[CallGroup]:
        """The live calls since then, those that are alike counted."""
        away = "destination IS NOT NULL"
        alike = (
            "backend", "route", "reason", "COALESCE(outcome, CASE WHEN ok THEN 'ok' ELSE 'error' END)", "error", away,
            f"CASE WHEN {away} AND reason = 'pin' THEN asked_model END",
        )  # fmt: skip
        sql = (
            f"SELECT {', '.join(alike)}, COUNT(*), MIN(ts), MAX(ts) FROM metrics"
            f" WHERE NOT shadow AND ts >= ? AND ts <= ? GROUP BY {', '.join(map(str, range(1, len(alike) + 1)))}"
        )
        with self._storage.reading() as database:
            rows = database.execute_sql(sql.replace("?", database.param), (since_ms, now_ms() + _AHEAD_MS))
            return [CallGroup(*row) for row in rows]

    def totals(self) -> dict[Key, Tally]:
        """All calls ever made, pruned rows included."""
        with self._storage.reading() as database:
            return {key: tally for _, key, tally in _sums(database, "span = 0")}

    def source(self) -> Source:
        """Return which database this is, and from when to when it has calls."""
        with self._storage.reading() as database:
            oldest, newest = (Metric.select(end(Metric.ts)).scalar(database) for end in (peewee.fn.MIN, peewee.fn.MAX))
            return Source(self._storage.name, oldest, newest)

    def dropped(self) -> int:
        """Rows that never reached the database because the queue was full."""
        with self._storage.reading() as database:
            return int(State.select(State.value).where(State.name == DROPPED).scalar(database) or 0)

    def refusals(self, hours: float | None = None) -> dict[str, int]:
        """Return the number of requests that were refused before any call, by code, the most frequent code first: of
        the last `hours`, to ten minutes, or of all time."""
        since_s = now_ms() // 1000 - int((hours or 0) * 3600)
        window = (Refusals.span == BUCKET_S) & (Refusals.bucket > since_s - BUCKET_S)
        number = peewee.fn.SUM(Refusals.requests)
        query = Refusals.select(Refusals.code, number.alias("number")).group_by(Refusals.code)
        query = query.where(Refusals.span == 0 if hours is None else window).order_by(number.desc(), Refusals.code)
        with self._storage.reading() as database:
            return {code: int(count) for code, count in database.execute(query)}

    def workers(self, now_ms: int, within_ms: int) -> dict[str, dict[str, Any]]:
        """What the workers heard of lately say about themselves.  A report from further ahead is of a time when a
        clock was wrong."""
        with self._storage.reading() as database:
            lately = Worker.ts.between(now_ms - within_ms, now_ms + within_ms)
            found = fetch(Worker.select().where(lately), database)
            return {row.name: json.loads(row.document) for row in found}

    def egress(self, since_ms: int) -> Iterator[list[Any]]:
        """Every call since then that went beyond the local backends, oldest first, in pages."""
        columns = (Metric.id, Metric.ts, Metric.destination, Metric.backend, Metric.model, Metric.route, Metric.reason)
        sizes = (Metric.sent_bytes, Metric.input_tokens, Metric.output_tokens, Metric.outcome, Metric.request_id)
        at, after, more = since_ms, 0, True  # the place behind the last row read, in the order of the index
        while more:
            behind = (Metric.ts > at) | ((Metric.ts == at) & (Metric.id > after))
            with self._storage.reading() as database:
                query = Metric.select(*columns, *sizes).where((Metric.ts >= at) & behind)
                query = query.where(Metric.destination.is_null(False)).order_by(Metric.ts, Metric.id)
                page = fetch(query.limit(_PAGE_ROWS), database)
            if more := len(page) == _PAGE_ROWS:
                at, after = page[-1].ts, page[-1].id
            yield page

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
                page = fetch(query.limit(_PAGE_ROWS), database)
            after = page[-1].id if len(page) == _PAGE_ROWS else last
            yield (after - first + 1) / (last - first + 1), page

    def exists(self) -> bool:
        """Whether anything was ever written there."""
        return self._storage.exists()

    def check_writable(self) -> None:
        """Change nothing.  Raises StoreError when rows could not be written."""
        self._storage.check_writable()

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
        """Adds the rows behind `rolled_to` to their sums, a bounded number a turn."""
        fresh: dict[Bucket, dict[Key, Tally]] = defaultdict(lambda: defaultdict(Tally))
        models = set(database.execute_sql("SELECT DISTINCT backend, model FROM llr_sums WHERE span = 0"))
        known = Counter(backend for backend, _ in models)
        last = rolled_to
        for row in _rows(database, f"id > ? ORDER BY id LIMIT {_FOLD_ROWS}", rolled_to):
            key = _key(row)
            if key[:2] not in models and known[key[0]] >= _MOST_MODELS:
                key = (key[0], "", *key[2:])
            if key[:2] not in models:
                models.add(key[:2])
                known[key[0]] += 1
            fresh[BUCKET_S, row.ts // 1000 // BUCKET_S * BUCKET_S][key].add(row)
            last = row.id
        if last == rolled_to:
            return
        for (_, begin), tallies in list(fresh.items()):
            for bucket in (_ALL_TIME, *((span, begin // span * span) for span in SPANS_S[1:])):
                for key, tally in tallies.items():
                    fresh[bucket][key].merge(tally)
        for (span, begin), tallies in fresh.items():
            for some in portions(sorted({key[1] for key in tallies})):
                where = f"span = ? AND bucket = ? AND model IN ({', '.join('?' * len(some))})"
                for _, key, tally in _sums(database, where, span, begin, *some):
                    if key in tallies:
                        tallies[key].merge(tally)
            _put(database, [(span, begin, *key, *_dump(tally)) for key, tally in tallies.items()])
        State.update(value=last).where(State.name == ROLLED_TO).execute(database)


class _Row(NamedTuple):
    """What sums are made of, of one row."""

    id: int
    ts: int
    backend: str
    model: str | None
    route: str | None
    kind: str | None
    shadow: bool
    outcome: str | None
    ok: bool
    error: str | None
    fallback_for: str | None
    reason: str | None
    latency_ms: int
    ttfb_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None


def _rows(database: peewee.Database, where: str, *values: Any) -> Iterator[_Row]:
    """Rows in plain SQL, for there can be many; `where` has a `?` for each value."""
    sql = f"SELECT {', '.join(_Row._fields)} FROM metrics WHERE {where}".replace("?", database.param)
    return map(_Row._make, database.execute_sql(sql, values))


def _insert(database: peewee.Database, calls: Sequence[CallRecord]) -> None:
    """One row a call.  In SQL of our own: peewee's insert_many takes twenty times as long to write the statement."""
    names = ("ts", "live_ts", "ok", "shadow", "policy", "asked_model", "basis", *_COLUMNS)
    row = f"({', '.join([database.param] * len(names))})"
    for some in portions(calls):
        values: list[Any] = []
        for call in some:
            basis = call.basis
            asked = (basis.policy, _storable(basis.asked_model), dump(basis)) if basis else (None, None, None)
            facts = (call.ts_ms, call.live_ts_ms, call.outcome == "ok", call.kind != "live")
            values += (*facts, *asked, *map(_storable, _values(call)))
        database.execute_sql(f"INSERT INTO metrics ({', '.join(names)}) VALUES {', '.join([row] * len(some))}", values)


def _add_refusals(database: peewee.Database, refusals: Mapping[tuple[int, str], int]) -> None:
    """Add refusals to the sums of their ten minutes and of all time."""
    sums: Counter[tuple[int, int, str]] = Counter()
    for (begin, code), number in refusals.items():
        sums[BUCKET_S, begin, code] += number
        sums[*_ALL_TIME, code] += number
    keys = (Refusals.span, Refusals.bucket, Refusals.code)
    for some in portions(sorted(sums.items())):
        insert = Refusals.insert_many([(*key, number) for key, number in some], (*keys, Refusals.requests))
        added = {Refusals.requests: Refusals.requests + peewee.EXCLUDED.requests}
        insert.on_conflict(conflict_target=keys, update=added).execute(database)


def _storable(value: Any) -> Any:
    """Clients name models and backends count tokens: what no database takes must not cost the whole batch."""
    if type(value) is int:
        return None if value > _MOST else value
    return plain(value[:_MOST_CHARS]) if type(value) is str else value


def _key(row: _Row) -> Key:
    """Clients may name any model: what is not there gets no sums of its own."""
    model = "" if row.error == "http_404" else row.model or ""
    return row.backend, model, row.route or "", row.kind or ("shadow" if row.shadow else "live")


class _History:
    """Tallies by key, and those of live calls by steps of time."""

    def __init__(self, step_s: int) -> None:
        self.totals: dict[Key, Tally] = defaultdict(Tally)
        self.steps: Steps = defaultdict(lambda: defaultdict(Tally))
        self._step_s = step_s

    def add(self, rows: Iterator[_Row]) -> None:
        for row in rows:
            key = _key(row)
            self.totals[key].add(row)
            if self._step_s and key[3] == "live":
                self._step(row.ts // 1000, key).add(row)

    def merge(self, sums: Iterator[tuple[Bucket, Key, Tally]]) -> None:
        for (_, begin), key, tally in sums:
            self.totals[key].merge(tally)
            if self._step_s and key[3] == "live":
                self._step(begin, key).merge(tally)

    def _step(self, at_s: int, key: Key) -> Tally:
        return self.steps[at_s // self._step_s * self._step_s][key[:2]]


def _sums(database: peewee.Database, where: str, *values: Any) -> Iterator[tuple[Bucket, Key, Tally]]:
    sql = f"SELECT {', '.join(_SUMS)} FROM llr_sums WHERE {where}".replace("?", database.param)
    for span, begin, backend, model, route, kind, *counts, latency, ttfb in database.execute_sql(sql, values):
        tally = Tally(**dict(zip(COUNTS, counts, strict=True)), latency=Spread.load(latency), ttfb=Spread.load(ttfb))
        yield (span, begin), (backend, model, route, kind), tally


def _put(database: peewee.Database, sums: Sequence[Sequence[Any]]) -> None:
    """Writes sums, in place of what there was."""
    row = f"({', '.join([database.param] * len(_SUMS))})"
    update = ", ".join(f"{name} = excluded.{name}" for name in _SUMS[6:])
    for some in portions(sums):
        sql = f"INSERT INTO llr_sums ({', '.join(_SUMS)}) VALUES {', '.join([row] * len(some))}"
        conflict = f"ON CONFLICT ({', '.join(_SUMS[:6])}) DO UPDATE SET {update}"
        database.execute_sql(f"{sql} {conflict}", [value for values in some for value in values])


def _dump(tally: Tally) -> tuple[Any, ...]:
    return (*(getattr(tally, name) for name in COUNTS), tally.latency.dump(), tally.ttfb.dump())

"""Fold rows into the aggregates in the database: for ten minutes, hours, days and all time.  Rows are folded when
they are written.  Many rows without aggregates (from an older version or another program) become the backlog, which
is folded in small steps, the newest rows first.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import peewee

from app.metrics.aggregates import COUNTS, SPREADS, Aggregate, CallRow, Counts, Dump, Key
from app.storage import portions
from app.storage.model import BACKLOG_AFTER, BACKLOG_TO, ROLLED_TO, Metric, State

BUCKET_S = 600
SPANS_S = (BUCKET_S, 3600, 86_400)  # the spans of aggregates; each is a multiple of the one before
_FRESH_ROWS = 5_000  # rows folded with the next write, and read one by one until then; more become the backlog
_STEP_ROWS = 1_000  # rows of the backlog folded in one transaction, some 20 ms: other writers and reports wait for it
_MOST_MODELS = 1000  # of a backend with aggregates of their own: some backends accept any name that a client sends

_KEYS = ("span", "bucket", *Key._fields)
_COLUMNS = (*_KEYS, *COUNTS, *SPREADS)
_COUNTS_AT = len(_KEYS)
_SPREADS_AT = -len(SPREADS)


class Bucket(NamedTuple):
    """Name a span of time: `span` seconds from `begin_s` (Unix s) on."""

    span: int
    begin_s: int


ALL_TIME = Bucket(0, 0)  # the aggregates that never become smaller


class Stored(NamedTuple):
    """Hold a stored aggregate in the form that Aggregate.merge_dump reads."""

    bucket: Bucket
    key: Key
    counts: Counts
    spreads: tuple[Dump | None, ...]

    def add_to(self, aggregate: Aggregate) -> None:
        aggregate.merge_dump(self.counts, self.spreads)


class Backlog(NamedTuple):
    """Hold the range of rows that are in no aggregate yet, although newer ones are: after < id <= to."""

    after: int = 0
    to: int = 0

    @property
    def rows(self) -> int:
        return self.to - self.after


class Progress(NamedTuple):
    """Tell which rows are in the stored aggregates: those up to the id `rolled_to`, without the backlog."""

    rolled_to: int
    backlog: Backlog


def call_rows(database: peewee.Database, where: str, *values: int) -> Iterator[CallRow]:
    """Read rows in plain SQL, for there can be many; `where` has a `?` for each value."""
    sql = f"SELECT {', '.join(CallRow._fields)} FROM metrics WHERE {where}".replace("?", database.param)
    return map(CallRow._make, database.execute_sql(sql, values))


def stored(database: peewee.Database, where: str, *values: int | str) -> Iterator[Stored]:
    """Read stored aggregates; `where` has a `?` for each value."""
    sql = f"SELECT {', '.join(_COLUMNS)} FROM llr_sums WHERE {where}".replace("?", database.param)
    for row in database.execute_sql(sql, values):
        spreads = tuple(text and Dump.parse(text) for text in row[_SPREADS_AT:])
        yield Stored(Bucket(*row[:2]), Key(*row[2:_COUNTS_AT]), row[_COUNTS_AT:_SPREADS_AT], spreads)


def progress(database: peewee.Database) -> Progress:
    """Return which rows are folded.  Many new rows count as the backlog before a writer has marked them, unless
    there is an older backlog."""
    values = Counter[str](dict(database.execute_sql("SELECT name, value FROM llr_state")))
    rolled_to, backlog = values[ROLLED_TO], Backlog(values[BACKLOG_AFTER], values[BACKLOG_TO])
    fresh_after = last_id(database) - _FRESH_ROWS
    if fresh_after <= rolled_to or (backlog.rows and backlog.to != rolled_to):
        return Progress(rolled_to, backlog)
    return Progress(fresh_after, Backlog(backlog.after if backlog.rows else rolled_to, fresh_after))


def last_id(database: peewee.Database) -> int:
    """Return the id of the newest row; 0 when there is none."""
    return int(Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0)


def lock(database: peewee.Database) -> Progress:
    """Make other writers wait, so that rows become visible in the order of their ids.  When there are many new rows,
    mark them as the backlog."""
    State.update(value=State.value).where(State.name == ROLLED_TO).execute(database)
    now = progress(database)
    if now.backlog.rows:
        _save(database, now)
    return now


def fold(database: peewee.Database, now: Progress) -> None:
    """Add the rows after `rolled_to` to their aggregates, a limited number at a time."""
    rows = list(call_rows(database, f"id > ? ORDER BY id LIMIT {_FRESH_ROWS}", now.rolled_to))
    if rows:
        _add(database, rows)
        State.update(value=rows[-1].id).where(State.name == ROLLED_TO).execute(database)


def fold_backlog(database: peewee.Database, now: Progress) -> None:
    """Add the newest rows of the backlog to their aggregates."""
    after, to = now.backlog
    rows = list(call_rows(database, f"id > ? AND id <= ? ORDER BY id DESC LIMIT {_STEP_ROWS}", after, to))
    _add(database, rows)
    left = Backlog(after, rows[-1].id - 1) if len(rows) == _STEP_ROWS else Backlog()
    _save(database, now._replace(backlog=left))


def _save(database: peewee.Database, now: Progress) -> None:
    values = {ROLLED_TO: now.rolled_to, BACKLOG_AFTER: now.backlog.after, BACKLOG_TO: now.backlog.to}
    for name, value in values.items():
        insert = State.insert(name=name, value=value)
        insert.on_conflict(conflict_target=[State.name], update={"value": value}).execute(database)


def _add(database: peewee.Database, rows: Iterable[CallRow]) -> None:
    """Add rows to the stored aggregates of their ten minutes, hour and day, and of all time."""
    added = _by_ten_minutes(database, rows)
    for (_, begin_s), aggregates in list(added.items()):
        for bucket in (ALL_TIME, *(Bucket(span, begin_s // span * span) for span in SPANS_S[1:])):
            for key, aggregate in aggregates.items():
                added[bucket][key].merge(aggregate)
    for bucket, aggregates in added.items():
        for some in portions(sorted({key.model for key in aggregates})):
            where = f"span = ? AND bucket = ? AND model IN ({', '.join('?' * len(some))})"
            for before in stored(database, where, *bucket, *some):
                if before.key in aggregates:
                    before.add_to(aggregates[before.key])
        _put(database, [(*bucket, *key, *aggregate.dump()) for key, aggregate in aggregates.items()])


def _by_ten_minutes(database: peewee.Database, rows: Iterable[CallRow]) -> dict[Bucket, dict[Key, Aggregate]]:
    added: dict[Bucket, dict[Key, Aggregate]] = defaultdict(lambda: defaultdict(Aggregate))
    models = set(database.execute_sql("SELECT DISTINCT backend, model FROM llr_sums WHERE span = 0"))
    numbers = Counter(backend for backend, _ in models)
    for row in rows:
        key = row.key
        if key[:2] not in models and numbers[key.backend] >= _MOST_MODELS:
            key = key._replace(model="")
        if key[:2] not in models:
            models.add(key[:2])
            numbers[key.backend] += 1
        added[Bucket(BUCKET_S, row.ts // 1000 // BUCKET_S * BUCKET_S)][key].add(row)
    return added


def _put(database: peewee.Database, values: Sequence[Sequence[float | str | None]]) -> None:
    """Write aggregates, in place of the old ones."""
    row = f"({', '.join([database.param] * len(_COLUMNS))})"
    update = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[_COUNTS_AT:])
    for some in portions(values):
        sql = f"INSERT INTO llr_sums ({', '.join(_COLUMNS)}) VALUES {', '.join([row] * len(some))}"
        conflict = f"ON CONFLICT ({', '.join(_KEYS)}) DO UPDATE SET {update}"
        database.execute_sql(f"{sql} {conflict}", [value for columns in some for value in columns])

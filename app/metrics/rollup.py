"""Fold rows into the aggregates that the database keeps: of ten minutes, hours, days and all time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import peewee

from app.metrics.aggregates import COUNTS, Aggregate, Bucket, Key, Spread
from app.storage import portions
from app.storage.model import ROLLED_TO, State

BUCKET_S = 600
SPANS_S = (BUCKET_S, 3600, 86_400)  # what calls are summed up by; each a multiple of the one before
ALL_TIME = (0, 0)  # span and bucket of the aggregates that only ever grow
_FOLD_ROWS = 5_000  # rows folded in one transaction
_MOST_MODELS = 1000  # of a backend, with aggregates of their own: some answer to any name that a client thinks of

_COLUMNS = ("span", "bucket", "backend", "model", "route", "kind", *COUNTS, "latency", "ttfb")


class Row(NamedTuple):
    """Hold what aggregates are made of, of one row."""

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

    @property
    def key(self) -> Key:
        """Return the key of its aggregates.  Clients may name any model: one that is not there gets none of its
        own."""
        model = "" if self.error == "http_404" else self.model or ""
        return self.backend, model, self.route or "", self.kind or ("shadow" if self.shadow else "live")


def rows(database: peewee.Database, where: str, *values: Any) -> Iterator[Row]:
    """Read rows in plain SQL, for there can be many; `where` has a `?` for each value."""
    sql = f"SELECT {', '.join(Row._fields)} FROM metrics WHERE {where}".replace("?", database.param)
    return map(Row._make, database.execute_sql(sql, values))


def stored(database: peewee.Database, where: str, *values: Any) -> Iterator[tuple[Bucket, Key, Aggregate]]:
    """Read stored aggregates; `where` has a `?` for each value."""
    sql = f"SELECT {', '.join(_COLUMNS)} FROM llr_sums WHERE {where}".replace("?", database.param)
    for span, begin, backend, model, route, kind, *counts, latency, ttfb in database.execute_sql(sql, values):
        columns = dict(zip(COUNTS, counts, strict=True))
        aggregate = Aggregate(**columns, latency=Spread.load(latency), ttfb=Spread.load(ttfb))
        yield (span, begin), (backend, model, route, kind), aggregate


def lock(database: peewee.Database) -> int:
    """Make other writers wait, so that rows become visible in the order of their ids.  Return `rolled_to`."""
    State.update(value=State.value).where(State.name == ROLLED_TO).execute(database)
    return rolled_to(database)


def rolled_to(database: peewee.Database) -> int:
    """Return the id of the last row that is in the aggregates."""
    return int(State.select(State.value).where(State.name == ROLLED_TO).scalar(database) or 0)


def fold(database: peewee.Database, after: int) -> None:
    """Add the rows behind the id `after` to their aggregates, a bounded number a turn."""
    fresh, last = _fresh(database, after)
    if last == after:
        return
    for (_, begin), aggregates in list(fresh.items()):
        for bucket in (ALL_TIME, *((span, begin // span * span) for span in SPANS_S[1:])):
            for key, aggregate in aggregates.items():
                fresh[bucket][key].merge(aggregate)
    for (span, begin), aggregates in fresh.items():
        for some in portions(sorted({key[1] for key in aggregates})):
            where = f"span = ? AND bucket = ? AND model IN ({', '.join('?' * len(some))})"
            for _, key, aggregate in stored(database, where, span, begin, *some):
                if key in aggregates:
                    aggregates[key].merge(aggregate)
        _put(database, [(span, begin, *key, *_dump(aggregate)) for key, aggregate in aggregates.items()])
    State.update(value=last).where(State.name == ROLLED_TO).execute(database)


def _fresh(database: peewee.Database, after: int) -> tuple[dict[Bucket, dict[Key, Aggregate]], int]:
    """Return the aggregates of the next rows by ten minutes, and the id of the last of these rows."""
    fresh: dict[Bucket, dict[Key, Aggregate]] = defaultdict(lambda: defaultdict(Aggregate))
    models = set(database.execute_sql("SELECT DISTINCT backend, model FROM llr_sums WHERE span = 0"))
    numbers = Counter(backend for backend, _ in models)
    last = after
    for row in rows(database, f"id > ? ORDER BY id LIMIT {_FOLD_ROWS}", after):
        key = row.key
        if key[:2] not in models and numbers[key[0]] >= _MOST_MODELS:
            key = (key[0], "", *key[2:])
        if key[:2] not in models:
            models.add(key[:2])
            numbers[key[0]] += 1
        fresh[BUCKET_S, row.ts // 1000 // BUCKET_S * BUCKET_S][key].add(row)
        last = row.id
    return fresh, last


def _put(database: peewee.Database, values: Sequence[Sequence[Any]]) -> None:
    """Write aggregates, in place of what there was."""
    row = f"({', '.join([database.param] * len(_COLUMNS))})"
    update = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS[6:])
    for some in portions(values):
        sql = f"INSERT INTO llr_sums ({', '.join(_COLUMNS)}) VALUES {', '.join([row] * len(some))}"
        conflict = f"ON CONFLICT ({', '.join(_COLUMNS[:6])}) DO UPDATE SET {update}"
        database.execute_sql(f"{sql} {conflict}", [value for columns in some for value in columns])


def _dump(aggregate: Aggregate) -> tuple[Any, ...]:
    return (*(getattr(aggregate, name) for name in COUNTS), aggregate.latency.dump(), aggregate.ttfb.dump())

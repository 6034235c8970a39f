"""Read rows of the table `metrics`: for medians, reports, the ledger and replay.  Pages hold no transaction open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import peewee

from app.metrics.window import AHEAD_MS
from app.storage import Storage, fetch, now_ms
from app.storage.model import Metric
from app.words import utc

_PAGE_ROWS = 500  # of a long read: it keeps no transaction open and little in memory, and larger ones are no faster
_MOST_MIRRORED = 2000  # newest shadow calls that an A/B report reads: it costs the same on any history
_BETWEEN_MS = 5000  # at most, between the end of a live call and the beginning of its shadow call


class Seen(NamedTuple):
    """Hold what medians are made of, of one row."""

    id: int
    request_id: str | None
    ts: int
    backend: str
    model: str
    stream: bool
    latency_ms: int
    ttfb_ms: int | None


class Source(NamedTuple):
    """Name the database that a report was made from."""

    database: str  # LLR_DB, without a password
    oldest_ms: int | None  # Unix time of its calls; None = it holds none
    newest_ms: int | None

    def document(self) -> dict[str, str | None]:
        """Return the members of a JSON report that name it."""
        return {"database": self.database, "rows_since": None if self.oldest_ms is None else utc(self.oldest_ms)}


class CallGroup(NamedTuple):
    """Count live calls that are alike: `flask doctor` reads them of the last hour."""

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
    """Hold what an A/B report reads of one call."""

    backend: str
    model: str | None
    latency_ms: int
    outcome: str  # ok | error
    output_tokens: int | None
    finish: str | None
    answer_chars: int | None


class Pair(NamedTuple):
    """Join a live call and the shadow call of the same request."""

    live: Answered
    mirrored: Answered


def calls_after(database: peewee.Database, row_id: int, since_ms: int, most: int) -> tuple[int, list[Seen]]:
    """Return the last row id there is, and the newest successful live and probe calls behind `row_id`, oldest first."""
    last = Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0
    after = max(row_id, last - most)
    where = f"id > {after:d} AND ts >= {since_ms:d} AND ok AND kind IN ('live', 'probe') AND model IS NOT NULL"
    cursor = database.execute_sql(f"SELECT {', '.join(Seen._fields)} FROM metrics WHERE {where} ORDER BY id")
    return int(last), list(map(Seen._make, cursor))


def latest(database: peewee.Database, most: int) -> list[Any]:
    """Return the newest calls of every kind, newest first, as rows with the columns of `metrics`."""
    return fetch(Metric.select().order_by(Metric.id.desc()).limit(most), database)


def pairs(database: peewee.Database, since_ms: int) -> list[Pair]:
    """Return the newest shadow calls since then, each beside the live calls of its request.  Shadow calls that a stop
    of the router ended are left out.

    The index on `ts` finds the live call, because an index of random request ids would cost every row 10 us.  Rows
    that do not say when their live call ended are of older versions: it ended just before the shadow call began.
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
    cursor = database.execute_sql(sql.replace("?", database.param), (since_ms, now_ms() + AHEAD_MS))
    by_calls = {}
    for row in cursor:  # an id that two requests have: the later call of a backend counts
        live, mirror = Answered(*row[:half]), Answered(*row[half:-1])
        by_calls[row[-1], live.backend] = Pair(live, mirror)
    return list(by_calls.values())


def groups(database: peewee.Database, since_ms: int) -> list[CallGroup]:
    """Count the live calls since then, those that are alike together."""
    away = "destination IS NOT NULL"
    alike = (
        "backend", "route", "reason", "COALESCE(outcome, CASE WHEN ok THEN 'ok' ELSE 'error' END)", "error", away,
        f"CASE WHEN {away} AND reason = 'pin' THEN asked_model END",
    )  # fmt: skip
    sql = (
        f"SELECT {', '.join(alike)}, COUNT(*), MIN(ts), MAX(ts) FROM metrics"
        f" WHERE NOT shadow AND ts >= ? AND ts <= ? GROUP BY {', '.join(map(str, range(1, len(alike) + 1)))}"
    )
    cursor = database.execute_sql(sql.replace("?", database.param), (since_ms, now_ms() + AHEAD_MS))
    return [CallGroup(*row) for row in cursor]


def ends(database: peewee.Database) -> tuple[int | None, int | None]:
    """Return the Unix ms of the oldest and of the newest call."""
    oldest, newest = (Metric.select(end(Metric.ts)).scalar(database) for end in (peewee.fn.MIN, peewee.fn.MAX))
    return oldest, newest


def egress(storage: Storage, since_ms: int) -> Iterator[list[Any]]:
    """Yield every call since then that went beyond the local backends, oldest first, in pages."""
    columns = (Metric.id, Metric.ts, Metric.destination, Metric.backend, Metric.model, Metric.route, Metric.reason)
    sizes = (Metric.sent_bytes, Metric.input_tokens, Metric.output_tokens, Metric.outcome, Metric.request_id)
    at, after, more = since_ms, 0, True  # the place behind the last row read, in the order of the index
    while more:
        behind = (Metric.ts > at) | ((Metric.ts == at) & (Metric.id > after))
        with storage.reading() as database:
            query = Metric.select(*columns, *sizes).where((Metric.ts >= at) & behind)
            query = query.where(Metric.destination.is_null(False)).order_by(Metric.ts, Metric.id)
            page = fetch(query.limit(_PAGE_ROWS), database)
        if more := len(page) == _PAGE_ROWS:
            at, after = page[-1].ts, page[-1].id
        yield page


def live_calls(storage: Storage, since_ms: int) -> Iterator[tuple[float, list[Any]]]:
    """Yield every live call since then that is there now, oldest first, in pages: the share read so far, and rows."""
    with storage.reading() as database:
        outer = Metric.select(peewee.fn.MIN(Metric.id), peewee.fn.MAX(Metric.id)).where(Metric.ts >= since_ms)
        first, last = outer.scalar(database, as_tuple=True)
    after = (first or 0) - 1
    live = (Metric.ts >= since_ms) & ~Metric.shadow
    while first is not None and after < last:
        with storage.reading() as database:
            query = Metric.select().where((Metric.id > after) & (Metric.id <= last) & live).order_by(Metric.id)
            page = fetch(query.limit(_PAGE_ROWS), database)
        after = page[-1].id if len(page) == _PAGE_ROWS else last
        yield (after - first + 1) / (last - first + 1), page

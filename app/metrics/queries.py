"""Read rows of the table `metrics`: for medians, reports, the ledger and replay.  Pages hold no transaction open."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import NamedTuple

import peewee

from app.metrics.window import AHEAD_MS
from app.storage import Storage, columns, fetch, now_ms
from app.storage.model import Metric
from app.types import Classification, JsonDict, Kind
from app.words import utc

_PAGE_ROWS = 500  # of a long read: small pages need little memory and no long transaction; larger ones are no faster
_MOST_SHADOWS = 2000  # newest shadow calls that an A/B report reads, so that its cost does not grow with the history
_BETWEEN_MS = 5000  # at most, between the end of a live call and the beginning of its shadow call


class TimedCall(NamedTuple):
    """Hold the columns of one row that medians need."""

    id: int
    request_id: str | None
    ts: int
    backend: str
    model: str
    stream: bool
    latency_ms: int
    ttfb_ms: int | None
    wait_ms: int | None
    load_ms: int | None


class Source(NamedTuple):
    """Name the database that a report was made from."""

    database: str  # LLR_DB, without a password
    oldest_ms: int | None  # Unix time of its calls; None = it holds none
    newest_ms: int | None

    def document(self) -> dict[str, str | None]:
        """Return the members of a JSON report that name the source."""
        return {"database": self.database, "rows_since": None if self.oldest_ms is None else utc(self.oldest_ms)}


class ShownCall(NamedTuple):
    """Hold the columns of one call that the page shows."""

    ts: int
    backend: str
    model: str | None
    route: str | None
    task: str | None
    complexity: str | None
    outcome: str | None  # None in rows of the original program
    ok: bool
    error: str | None
    latency_ms: int
    ttfb_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    reason: str | None
    fallback_for: str | None
    verified: str | None
    verified_reason: str | None


class SentCall(NamedTuple):
    """Hold the columns of one call that the egress ledger shows."""

    id: int
    ts: int
    destination: str
    backend: str
    model: str | None
    route: str | None
    reason: str | None
    sent_bytes: int | None
    input_tokens: int | None
    output_tokens: int | None
    outcome: str | None
    request_id: str | None


class PastCall(NamedTuple):
    """Hold the columns of one live call, or of a second opinion, that a replay reads."""

    id: int
    ts: int
    request_id: str
    kind: str | None
    backend: str
    reason: str | None
    surface: str
    route: str
    stream: bool
    lane: str | None  # None in rows of older versions
    ok: bool
    fallback_for: str | None
    latency_ms: int
    ttfb_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    verified: str | None
    doubt: float | None
    fault: str | None
    agreement: float | None
    held_ms: int | None
    policy: str
    asked_model: str | None
    basis: str | None
    tags: Classification | None  # None in rows of versions that kept none; newer tags are None in older rows


_TAGS = tuple(tag.name for tag in fields(Classification))


class CallGroup(NamedTuple):
    """Count the live calls that share these values, for `flask doctor`."""

    backend: str
    route: str | None
    reason: str | None
    outcome: str
    error: str | None
    is_away: bool  # the calls went to a backend that is not local
    asked_model: str | None  # of pins that left
    calls: int
    first_ms: int
    last_ms: int


class TimedPart(NamedTuple):
    """Hold the columns that tell what a call waited for, for `flask doctor`."""

    ts: int  # Unix ms of its end
    backend: str
    model: str
    latency_ms: int
    wait_ms: int | None
    load_ms: int | None

    @property
    def begin_ms(self) -> int:
        return self.ts - self.latency_ms

    @property
    def load_begin_ms(self) -> int:
        return self.begin_ms + (self.wait_ms or 0)


class SampledCall(NamedTuple):
    """Hold the columns of one call that an A/B report reads."""

    backend: str
    model: str | None
    latency_ms: int
    outcome: str  # ok | error
    output_tokens: int | None
    finish: str | None
    answer_chars: int | None
    cost_usd: float | None = None
    doubt: float | None = None
    agreement: float | None = None  # of a shadow call, as the next one
    live_doubt: float | None = None


class Pair(NamedTuple):
    """Join a live call and the shadow call of the same request."""

    live: SampledCall
    shadow: SampledCall


def calls_after(database: peewee.Database, row_id: int, since_ms: int, most: int) -> tuple[int, list[TimedCall]]:
    """Return the id of the last row, and the newest successful live calls and probes after `row_id`, oldest first."""
    last = Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0
    after = max(row_id, last - most)
    where = f"id > {after:d} AND ts >= {since_ms:d} AND ok AND kind IN ('live', 'probe') AND model IS NOT NULL"
    cursor = database.execute_sql(f"SELECT {', '.join(TimedCall._fields)} FROM metrics WHERE {where} ORDER BY id")
    return int(last), list(map(TimedCall._make, cursor))


def latest(database: peewee.Database, most: int) -> list[ShownCall]:
    """Return the newest calls of every kind, newest first."""
    query = Metric.select(*columns(Metric, ShownCall)).order_by(Metric.id.desc()).limit(most)
    return fetch(ShownCall, query, database)


def pairs(database: peewee.Database, since_ms: int) -> list[Pair]:
    """Return the newest shadow calls since then, each beside the live calls of its request.  Shadow calls that a stop
    of the router ended are left out.

    The index on `ts` finds the live call, because an index of random request ids would cost every row 10 us.  Rows
    that do not say when their live call ended are of older versions: it ended just before the shadow call began.
    """
    sides = ", ".join(f"{side}.{name}" for side in ("live", "copy") for name in SampledCall._fields)
    began = f"ts - latency_ms - {_BETWEEN_MS}"
    copies = (
        f"SELECT id, request_id, {', '.join(SampledCall._fields)}, COALESCE(live_ts, {began}) AS from_ts,"
        f" COALESCE(live_ts, ts + {_BETWEEN_MS}) AS to_ts FROM metrics WHERE shadow AND ts >= ? AND ts <= ?"
        f" AND kind = 'shadow' AND outcome <> 'cancelled' ORDER BY ts DESC LIMIT {_MOST_SHADOWS}"
    )
    sql = (  # CROSS JOIN keeps SQLite from reading all live calls first
        f"SELECT {sides}, copy.id FROM ({copies}) AS copy CROSS JOIN metrics AS live"
        " WHERE live.ts >= copy.from_ts AND live.ts <= copy.to_ts"
        " AND live.request_id = copy.request_id AND NOT live.shadow AND live.outcome <> 'cancelled'"
        " ORDER BY live.id"
    )
    half = len(SampledCall._fields)
    cursor = database.execute_sql(sql.replace("?", database.param), (since_ms, now_ms() + AHEAD_MS))
    by_calls = {}
    for row in cursor:  # when two requests have the same id, the later call of a backend counts
        live, shadow = SampledCall(*row[:half]), SampledCall(*row[half:-1])
        by_calls[row[-1], live.backend] = Pair(live, shadow)
    return list(by_calls.values())


def groups(database: peewee.Database, since_ms: int) -> list[CallGroup]:
    """Count the live calls since then, in groups of equal values."""
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


def timed_parts(database: peewee.Database, since_ms: int, most: int) -> list[TimedPart]:
    """Return the newest calls of every kind since then that have a model, newest first."""
    query = Metric.select(*columns(Metric, TimedPart)).where(Metric.ts.between(since_ms, now_ms() + AHEAD_MS))
    query = query.where(Metric.model.is_null(False)).order_by(Metric.id.desc()).limit(most)
    return fetch(TimedPart, query, database)


def ends(database: peewee.Database) -> tuple[int | None, int | None]:
    """Return the Unix ms of the oldest and of the newest call."""
    oldest, newest = (Metric.select(end(Metric.ts)).scalar(database) for end in (peewee.fn.MIN, peewee.fn.MAX))
    return oldest, newest


def egress(storage: Storage, since_ms: int) -> Iterator[list[SentCall]]:
    """Yield every call since then to a target that is not local, oldest first, in pages."""
    at, after, more = since_ms, 0, True  # the place behind the last row read, in the order of the index
    while more:
        behind = (Metric.ts > at) | ((Metric.ts == at) & (Metric.id > after))
        with storage.reading() as database:
            query = Metric.select(*columns(Metric, SentCall)).where((Metric.ts >= at) & behind)
            query = query.where(Metric.destination.is_null(False)).order_by(Metric.ts, Metric.id)
            page = fetch(SentCall, query.limit(_PAGE_ROWS), database)
        if more := len(page) == _PAGE_ROWS:
            at, after = page[-1].ts, page[-1].id
        yield page


def live_calls(storage: Storage, since_ms: int) -> Iterator[tuple[float, list[PastCall]]]:
    """Yield the live calls and second opinions since then, oldest first, in pages: the share that was read so far, and
    the calls.  Calls that end meanwhile are left out."""
    with storage.reading() as database:
        outer = Metric.select(peewee.fn.MIN(Metric.id), peewee.fn.MAX(Metric.id)).where(Metric.ts >= since_ms)
        first, last = outer.scalar(database, as_tuple=True)
    after = (first or 0) - 1
    live = (Metric.ts >= since_ms) & (~Metric.shadow | (Metric.kind == Kind.VERIFY))
    wanted = [getattr(Metric, name) for name in (*PastCall._fields[:-1], *_TAGS)]
    while first is not None and after < last:
        with storage.reading() as database:
            query = Metric.select(*wanted).where((Metric.id > after) & (Metric.id <= last) & live).order_by(Metric.id)
            page = list(map(_past_call, database.execute(query.limit(_PAGE_ROWS))))
        after = page[-1].id if len(page) == _PAGE_ROWS else last
        yield (after - first + 1) / (last - first + 1), page


def _past_call(row: tuple[object, ...]) -> PastCall:
    tags: JsonDict = dict(zip(_TAGS, row[-len(_TAGS) :], strict=True))
    return PastCall._make((*row[: -len(_TAGS)], None if tags["tokens"] is None else Classification(**tags)))

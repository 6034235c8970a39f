"""Count the requests and the escalations of routes, for their `dailyShare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import peewee

from app.metrics.rows import MOST_CHARS
from app.storage.model import Metric

_STEP_MS = 600_000  # ten minutes
_IS_REQUEST = "policy IS NOT NULL"  # of the first call of a request only
_IS_ESCALATED = "reason = 'escalated' AND outcome <> 'error'"  # a failed call cost nothing


class RouteCount(NamedTuple):
    """Count calls of one route: those of ten minutes, or one call."""

    ts: int  # Unix ms
    route: str
    request_id: str  # "" = several calls
    reason: str
    requests: int
    escalated: int


def counts_after(
    database: peewee.Database, row_id: int | None, since_ms: int, routes: Sequence[str]
) -> tuple[int, list[RouteCount]]:
    """Return the id of the last row, and the live calls of these routes after `row_id`, one by one.  Without `row_id`,
    return all of them in steps of ten minutes."""
    last = int(Metric.select(peewee.fn.MAX(Metric.id)).scalar(database) or 0)
    names = {route[:MOST_CHARS]: route for route in routes}  # as rows hold them
    where = f"kind = 'live' AND ts >= {since_ms:d} AND route IN ({', '.join([database.param] * len(names))})"
    request, escalated = (f"CASE WHEN {condition} THEN 1 ELSE 0 END" for condition in (_IS_REQUEST, _IS_ESCALATED))
    if row_id is not None:
        what, more = f"ts, route, request_id, reason, {request}, {escalated}", f"AND id > {row_id:d} ORDER BY id"
    else:
        step = f"ts / {_STEP_MS} * {_STEP_MS}"
        what = f"{step}, route, '', '', SUM({request}), SUM({escalated})"
        more = f"GROUP BY {step}, route"
    sql = f"SELECT {what} FROM metrics WHERE {where} AND id <= {last:d} {more}"
    rows = (RouteCount(*row) for row in database.execute_sql(sql, tuple(names)))
    return last, [row._replace(route=names[row.route]) for row in rows]

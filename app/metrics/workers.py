"""Write and read the reports of all worker processes, so that every worker can show all of them."""

from __future__ import annotations

import json
from typing import NamedTuple

import peewee

from app.storage import columns, fetch
from app.storage.model import Worker
from app.types import JsonDict, JsonObject

_DAY_MS = 86_400_000


class _Report(NamedTuple):
    name: str
    document: str


def report(database: peewee.Database, name: str, now_ms: int, document: JsonObject) -> None:
    """Write a worker's report in place of its last one.  Remove reports that are more than a day old, or a day in
    the future."""
    values = {"ts": now_ms, "document": json.dumps(document)}
    insert = Worker.insert(name=name, **values)
    insert.on_conflict(conflict_target=[Worker.name], update=values).execute(database)
    Worker.delete().where(~Worker.ts.between(now_ms - _DAY_MS, now_ms + _DAY_MS)).execute(database)


def forget(database: peewee.Database, name: str) -> None:
    """Remove a worker's report."""
    Worker.delete().where(Worker.name == name).execute(database)


def reports(database: peewee.Database, now_ms: int, within_ms: int) -> dict[str, JsonDict]:
    """Return the latest reports by worker.  A report from the future was written while a clock was wrong; it is left
    out."""
    lately = Worker.ts.between(now_ms - within_ms, now_ms + within_ms)
    query = Worker.select(*columns(Worker, _Report)).where(lately)
    return {row.name: json.loads(row.document) for row in fetch(_Report, query, database)}

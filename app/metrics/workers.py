"""Publish and read what each worker process reports of itself, so that every worker can show all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import peewee

from app.storage import fetch
from app.storage.model import Worker

_DAY_MS = 86_400_000


def report(database: peewee.Database, name: str, now_ms: int, document: Mapping[str, Any]) -> None:
    """Write a worker's report in place of its last one; remove reports of more than a day ago or ahead."""
    columns = {"ts": now_ms, "document": json.dumps(document)}
    insert = Worker.insert(name=name, **columns)
    insert.on_conflict(conflict_target=[Worker.name], update=columns).execute(database)
    Worker.delete().where(~Worker.ts.between(now_ms - _DAY_MS, now_ms + _DAY_MS)).execute(database)


def forget(database: peewee.Database, name: str) -> None:
    """Remove a worker's report."""
    Worker.delete().where(Worker.name == name).execute(database)


def reports(database: peewee.Database, now_ms: int, within_ms: int) -> dict[str, dict[str, Any]]:
    """Return the latest reports by worker.  A report from further ahead is of a time when a clock was wrong."""
    query = Worker.select().where(Worker.ts.between(now_ms - within_ms, now_ms + within_ms))
    return {row.name: json.loads(row.document) for row in fetch(query, database)}

"""Write calls as rows of the table `metrics`."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import peewee

from app.routing.basis import dump
from app.storage import plain, portions
from app.types import CallRecord

MOST_CHARS = 200  # kept of a text that a client or a backend wrote
_MOST = 2**31 - 1  # what an integer column holds; nobody counted further

_COLUMNS = (
    "backend", "model", "route", "surface", "stream", "task", "complexity", "latency_ms", "ttfb_ms", "outcome", "error",
    "fallback_for", "input_tokens", "output_tokens", "cost_usd", "request_id", "kind",
    "reason", "destination", "sent_bytes", "sensitivity", "modality", "family", "tokens", "difficulty", "confidence",
    "sensitivity_reason", "finish", "answer_chars",
)  # fmt: skip
_values = attrgetter(*_COLUMNS)


def insert(database: peewee.Database, calls: Sequence[CallRecord]) -> None:
    """Add one row a call.  In SQL of our own: peewee's insert_many takes twenty times as long to write the
    statement."""
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


def _storable(value: Any) -> Any:
    """Cut a value to what every database takes, so that a name from a client or a count from a backend never costs
    the whole batch."""
    if type(value) is int:
        return None if value > _MOST else value
    return plain(value[:MOST_CHARS]) if isinstance(value, str) else value

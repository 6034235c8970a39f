"""Write calls as rows of the table `metrics`."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from operator import attrgetter

import peewee

from app.routing.basis import dump
from app.storage import plain, portions
from app.storage.model import Metric
from app.types import CallRecord, Classification, Kind, Outcome

MOST_CHARS = 200  # kept of a text that a client or a backend wrote
_MOST = 2**31 - 1  # the largest value of an integer column
_OWN = ("ts", "live_ts", "ok", "shadow", "policy", "asked_model", "basis")  # columns that are no field of a record


def _stored(part: type, prefix: str = "") -> Iterator[str]:
    """Return the fields of a record and of its parts that have a column of their name, as `times.latency_ms`."""
    types = typing.get_type_hints(part)
    columns = {field.column_name for field in Metric._meta.sorted_fields} - {*_OWN}
    for field in dataclasses.fields(part):
        kind = types[field.name]
        if dataclasses.is_dataclass(kind):
            yield from _stored(typing.cast(type, kind), f"{prefix}{field.name}.")
        elif field.name in columns:
            yield prefix + field.name


_FIELDS, _TAGS = tuple(_stored(CallRecord)), tuple(_stored(Classification))
_values, _tag_values = attrgetter(*_FIELDS), attrgetter(*_TAGS)
_NO_TAGS = (None,) * len(_TAGS)
COLUMNS = (*_OWN, *(field.rpartition(".")[2] for field in _FIELDS), *_TAGS)


def insert(database: peewee.Database, calls: Sequence[CallRecord]) -> None:
    """Add one row a call.  The SQL is our own, because peewee's insert_many needs twenty times as long to write the
    statement."""
    names, row = ", ".join(COLUMNS), f"({', '.join([database.param] * len(COLUMNS))})"
    for some in portions(calls):
        values = [value for call in some for value in flat(call)]
        database.execute_sql(f"INSERT INTO metrics ({names}) VALUES {', '.join([row] * len(some))}", values)


def flat(call: CallRecord) -> tuple[object, ...]:
    """Return the values of a call's row, in the order of COLUMNS."""
    basis = call.basis
    decision = (basis.policy, _storable(basis.asked_model), dump(basis)) if basis else (None, None, None)
    tags = _tag_values(call.tags) if call.tags else _NO_TAGS
    own = (call.times.ts_ms, call.why.live_ts_ms, call.ending.outcome == Outcome.OK, call.kind != Kind.LIVE, *decision)
    values = (*_values(call), *tags)
    return (*own, *[value if value is None else _storable(value) for value in values])


def _storable(value: object) -> object:
    """Cut a value to a size that every database accepts, so that a long name of a client or a large count of a
    backend cannot make the whole batch fail."""
    if isinstance(value, str):
        return plain(value[:MOST_CHARS])
    return None if type(value) is int and value > _MOST else value

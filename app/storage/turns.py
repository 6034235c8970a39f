"""Write and read turns of conversations: the tables `llr_responses` and `llr_response_items`.

The SQL for every turn is our own, because peewee needs many times as long to write it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple

import peewee

from app.storage import columns, fetch, portions
from app.storage.model import STORED_BYTES, STORED_ROWS, StoredItem, StoredResponse

ITEM_BYTES = 250  # an item's row and its entries in two indexes, measured in SQLite with ids of 45 characters


class TurnRow(NamedTuple):
    """Hold a row of the table."""

    owner: str
    id: str
    ts: int
    previous_id: str | None
    backend: str
    model: str
    native: bool
    private: bool
    size_bytes: int
    input: str  # JSON
    response: str  # JSON


class NewTurn(NamedTuple):
    """Hold a turn to write: its row and the ids of its items."""

    row: TurnRow
    item_ids: tuple[str, ...]


class Size(NamedTuple):
    """Hold the number of some turns, and their bytes."""

    turns: int
    size_bytes: int


def write(database: peewee.Database, new: NewTurn) -> Size:
    """Write a turn, in place of an older one with the same id.  Return the change of the size."""
    row = new.row
    before = size_of(database, row.owner, row.id)
    database.execute_sql(_upsert("llr_responses", TurnRow._fields, 1, database.param), row)
    for some in portions(new.item_ids):
        # An item that occurs again belongs to the newest turn, which is removed last.
        items = [value for name in some for value in (row.owner, name, row.id)]
        sql = _upsert("llr_response_items", ("owner", "id", "response_id"), len(some), database.param)
        database.execute_sql(sql, items)
    return Size(int(before is None), row.size_bytes - (before or 0))


def read(database: peewee.Database, owner: str, response_id: str, oldest_ms: int) -> TurnRow | None:
    """Return a turn that is not older than `oldest_ms`; None when there is none."""
    own = (StoredResponse.owner == owner) & (StoredResponse.id == response_id)
    query = StoredResponse.select(*columns(StoredResponse, TurnRow)).where(own & (StoredResponse.ts >= oldest_ms))
    rows = fetch(TurnRow, query, database)
    return rows[0] if rows else None


class _Holder(NamedTuple):
    id: str
    response_id: str


def holders(database: peewee.Database, owner: str, item_ids: Iterable[str]) -> dict[str, str]:
    """Return the ids of the turns that hold these items, by item."""
    turns: dict[str, str] = {}
    for some in portions(list(item_ids)):
        own = (StoredItem.owner == owner) & StoredItem.id.in_(some)
        query = StoredItem.select(*columns(StoredItem, _Holder)).where(own)
        turns |= dict(fetch(_Holder, query, database))
    return turns


def size_of(database: peewee.Database, owner: str, response_id: str) -> int | None:
    """Return the bytes of a turn; None when there is none."""
    sql = "SELECT size_bytes FROM llr_responses WHERE owner = ? AND id = ?".replace("?", database.param)
    row = database.execute_sql(sql, (owner, response_id)).fetchone()
    return int(row[0]) if row else None


def remove(database: peewee.Database, owner: str, ids: list[str], size_bytes: int) -> None:
    """Delete turns of one owner; `size_bytes` is their size."""
    for some in portions(ids):
        items = (StoredItem.owner == owner) & StoredItem.response_id.in_(some)
        StoredItem.delete().where(items).execute(database)
        turns = (StoredResponse.owner == owner) & StoredResponse.id.in_(some)
        StoredResponse.delete().where(turns).execute(database)
    count(database, Size(-len(ids), -size_bytes))


class _OldTurn(NamedTuple):
    owner: str
    id: str
    ts: int
    size_bytes: int


def drop_oldest(database: peewee.Database, before_ms: int, limit: Size, most: int) -> int:
    """Remove the oldest turns, `most` at most, until none is older than `before_ms` and the rest is within the
    limit.  Return the number of removed turns."""
    left = counted(database)
    query = StoredResponse.select(*columns(StoredResponse, _OldTurn)).order_by(StoredResponse.ts).limit(most)
    oldest, dropped = fetch(_OldTurn, query, database), []
    for row in oldest:
        if row.ts >= before_ms and left.turns <= limit.turns and left.size_bytes <= limit.size_bytes:
            break
        dropped.append(row)
        left = Size(left.turns - 1, left.size_bytes - row.size_bytes)
    for owner, some in groupby(sorted(dropped), key=lambda row: row.owner):
        group = list(some)
        remove(database, owner, [row.id for row in group], sum(row.size_bytes for row in group))
    if len(dropped) == len(oldest) < most and any(left):
        count(database, Size(-left.turns, -left.size_bytes))  # no turn is left: the counted rows were deleted by hand
    return len(dropped)


def counted(database: peewee.Database) -> Size:
    """Return the number of turns and their bytes, without reading them."""
    sql = f"SELECT name, value FROM llr_state WHERE name IN ('{STORED_ROWS}', '{STORED_BYTES}')"
    counts = dict(database.execute_sql(sql))
    return Size(int(counts[STORED_ROWS]), int(counts[STORED_BYTES]))


def lock(database: peewee.Database) -> None:
    """Make other writers wait until the transaction ends."""
    count(database, Size(0, 0))


def count(database: peewee.Database, added: Size) -> None:
    """Add to the counts.  Other writers then wait until the end of the transaction, so that the counts stay correct."""
    turns, size_bytes = added
    sql = (
        f"UPDATE llr_state SET value = value + CASE name WHEN '{STORED_ROWS}' THEN {turns:d} ELSE {size_bytes:d} END "
        f"WHERE name IN ('{STORED_ROWS}', '{STORED_BYTES}')"
    )
    database.execute_sql(sql)


@functools.cache
def _upsert(table: str, names: tuple[str, ...], rows: int, param: str) -> str:
    """Return the SQL that writes rows in place of those with the same owner and id, the first two columns."""
    row = f"({', '.join([param] * len(names))})"
    update = ", ".join(f"{name} = excluded.{name}" for name in names[2:])
    values = ", ".join([row] * rows)
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES {values} ON CONFLICT (owner, id) DO UPDATE SET {update}"

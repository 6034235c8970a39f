"""What /v1/responses keeps: turns of conversations, for `previous_response_id`, `item_reference` and retrieval.

All workers share them through the database.  A turn belongs to its owner, the client's key that made it: to all others
it does not exist.  A turn that cannot be written waits in this worker's memory: the request it belongs to never fails
for it.  Methods block (background/thread.py).
"""

from __future__ import annotations

import functools
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import peewee

from app.errors import RequestError
from app.storage import Storage, StoreError, fetch, plain, portions
from app.storage.model import STORED_BYTES, STORED_ROWS, StoredItem, StoredResponse
from app.types import ResponsesRules

log = logging.getLogger("llr.conversations")

_MOST_WAITING = 200  # turns kept in memory while the database cannot be written
_MOST_WAITING_BYTES = 33_554_432
_MOST_TURNS = 1000  # of one conversation
_MOST_HISTORY_BYTES = 33_554_432  # of one request: as much as one may send by default (LLR_MAX_BODY_BYTES)
_ITEM_BYTES = 250  # an item's row and its places in two indexes, measured in SQLite with ids of 45 characters
_TRIM_ROWS = 256  # removed in one step


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request and its answer.  A native turn is kept by its backend; we only know whose it is, and the ids of the
    items in its answer, which a client may refer to."""

    owner: str = ""  # "" = no keys are set
    id: str
    ts_ms: int
    previous_id: str | None
    backend: str
    model: str
    native: bool
    private: bool
    input: tuple[dict[str, Any], ...] = ()
    response: dict[str, Any] | None = None
    their_items: tuple[str, ...] = ()
    size_bytes: int = field(default=0, compare=False)  # known once it is kept

    @property
    def items(self) -> list[dict[str, Any]]:
        """Input and output items, in order: the turn as history."""
        return [*self.input, *(self.response or {}).get("output", ())]

    @property
    def item_ids(self) -> list[str]:
        return [*self.their_items, *(item["id"] for item in self.items if item.get("id"))]


@dataclass(frozen=True, slots=True)
class _Row:
    """A turn as it is written; the columns have the names of the table's."""

    owner: str
    id: str
    ts: int
    previous_id: str | None
    backend: str
    model: str
    native: bool
    private: bool
    input: str
    response: str
    item_ids: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        return len(self.input) + len(self.response) + _ITEM_BYTES * len(self.item_ids)


class Conversations:
    def __init__(self, location: str, rules: ResponsesRules, clock_ms: Callable[[], int]) -> None:
        """`location` is LLR_DB, `clock_ms` Unix time.  Nothing is opened yet."""
        self._storage = Storage(location)
        self._rules = rules
        self._clock_ms = clock_ms
        self._waiting: OrderedDict[tuple[str, str], _Row] = OrderedDict()  # owner, id: not in the database yet
        self._waiting_bytes = 0
        self._failing = False
        self._too_large_told = False

    def keep(self, turn: Turn) -> bool:
        """Keep a turn; visible to every worker when this returns, unless the database cannot be written.  Then it is
        left to later calls of `flush`: each try may take seconds, and here a request waits.

        Returns False for one that is larger than the policy allows."""
        row = _row(turn)
        if row.size_bytes > min(self._rules.max_turn_bytes, self._rules.max_bytes):
            self._tell_too_large(row.size_bytes)
            return False
        self._let_wait(row)
        if not self._failing:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the turns that wait."""
        rows = list(self._waiting.values())
        if not rows:
            return
        try:
            with self._storage.transaction() as database:
                added = [self._write(database, row) for row in rows]
                _count(database, sum(new for new, _ in added), sum(more for _, more in added))
                while self._is_over(*_counted(database)) and self._drop_oldest(database):
                    pass
        except StoreError as error:
            if not self._failing:
                log.error("responses cannot be stored and wait in memory: %s", error)
            self._failing = True
            return
        except Exception:
            self._forget_waiting()  # not to be tried again: it would fail for ever
            raise
        self._forget_waiting()
        if self._failing:
            log.info("responses can be stored again")
            self._failing = False

    def trim(self) -> bool:
        """Remove some of the turns that are too old or too many.  True when there may be more.  Raises StoreError."""
        with self._storage.transaction() as database:
            _count(database, 0, 0)
            return self._drop_oldest(database) == _TRIM_ROWS

    def turn(self, response_id: str, owner: str = "") -> Turn | None:
        """Return a kept turn of `owner`.  Raises StoreError."""
        if waiting := self._waiting.get((owner, response_id)):
            return _turn(waiting)
        if not response_id.isprintable():
            return None  # and no database would take it
        with self._storage.reading() as database:
            wanted = (StoredResponse.owner == owner) & (StoredResponse.id == response_id)
            stored = fetch(StoredResponse.select().where(wanted & (StoredResponse.ts >= self._oldest_ms())), database)
        return _turn(stored[0]) if stored else None

    def chain(self, response_id: str, owner: str = "") -> list[Turn]:
        """The conversation up to and with a response, oldest turn first.  Raises RequestError when part of it is not
        kept (any more), or belongs to another owner, or when it is too long, StoreError."""
        turns: list[Turn] = []
        size, next_id = 0, response_id or None
        while next_id is not None and len(turns) < _MOST_TURNS:
            turn = self.turn(next_id, owner)
            if turn is None:
                raise RequestError(
                    f"Previous response with id {response_id[:80]!r} not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            size = _checked(size + turn.size_bytes, "previous_response_id")
            turns.append(turn)
            next_id = None if turn.native else turn.previous_id
        return turns[::-1]

    def items(self, ids: Iterable[str], owner: str = "") -> dict[str, tuple[dict[str, Any] | None, Turn]]:
        """Kept items of `owner` by id, each with its turn; None for one that a backend keeps; an unknown id is left
        out.  Raises RequestError when their turns are too large, StoreError."""
        wanted = set(filter(str.isprintable, ids))
        holders: dict[str, str] = {}
        with self._storage.reading() as database:
            for some in portions(list(wanted)):
                kept = StoredItem.select(StoredItem.id, StoredItem.response_id)
                found = fetch(kept.where((StoredItem.owner == owner) & StoredItem.id.in_(some)), database)
                holders |= {str(row.id): str(row.response_id) for row in found}
        for waiting in self._waiting.values():
            if waiting.owner == owner:
                holders |= dict.fromkeys(wanted.intersection(waiting.item_ids), waiting.id)
        turns, size = {}, 0
        for holder in set(holders.values()):
            if turn := self.turn(holder, owner):
                size = _checked(size + turn.size_bytes, "input")
                turns[holder] = turn
        held = {holder: {item["id"]: item for item in turn.items if item.get("id")} for holder, turn in turns.items()}
        return {name: (held[holder].get(name), turns[holder]) for name, holder in holders.items() if holder in turns}

    def delete(self, response_id: str, owner: str = "") -> bool:
        """Forget a turn of `owner`.  False when it was not there.  Raises StoreError."""
        waited = self._waiting.pop((owner, response_id), None)
        self._waiting_bytes -= waited.size_bytes if waited else 0
        with self._storage.transaction() as database:
            _count(database, 0, 0)
            size = _size_of(database, owner, response_id)
            if size is not None:
                _remove(database, owner, [response_id], size)
        return waited is not None or size is not None

    def close(self) -> None:
        self.flush()
        self._storage.close()

    def _write(self, database: peewee.Database, row: _Row) -> tuple[int, int]:
        """Write a turn in place of what there was of it.  Returns how many turns and bytes this adds."""
        before = _size_of(database, row.owner, row.id)
        values = [getattr(row, name) for name in _COLUMNS]
        database.execute_sql(_upsert("llr_responses", _COLUMNS, 1, database.param), values)
        for some in portions(row.item_ids):
            # An item that is said again is held by the newest turn, which lives longest.
            items = [value for name in some for value in (row.owner, name, row.id)]
            sql = _upsert("llr_response_items", ("owner", "id", "response_id"), len(some), database.param)
            database.execute_sql(sql, items)
        return int(before is None), row.size_bytes - (before or 0)

    def _let_wait(self, row: _Row) -> None:
        before = self._waiting.pop((row.owner, row.id), None)
        self._waiting_bytes += row.size_bytes - (before.size_bytes if before else 0)
        self._waiting[row.owner, row.id] = row
        while len(self._waiting) > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
            _, oldest = self._waiting.popitem(last=False)
            self._waiting_bytes -= oldest.size_bytes

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _tell_too_large(self, size_bytes: int) -> None:
        if not self._too_large_told:
            line = "a response of %d bytes is answered, but not kept: responses.maxTurnBytes is %d (told once a worker)"
            log.warning(line, size_bytes, min(self._rules.max_turn_bytes, self._rules.max_bytes))
        self._too_large_told = True

    def _oldest_ms(self) -> int:
        return self._clock_ms() - int(self._rules.ttl_hours * 3_600_000)

    def _is_over(self, rows: int, size_bytes: int) -> bool:
        return rows > self._rules.max_rows or size_bytes > self._rules.max_bytes

    def _drop_oldest(self, database: peewee.Database) -> int:
        """Remove the oldest turns until the rules hold, `_TRIM_ROWS` at most.  Returns how many went."""
        rows, size_bytes = _counted(database)
        columns = (StoredResponse.owner, StoredResponse.id, StoredResponse.ts, StoredResponse.size_bytes)
        oldest = fetch(StoredResponse.select(*columns).order_by(StoredResponse.ts).limit(_TRIM_ROWS), database)
        dropped = []
        for row in oldest:
            if row.ts >= self._oldest_ms() and not self._is_over(rows, size_bytes):
                break
            dropped.append(row)
            rows, size_bytes = rows - 1, size_bytes - row.size_bytes
        for owner, some in groupby(sorted(dropped), key=lambda row: str(row.owner)):
            group = list(some)
            _remove(database, owner, [row.id for row in group], sum(row.size_bytes for row in group))
        if len(dropped) == len(oldest) < _TRIM_ROWS and (rows or size_bytes):
            _count(database, -rows, -size_bytes)  # nothing is left: these were counted and then deleted by hand
        return len(dropped)


def _checked(size_bytes: int, param: str) -> int:
    """The size of a history.  Raises RequestError when it is more than a worker should hold for one request."""
    if size_bytes > _MOST_HISTORY_BYTES:
        raise RequestError(
            f"The stored turns that this request goes on from hold more than {_MOST_HISTORY_BYTES} bytes. Begin a new "
            "conversation, and send what matters of this one as input.",
            param=param,
            code="context_length_exceeded",
        )
    return size_bytes


# What every stored turn takes is in SQL of our own: peewee needs many times as long to write it.

_COLUMNS = (
    "owner", "id", "ts", "previous_id", "backend", "model", "native", "private", "size_bytes", "input", "response",
)  # fmt: skip


@functools.cache
def _upsert(table: str, columns: tuple[str, ...], rows: int, param: str) -> str:
    """Return the SQL that writes rows in place of those with the same owner and id, the first two columns."""
    row = f"({', '.join([param] * len(columns))})"
    update = ", ".join(f"{name} = excluded.{name}" for name in columns[2:])
    values = ", ".join([row] * rows)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES {values} ON CONFLICT (owner, id) DO UPDATE SET {update}"


def _counted(database: peewee.Database) -> tuple[int, int]:
    """Return how many turns there are, and their bytes, without reading them."""
    sql = f"SELECT name, value FROM llr_state WHERE name IN ('{STORED_ROWS}', '{STORED_BYTES}')"
    counts = dict(database.execute_sql(sql))
    return int(counts[STORED_ROWS]), int(counts[STORED_BYTES])


def _count(database: peewee.Database, rows: int, size_bytes: int) -> None:
    """Add to the counts.  From here to the end of the transaction other writers wait, so that the counts stay true."""
    sql = (
        f"UPDATE llr_state SET value = value + CASE name WHEN '{STORED_ROWS}' THEN {rows:d} ELSE {size_bytes:d} END "
        f"WHERE name IN ('{STORED_ROWS}', '{STORED_BYTES}')"
    )
    database.execute_sql(sql)


def _size_of(database: peewee.Database, owner: str, response_id: str) -> int | None:
    """Return the size of a kept turn; None when there is none."""
    sql = "SELECT size_bytes FROM llr_responses WHERE owner = ? AND id = ?".replace("?", database.param)
    found = database.execute_sql(sql, (owner, response_id)).fetchone()
    return int(found[0]) if found else None


def _remove(database: peewee.Database, owner: str, ids: list[str], size_bytes: int) -> None:
    """Delete turns of one owner; `size_bytes` is what they hold."""
    for some in portions(ids):
        items = (StoredItem.owner == owner) & StoredItem.response_id.in_(some)
        StoredItem.delete().where(items).execute(database)
        turns = (StoredResponse.owner == owner) & StoredResponse.id.in_(some)
        StoredResponse.delete().where(turns).execute(database)
    _count(database, -len(ids), -size_bytes)


def _row(turn: Turn) -> _Row:
    return _Row(
        owner=turn.owner,
        id=turn.id,
        ts=turn.ts_ms,
        previous_id=turn.previous_id,
        backend=turn.backend,
        model=plain(turn.model),
        native=turn.native,
        private=turn.private,
        input=json.dumps(turn.input),
        response=json.dumps(turn.response),
        item_ids=tuple(dict.fromkeys(turn.item_ids)),
    )


def _turn(row: Any) -> Turn:
    return Turn(
        owner=row.owner,
        id=row.id,
        ts_ms=row.ts,
        previous_id=row.previous_id,
        backend=row.backend,
        model=row.model,
        native=bool(row.native),
        private=bool(row.private),
        input=tuple(json.loads(row.input)),
        response=json.loads(row.response),
        size_bytes=row.size_bytes,
    )

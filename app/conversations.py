"""What /v1/responses keeps: turns of conversations, for `previous_response_id`, `item_reference` and retrieval.

All workers share them through the database.  A turn that cannot be written waits in this worker's memory: the
request it belongs to never fails for it.  Methods block (background/lane.py).
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import peewee

from app.errors import RequestError
from app.storage import Storage, StoreError, fetch, plain, portions
from app.storage.model import StoredItem, StoredResponse
from app.types import ResponsesRules

log = logging.getLogger("llr.conversations")

_MOST_WAITING = 200  # turns kept in memory while the database cannot be written
_MOST_TURNS = 1000  # of one conversation
_TRIM_EVERY = 50  # turns


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One request and its answer.  A native turn is kept by its backend; we only know whose it is, and the ids of the
    items in its answer, which a client may refer to."""

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

    @property
    def items(self) -> list[dict[str, Any]]:
        """Input and output items, in order: the turn as history."""
        return [*self.input, *(self.response or {}).get("output", ())]

    @property
    def item_ids(self) -> list[str]:
        return [*self.their_items, *(item["id"] for item in self.items if item.get("id"))]


class Conversations:
    def __init__(self, location: str, rules: ResponsesRules, clock_ms: Callable[[], int]) -> None:
        """`location` is LLR_DB, `clock_ms` Unix time.  Nothing is opened yet."""
        self._storage = Storage(location)
        self._rules = rules
        self._clock_ms = clock_ms
        self._waiting: OrderedDict[str, Turn] = OrderedDict()  # not in the database yet
        self._since_trim = 0
        self._failing = False

    def keep(self, turn: Turn) -> None:
        """Keeps a turn; visible to every worker when this returns, unless the database cannot be written.  Then it is
        left to later calls of `flush`: each try may take seconds, and here a request waits."""
        self._waiting[turn.id] = turn
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)
        if not self._failing:
            self.flush()

    def flush(self) -> None:
        """Writes the turns that wait."""
        turns = list(self._waiting.values())
        if not turns:
            return
        try:
            with self._storage.transaction() as database:
                for turn in turns:
                    self._write(database, turn)
        except StoreError as error:
            if not self._failing:
                log.error("responses cannot be stored and wait in memory: %s", error)
            self._failing = True
            return
        except Exception:
            self._waiting.clear()  # not to be tried again: it would fail for ever
            raise
        self._waiting.clear()
        if self._failing:
            log.info("responses can be stored again")
            self._failing = False
        self._since_trim += len(turns)
        if self._since_trim >= _TRIM_EVERY:
            with contextlib.suppress(StoreError):  # what was to be written is; the next trim comes within a minute
                self.trim()

    def trim(self) -> None:
        """Removes turns that are too old or too many.  Raises StoreError."""
        self._since_trim = 0
        with self._storage.transaction() as database:
            newest = StoredResponse.select(StoredResponse.ts).order_by(StoredResponse.ts.desc())
            beyond = newest.offset(self._rules.max_rows).limit(1).scalar(database)
            oldest_kept = max(self._oldest_ms(), (beyond or 0) + 1)
            old = StoredResponse.select(StoredResponse.id).where(StoredResponse.ts < oldest_kept)
            StoredItem.delete().where(StoredItem.response_id.in_(old)).execute(database)
            StoredResponse.delete().where(StoredResponse.ts < oldest_kept).execute(database)

    def turn(self, response_id: str) -> Turn | None:
        """A kept turn.  Raises StoreError."""
        if found := self._waiting.get(response_id):
            return found
        if not response_id.isprintable():
            return None  # and no database would take it
        with self._storage.reading() as database:
            wanted = (StoredResponse.id == response_id) & (StoredResponse.ts >= self._oldest_ms())
            stored = fetch(StoredResponse.select().where(wanted), database)
        return _turn(stored[0]) if stored else None

    def chain(self, response_id: str) -> list[Turn]:
        """The conversation up to and with a response, oldest turn first.  Raises RequestError when part of it is not
        kept (any more), StoreError."""
        turns: list[Turn] = []
        next_id: str | None = response_id
        while next_id is not None and len(turns) < _MOST_TURNS:
            turn = self.turn(next_id)
            if turn is None:
                raise RequestError(
                    f"Previous response with id {response_id[:80]!r} not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            turns.append(turn)
            next_id = None if turn.native else turn.previous_id
        return turns[::-1]

    def items(self, ids: Iterable[str]) -> dict[str, tuple[dict[str, Any] | None, Turn]]:
        """Kept items by id, each with its turn; None for one that a backend keeps; an unknown id is left out.  Raises
        StoreError."""
        wanted = set(filter(str.isprintable, ids))
        holders: dict[str, str] = {}
        with self._storage.reading() as database:
            for some in portions(list(wanted)):
                kept = StoredItem.select(StoredItem.id, StoredItem.response_id).where(StoredItem.id.in_(some))
                holders |= {str(row.id): str(row.response_id) for row in fetch(kept, database)}
        for waiting in self._waiting.values():
            holders |= dict.fromkeys(wanted & set(waiting.item_ids), waiting.id)
        turns = {holder: turn for holder in set(holders.values()) if (turn := self.turn(holder))}
        held = {holder: {item["id"]: item for item in turn.items if item.get("id")} for holder, turn in turns.items()}
        return {name: (held[holder].get(name), turns[holder]) for name, holder in holders.items() if holder in turns}

    def delete(self, response_id: str) -> bool:
        """Forgets a turn.  False when it was not there.  Raises StoreError."""
        waited = self._waiting.pop(response_id, None) is not None
        with self._storage.transaction() as database:
            StoredItem.delete().where(StoredItem.response_id == response_id).execute(database)
            gone = StoredResponse.delete().where(StoredResponse.id == response_id).execute(database)
        return waited or bool(gone)

    def close(self) -> None:
        self.flush()
        self._storage.close()

    def _oldest_ms(self) -> int:
        return self._clock_ms() - int(self._rules.ttl_hours * 3_600_000)

    def _write(self, database: peewee.Database, turn: Turn) -> None:
        columns = {
            "ts": turn.ts_ms,
            "previous_id": turn.previous_id,
            "backend": turn.backend,
            "model": plain(turn.model),
            "native": turn.native,
            "private": turn.private,
            "input": json.dumps(turn.input),
            "response": json.dumps(turn.response),
        }
        insert = StoredResponse.insert(id=turn.id, **columns)
        insert.on_conflict(conflict_target=[StoredResponse.id], update=columns).execute(database)
        for ids in portions([{"id": name, "response_id": turn.id} for name in dict.fromkeys(turn.item_ids)]):
            # An item that is said again is held by the newest turn, which lives longest.
            newest = StoredItem.insert_many(ids).on_conflict(
                conflict_target=[StoredItem.id], preserve=[StoredItem.response_id]
            )
            newest.execute(database)


def _turn(row: Any) -> Turn:
    return Turn(
        id=row.id,
        ts_ms=row.ts,
        previous_id=row.previous_id,
        backend=row.backend,
        model=row.model,
        native=bool(row.native),
        private=bool(row.private),
        input=tuple(json.loads(row.input)),
        response=json.loads(row.response),
    )

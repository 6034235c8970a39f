"""Keep turns of conversations for /v1/responses: for `previous_response_id`, `item_reference` and retrieval.

All workers share them through the database.  A turn belongs to its owner, the client's key that created it; other
keys cannot see it.  When a turn cannot be written, it waits in the memory of this worker, and its request does not
fail.  The methods block (background/thread.py).
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import peewee

from app.errors import RequestError
from app.storage import Storage, StoreError, plain, turns
from app.storage.turns import NewTurn, Size, TurnRow
from app.types import JsonDict, ResponsesRules

log = logging.getLogger("llr.conversations")

_MOST_WAITING = 200  # turns kept in memory while the database cannot be written
_MOST_WAITING_BYTES = 33_554_432
_MOST_TURNS = 1000  # of one conversation
_MOST_HISTORY_BYTES = 33_554_432  # of one request: the default limit of a body (LLR_MAX_BODY_BYTES)
_TRIM_ROWS = 256  # removed in one step


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Hold one request and its response.  When the backend stores the turn itself, hold only its owner and the ids
    of the items in its response, because a client can refer to them."""

    owner: str = ""  # "" = no keys are set
    id: str
    ts_ms: int
    previous_id: str | None
    backend: str
    model: str
    kept_by_backend: bool
    private: bool
    input: tuple[JsonDict, ...] = ()
    response: JsonDict | None = None
    their_items: tuple[str, ...] = ()
    size_bytes: int = field(default=0, compare=False)  # set when the turn is stored

    @property
    def items(self) -> list[JsonDict]:
        """Return the input and output items in order, as they belong into the history."""
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
        self._waiting: OrderedDict[tuple[str, str], NewTurn] = OrderedDict()  # owner, id: not in the database yet
        self._waiting_bytes = 0
        self._failing = False
        self._too_large_logged = False

    def keep(self, turn: Turn) -> bool:
        """Store a turn.  After the return, every worker can read it, unless the database cannot be written.  Then
        later calls of `flush` write it, because a try may take seconds and a request waits here.  Return False when
        the turn is larger than the policy allows."""
        new = _new(turn)
        if new.row.size_bytes > min(self._rules.max_turn_bytes, self._rules.max_bytes):
            self._report_too_large(new.row.size_bytes)
            return False
        self._let_wait(new)
        if not self._failing:
            self.flush()
        return True

    def flush(self) -> None:
        """Write the turns that wait."""
        waiting = list(self._waiting.values())
        if not waiting:
            return
        try:
            with self._storage.transaction() as database:
                added = [turns.write(database, new) for new in waiting]
                turns.count(database, Size(*map(sum, zip(*added, strict=True))))
                while self._is_over(turns.counted(database)) and self._drop_oldest(database):
                    pass
        except StoreError as error:
            if not self._failing:
                log.error("responses cannot be stored and wait in memory: %s", error)
            self._failing = True
            return
        except Exception:
            self._forget_waiting()  # a second try would fail in the same way
            raise
        self._forget_waiting()
        if self._failing:
            log.info("responses can be stored again")
            self._failing = False

    def trim(self) -> bool:
        """Remove some of the turns that are too old or too many.  Return True when there may be more.  Raise
        StoreError."""
        with self._storage.transaction() as database:
            turns.lock(database)
            return self._drop_oldest(database) == _TRIM_ROWS

    def turn(self, response_id: str, owner: str = "") -> Turn | None:
        """Return a stored turn of `owner`. Raise StoreError."""
        if waiting := self._waiting.get((owner, response_id)):
            return _turn(waiting.row)
        if not response_id.isprintable():
            return None  # no database would accept it
        with self._storage.reading() as database:
            row = turns.read(database, owner, response_id, self._oldest_ms())
        return _turn(row) if row else None

    def chain(self, response_id: str, owner: str = "") -> list[Turn]:
        """Return the conversation up to a response, with this response, oldest turn first.  Raise RequestError when
        a part of it is not stored, has expired or belongs to another owner, or when it is too long.  Raise
        StoreError."""
        chain: list[Turn] = []
        size, next_id = 0, response_id or None
        while next_id is not None and len(chain) < _MOST_TURNS:
            turn = self.turn(next_id, owner)
            if turn is None:
                raise RequestError(
                    f"Previous response with id {response_id[:80]!r} not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            size = _checked(size + turn.size_bytes, "previous_response_id")
            chain.append(turn)
            next_id = None if turn.kept_by_backend else turn.previous_id
        return chain[::-1]

    def items(self, ids: Iterable[str], owner: str = "") -> dict[str, tuple[JsonDict | None, Turn]]:
        """Return stored items of `owner` by id, each with its turn.  The item is None when a backend stores it; an
        unknown id is left out.  Raise RequestError when their turns are too large, and StoreError."""
        names = set(filter(str.isprintable, ids))
        with self._storage.reading() as database:
            holders = turns.holders(database, owner, names)
        for new in self._waiting.values():
            if new.row.owner == owner:
                holders |= dict.fromkeys(names.intersection(new.item_ids), new.row.id)
        by_id, size = {}, 0
        for holder in set(holders.values()):
            if turn := self.turn(holder, owner):
                size = _checked(size + turn.size_bytes, "input")
                by_id[holder] = turn
        items = {holder: {item["id"]: item for item in turn.items if item.get("id")} for holder, turn in by_id.items()}
        return {name: (items[holder].get(name), by_id[holder]) for name, holder in holders.items() if holder in by_id}

    def delete(self, response_id: str, owner: str = "") -> bool:
        """Delete a turn of `owner`. Return False when there is none.  Raise StoreError."""
        waiting = self._waiting.pop((owner, response_id), None)
        self._waiting_bytes -= waiting.row.size_bytes if waiting else 0
        with self._storage.transaction() as database:
            turns.lock(database)
            size = turns.size_of(database, owner, response_id)
            if size is not None:
                turns.remove(database, owner, [response_id], size)
        return waiting is not None or size is not None

    def close(self) -> None:
        self.flush()
        self._storage.close()

    def _let_wait(self, new: NewTurn) -> None:
        name = new.row.owner, new.row.id
        before = self._waiting.pop(name, None)
        self._waiting_bytes += new.row.size_bytes - (before.row.size_bytes if before else 0)
        self._waiting[name] = new
        while len(self._waiting) > _MOST_WAITING or self._waiting_bytes > _MOST_WAITING_BYTES:
            _, oldest = self._waiting.popitem(last=False)
            self._waiting_bytes -= oldest.row.size_bytes

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _report_too_large(self, size_bytes: int) -> None:
        if not self._too_large_logged:
            line = "a response of %d bytes is answered, but not kept: responses.maxTurnBytes is %d (told once a worker)"
            log.warning(line, size_bytes, min(self._rules.max_turn_bytes, self._rules.max_bytes))
        self._too_large_logged = True

    def _oldest_ms(self) -> int:
        return self._clock_ms() - int(self._rules.ttl_hours * 3_600_000)

    def _is_over(self, size: Size) -> bool:
        return size.turns > self._rules.max_rows or size.size_bytes > self._rules.max_bytes

    def _drop_oldest(self, database: peewee.Database) -> int:
        """Remove the oldest turns until the limits of the policy hold, `_TRIM_ROWS` at most.  Return the number of
        removed turns."""
        limit = Size(self._rules.max_rows, self._rules.max_bytes)
        return turns.drop_oldest(database, self._oldest_ms(), limit, _TRIM_ROWS)


def _checked(size_bytes: int, param: str) -> int:
    """Return the size of a history.  Raise RequestError when it is too large for one request."""
    if size_bytes > _MOST_HISTORY_BYTES:
        raise RequestError(
            f"The stored turns that this request goes on from hold more than {_MOST_HISTORY_BYTES} bytes. Begin a new "
            "conversation, and send what matters of this one as input.",
            param=param,
            code="context_length_exceeded",
        )
    return size_bytes


def _new(turn: Turn) -> NewTurn:
    """Return a turn in the form in which it is written."""
    input_text, response_text = json.dumps(turn.input), json.dumps(turn.response)
    item_ids = tuple(dict.fromkeys(turn.item_ids))
    row = TurnRow(
        owner=turn.owner,
        id=turn.id,
        ts=turn.ts_ms,
        previous_id=turn.previous_id,
        backend=turn.backend,
        model=plain(turn.model),
        native=turn.kept_by_backend,
        private=turn.private,
        size_bytes=len(input_text) + len(response_text) + turns.ITEM_BYTES * len(item_ids),
        input=input_text,
        response=response_text,
    )
    return NewTurn(row, item_ids)


def _turn(row: TurnRow) -> Turn:
    return Turn(
        owner=row.owner,
        id=row.id,
        ts_ms=row.ts,
        previous_id=row.previous_id,
        backend=row.backend,
        model=row.model,
        kept_by_backend=bool(row.native),
        private=bool(row.private),
        input=tuple(json.loads(row.input)),
        response=json.loads(row.response),
        size_bytes=row.size_bytes,
    )

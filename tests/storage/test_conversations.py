"""Conversations: whose they are, how much of them is kept, and what happens while the database cannot be written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app import conversations
from app.conversations import Conversations, Turn
from app.errors import RequestError
from app.storage import Storage
from app.storage.model import MIGRATIONS
from app.types import ResponsesRules

NOW = 1_700_000_000_000
HOUR_MS = 3_600_000

Make = Callable[..., Conversations]


def turn(name: str, size: int = 0, **fields: Any) -> Turn:
    """A turn whose JSON is `size` bytes longer than that of an empty one."""
    response = {"id": name, "text": "x" * size, "output": []}
    known = {
        "ts_ms": NOW,
        "previous_id": None,
        "backend": "b",
        "model": "m",
        "kept_by_backend": False,
        "private": False,
    }
    return Turn(**{"id": name, "response": response, **known, **fields})


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """`make(max_rows=2)`: conversations under these rules, all in one file."""
    with contextlib.ExitStack() as stack:

        def opened(now: Callable[[], int] = lambda: NOW, **rules: Any) -> Conversations:
            made = Conversations(str(tmp_path / "metrics.db"), ResponsesRules(**rules), now)
            stack.callback(made.close)
            return made

        yield opened


def rows(folder: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(folder / "metrics.db")) as database:
        return database.execute(sql).fetchall()


def state(folder: Path) -> tuple[int, int]:
    """What is counted: turns and bytes."""
    counted = dict(rows(folder, "SELECT name, value FROM llr_state"))
    return counted["stored_rows"], counted["stored_bytes"]


def held(folder: Path) -> tuple[int, int]:
    """What there is."""
    ((number, size),) = rows(folder, "SELECT count(*), coalesce(sum(size_bytes), 0) FROM llr_responses")
    return number, size


# --- a database that cannot be written ------------------------------------------------------------


def test_while_the_database_is_locked_turns_wait_and_no_request_tries_it_again(
    make: Make, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each try takes as long as the database makes it wait, and every request would stand behind those before it."""
    caplog.set_level(logging.INFO, logger="llr")  # commands of other tests have raised it
    one, other = make(), make()
    one.keep(turn("resp_1"))
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db", isolation_level=None)) as locked:
        locked.execute("BEGIN IMMEDIATE")
        one.keep(turn("resp_2"))
    one.keep(turn("resp_3"))
    assert other.turn("resp_2") is None and other.turn("resp_3") is None
    assert one.turn("resp_2") and one.turn("resp_3")
    one.flush()
    one.keep(turn("resp_4"))
    assert all(other.turn(f"resp_{n}") for n in (1, 2, 3, 4))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


@pytest.fixture
def stuck(make: Make, tmp_path: Path) -> Iterator[Conversations]:
    """Conversations that can be read, but not written."""
    made = make(max_turn_bytes=100_000_000)
    made.keep(turn("resp_0"))
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db", isolation_level=None)) as locked:
        locked.execute("BEGIN IMMEDIATE")
        yield made


def test_what_waits_in_memory_is_bounded_in_bytes(stuck: Conversations) -> None:
    for number in range(1, 8):
        assert stuck.keep(turn(f"resp_{number}", 10_000_000))
    assert [bool(stuck.turn(f"resp_{number}")) for number in range(1, 8)] == [False] * 4 + [True] * 3
    stuck.keep(turn("resp_7", 100))  # written anew: its old size counts no more
    stuck.keep(turn("resp_8", 9_000_000))
    assert [bool(stuck.turn(f"resp_{number}")) for number in range(5, 9)] == [True] * 4
    assert stuck._waiting_bytes == sum(new.row.size_bytes for new in stuck._waiting.values())


def test_what_waits_in_memory_is_bounded_in_number(stuck: Conversations) -> None:
    for number in range(1, 300):
        stuck.keep(turn(f"resp_{number}"))
    assert stuck.turn("resp_0") and stuck.turn("resp_299") and stuck.turn("resp_100") and not stuck.turn("resp_99")


def test_what_waits_is_its_owners_too(stuck: Conversations) -> None:
    message = {"type": "message", "id": "msg_1", "role": "user", "content": "of a"}
    stuck.keep(turn("resp_1", owner="a", input=(message,)))
    assert stuck.turn("resp_1", "a") and stuck.items(["msg_1"], "a")["msg_1"][0] == message
    for other in ("", "b"):
        assert stuck.turn("resp_1", other) is None and stuck.items(["msg_1"], other) == {}
        with pytest.raises(RequestError):
            stuck.chain("resp_1", other)


# --- owners ---------------------------------------------------------------------------------------


def test_every_question_is_answered_for_one_owner(make: Make, tmp_path: Path) -> None:
    kept = make()
    for owner in ("", "a", "b"):
        message = {"type": "message", "id": "msg_1", "role": "user", "content": f"of {owner}"}
        kept.keep(turn("resp_1", owner=owner, input=(message,)))
        kept.keep(turn("resp_2", owner=owner, previous_id="resp_1"))
    assert held(tmp_path) == state(tmp_path) == (6, held(tmp_path)[1])
    for owner in ("", "a", "b"):
        first, second = kept.chain("resp_2", owner)
        assert (first.owner, second.owner, first.input[0]["content"]) == (owner, owner, f"of {owner}")
        assert kept.items(["msg_1"], owner)["msg_1"][0] == first.input[0]
    assert not kept.delete("resp_1", "c")
    assert kept.delete("resp_1", "a")
    assert kept.turn("resp_1", "a") is None and kept.items(["msg_1"], "a") == {}
    assert kept.turn("resp_1", "b") and kept.turn("resp_1") and kept.items(["msg_1"], "b")


# --- how much is kept -----------------------------------------------------------------------------

BOUNDS = [  # rules, sizes of the turns that are kept in this order
    ({"max_rows": 3}, [10] * 10),
    ({"max_bytes": 10_000}, [900] * 30),
    ({"max_bytes": 10_000}, [10] * 50 + [9_000]),
    ({"max_bytes": 1_000_000}, [10] * 30),
    ({"max_bytes": 2_000, "max_rows": 5}, [100] * 20),
    ({"max_bytes": 2_000, "max_rows": 50}, [900] * 20),
    ({"max_bytes": 200_000}, [10] * 400 + [199_000]),  # in more than one step
]


@pytest.mark.parametrize(("rules", "sizes"), BOUNDS, ids=lambda value: str(value)[:40])
def test_the_oldest_go_first_and_at_once(make: Make, tmp_path: Path, rules: dict[str, int], sizes: list[int]) -> None:
    kept, expected = make(**rules), []
    for number, size in enumerate(sizes):
        name, message = f"resp_{number}", {"type": "message", "id": f"msg_{number}"}
        kept.keep(turn(name, size, ts_ms=NOW + number, input=(message,)))
        found = kept.turn(name)
        assert found
        expected.append((name, found.size_bytes))
        while len(expected) > rules.get("max_rows", 10**4) or sum(b for _, b in expected) > rules.get(
            "max_bytes", 10**9
        ):
            expected.pop(0)
        assert state(tmp_path) == (len(expected), sum(b for _, b in expected))
    found = [row[0] for row in rows(tmp_path, "SELECT id FROM llr_responses ORDER BY ts")]
    assert found == [name for name, _ in expected]
    items = [row[0] for row in rows(tmp_path, "SELECT id FROM llr_response_items")]
    assert sorted(items) == sorted(name.replace("resp", "msg") for name in found)


def test_what_is_too_old_goes_in_steps(make: Make, tmp_path: Path) -> None:
    now = NOW
    kept = make(lambda: now, ttl_hours=1)
    for number in range(600):
        kept.keep(turn(f"resp_{number}", ts_ms=NOW + number, owner=f"owner {number % 3}"))
    assert not kept.trim()
    now = NOW + HOUR_MS + 550
    steps = 0
    while kept.trim():
        steps += 1
    assert steps == 2
    assert held(tmp_path) == state(tmp_path) and held(tmp_path)[0] == 50


def test_a_limit_that_was_lowered_holds_with_the_next_turn(make: Make, tmp_path: Path) -> None:
    many = make()
    for number in range(700):
        many.keep(turn(f"resp_{number}", 100, ts_ms=NOW + number))
    few = make(max_bytes=5_000)
    few.keep(turn("resp_last", 100, ts_ms=NOW + 1000))
    assert held(tmp_path)[1] <= 5_000 and held(tmp_path) == state(tmp_path)
    assert few.turn("resp_last")


@pytest.mark.parametrize(
    ("rules", "size", "kept"),
    [
        ({"max_turn_bytes": 2_000}, 1_900, True),
        ({"max_turn_bytes": 2_000}, 2_000, False),
        ({"max_turn_bytes": 2_000}, 2_000_000, False),
        ({"max_bytes": 2_000}, 2_000, False),
        ({}, 8_000_000, True),
        ({}, 8_388_608, False),
    ],
)
def test_a_turn_that_is_too_large_is_not_kept_which_is_told_once(
    make: Make, caplog: pytest.LogCaptureFixture, rules: dict[str, int], size: int, kept: bool
) -> None:
    made = make(**rules)
    made.keep(turn("resp_before"))
    assert [made.keep(turn(f"resp_{n}", size, ts_ms=NOW + n)) for n in range(3)] == [kept] * 3
    assert bool(made.turn("resp_2")) is kept
    assert kept or made.turn("resp_before"), "and takes nothing away"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (not kept)
    assert all("responses.maxTurnBytes" in message and "not kept" in message for message in messages)


def test_items_count_too(make: Make) -> None:
    many = tuple(f"msg_{number:040}" for number in range(100))
    assert not make(max_turn_bytes=20_000).keep(turn("resp_1", kept_by_backend=True, their_items=many))


def test_a_history_is_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker would hold all of it in memory, for one request."""
    monkeypatch.setattr(conversations, "_MOST_HISTORY_BYTES", 10_000)
    kept = make()
    for number in range(20):
        before = f"resp_{number - 1}" if number else None
        message = {"type": "message", "id": f"msg_{number}", "role": "user", "content": "x" * 1000}
        kept.keep(turn(f"resp_{number}", input=(message,), previous_id=before))
    assert len(kept.chain("resp_5")) == 6
    assert len(kept.items([f"msg_{number}" for number in range(6)])) == 6
    with pytest.raises(RequestError) as caught:
        kept.chain("resp_19")
    assert (caught.value.status, caught.value.code) == (400, "context_length_exceeded")
    assert caught.value.param == "previous_response_id"
    with pytest.raises(RequestError) as caught:
        kept.items([f"msg_{number}" for number in range(20)])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "input")


@pytest.mark.parametrize("most", [8_000, 10_000])
def test_counts_that_are_wrong_stop_nothing(make: Make, tmp_path: Path, most: int) -> None:
    """Rows that somebody deleted by hand."""
    kept = make(max_bytes=most)
    for number in range(5):
        kept.keep(turn(f"resp_{number}", 1_500, ts_ms=NOW + number))
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db")) as database:
        database.execute("DELETE FROM llr_responses")
        database.commit()
    for number in range(10, 16):
        assert kept.keep(turn(f"resp_{number}", 1_500, ts_ms=NOW + number))
    assert kept.turn("resp_15")
    assert held(tmp_path)[1] <= most


# --- databases of older versions ------------------------------------------------------------------

OLD_TABLES = """
CREATE TABLE llr_responses (id TEXT NOT NULL PRIMARY KEY, ts INTEGER NOT NULL, previous_id TEXT, backend TEXT NOT NULL,
    model TEXT NOT NULL, native INTEGER NOT NULL, private INTEGER NOT NULL, input TEXT NOT NULL,
    response TEXT NOT NULL);
CREATE INDEX llr_responses_ts ON llr_responses (ts);
CREATE TABLE llr_response_items (id TEXT NOT NULL PRIMARY KEY, response_id TEXT NOT NULL);
CREATE INDEX llr_response_items_response_id ON llr_response_items (response_id);
DELETE FROM llr_state WHERE name LIKE 'stored%';
PRAGMA user_version = 2;
"""


def test_an_older_database_keeps_its_turns_for_those_who_come_without_a_key(make: Make, tmp_path: Path) -> None:
    Storage(str(tmp_path / "metrics.db")).transaction().__enter__()
    fresh = rows(tmp_path, "SELECT sql FROM sqlite_master WHERE tbl_name LIKE 'llr_resp%' ORDER BY name")
    with contextlib.closing(sqlite3.connect(tmp_path / "metrics.db")) as database:
        database.executescript("DROP TABLE llr_responses; DROP TABLE llr_response_items;" + OLD_TABLES)
        for number in range(3):
            values = (f"resp_{number}", NOW, None, "b", "m", 0, 0, "[]", f'{{"output": [{{"id": "msg_{number}"}}]}}')
            database.execute(f"INSERT INTO llr_responses VALUES ({', '.join('?' * 9)})", values)
            database.execute("INSERT INTO llr_response_items VALUES (?, ?)", (f"msg_{number}", f"resp_{number}"))
        database.commit()
    kept = make()
    found = kept.turn("resp_1")
    assert found and (found.owner, found.size_bytes) == ("", 31)
    assert kept.items(["msg_2"])["msg_2"][0] == {"id": "msg_2"}
    assert kept.turn("resp_1", "a") is None and kept.items(["msg_2"], "a") == {}
    assert held(tmp_path) == state(tmp_path) == (3, 93)
    assert rows(tmp_path, "SELECT sql FROM sqlite_master WHERE tbl_name LIKE 'llr_resp%' ORDER BY name") == fresh
    assert rows(tmp_path, "PRAGMA user_version") == [(len(MIGRATIONS),)]

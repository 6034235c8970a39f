"""Conversations while the database cannot be written."""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from pathlib import Path

import pytest

from app.conversations import Conversations, Turn
from app.types import ResponsesRules

NOW = 1_700_000_000_000


def turn(name: str) -> Turn:
    return Turn(id=name, ts_ms=NOW, previous_id=None, backend="b", model="m", native=False, private=False, response={})


def test_while_the_database_is_locked_turns_wait_and_no_request_tries_it_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each try takes as long as the database makes it wait, and every request would stand behind those before it."""
    caplog.set_level(logging.INFO)
    file = tmp_path / "metrics.db"
    one, other = (Conversations(str(file), ResponsesRules(), lambda: NOW) for _ in range(2))
    one.keep(turn("resp_1"))
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as locked:
        locked.execute("BEGIN IMMEDIATE")
        one.keep(turn("resp_2"))
    one.keep(turn("resp_3"))
    assert other.turn("resp_2") is None and other.turn("resp_3") is None
    assert one.turn("resp_2") and one.turn("resp_3")
    one.flush()
    one.keep(turn("resp_4"))
    assert all(other.turn(f"resp_{n}") for n in (1, 2, 3, 4))
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
    one.close()
    other.close()

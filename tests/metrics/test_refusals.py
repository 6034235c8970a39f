"""Refused requests in the database: counted by code, over workers and restarts, pruned, upgraded."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.metrics.recorder import Recorder
from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.storage import now_ms
from tests import build

HOUR_MS = 3_600_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    made = Store(str(file))
    yield made
    made.close()


def refuse(store: Store, *codes: str, hours_ago: float = 0) -> None:
    recorder = Recorder(store)
    for code in codes:
        recorder.refuse(code, now_ms() - int(hours_ago * HOUR_MS))
    assert recorder.flush()


def stored(file: Path) -> list[tuple[int, str, int]]:
    database = sqlite3.connect(file)
    try:
        return database.execute("SELECT span, code, sum(requests) FROM llr_refusals GROUP BY 1, 2").fetchall()
    finally:
        database.close()


def test_refusals_are_counted_by_code_the_most_frequent_first(store: Store) -> None:
    assert store.refusals(1) == {}
    refuse(store, "b", "invalid_api_key", "a", "invalid_api_key")
    assert list(store.refusals(1).items()) == [("invalid_api_key", 2), ("a", 1), ("b", 1)]


def test_two_workers_add_to_one_sum(file: Path, store: Store) -> None:
    refuse(store, "bad_request")
    other = Store(str(file))
    refuse(other, "bad_request", "bad_request")
    assert store.refusals(1) == other.refusals(1) == store.refusals() == {"bad_request": 3}
    assert stored(file) == [(0, "bad_request", 3), (BUCKET_S, "bad_request", 3)]
    other.close()


@pytest.mark.parametrize(
    ("hours", "expected"), [(1, {"a": 1}), (24, {"a": 1, "b": 1}), (100, {"a": 1, "b": 1, "c": 1})]
)
def test_a_window_holds_what_was_refused_in_it(store: Store, hours: float, expected: dict[str, int]) -> None:
    for code, hours_ago in (("a", 0.5), ("b", 20), ("c", 90)):
        refuse(store, code, hours_ago=hours_ago)
    assert store.refusals(hours) == expected


def test_pruning_leaves_the_totals(file: Path, store: Store) -> None:
    refuse(store, "a", hours_ago=50)
    refuse(store, "a")
    store.prune(now_ms() - 24 * HOUR_MS)
    assert store.refusals(100) == {"a": 1}
    assert store.refusals() == {"a": 2}
    assert stored(file) == [(0, "a", 2), (BUCKET_S, "a", 1)]


def test_a_database_of_the_version_before_is_upgraded(file: Path, store: Store) -> None:
    store.write([build.record()])
    store.close()
    database = sqlite3.connect(file)
    database.executescript("DROP TABLE llr_refusals; PRAGMA user_version = 1")
    database.close()
    refuse(store, "a")
    assert store.refusals() == {"a": 1}
    assert len(store.latest(10)) == 1


def test_refusals_wait_for_a_database_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "later" / "metrics.db"
    store = Store(str(file))
    recorder = Recorder(store)
    for _ in range(2):
        recorder.refuse("a", now_ms())
        assert recorder.flush() is False
    file.parent.mkdir()
    assert recorder.flush() is True
    assert store.refusals() == {"a": 2}
    assert recorder.flush() is True
    assert store.refusals() == {"a": 2}, "written once"
    store.close()


def test_many_refusals_cost_no_row_each(file: Path, store: Store) -> None:
    refuse(store, *["invalid_api_key"] * 5000)
    assert stored(file) == [(0, "invalid_api_key", 5000), (BUCKET_S, "invalid_api_key", 5000)]

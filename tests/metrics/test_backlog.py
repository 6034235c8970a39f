"""Rows that nobody summed up when they were written: an upgraded database, or one that another program filled.

Reports answer at once, from what is summed up, and say how far that is; the rest is done in small steps.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.metrics import rollup
from app.metrics import window as windows
from app.metrics.aggregates import merged
from app.metrics.store import Store
from app.storage import StoreError
from app.words import utc
from tests import build

ROWS = 1000
HOUR_MS = 3_600_000
OLD = """
CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, backend TEXT NOT NULL,
  latency_ms INTEGER NOT NULL, ok INTEGER NOT NULL, error TEXT, fallback_for TEXT,
  shadow INTEGER NOT NULL DEFAULT 0);
CREATE INDEX idx_metrics_ts ON metrics(ts);
"""


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits, a hundredth of what they are."""
    for name, rows in (("_FRESH_ROWS", 50), ("_STEP_ROWS", 100)):
        monkeypatch.setattr(rollup, name, rows)
    monkeypatch.setattr(windows, "_EXACT_ROWS", 20)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    store = Store(str(file))
    yield store
    store.close()


def add(file: Path, backend: str, times_ms: list[int]) -> None:
    with sqlite3.connect(file) as database:
        rows = [(ts, backend, 100 + n % 7, 1) for n, ts in enumerate(times_ms)]
        database.executemany("INSERT INTO metrics (ts, backend, latency_ms, ok, shadow) VALUES (?, ?, ?, ?, 0)", rows)
    database.close()


def old_database(file: Path, now: int, rows: int = ROWS) -> list[int]:
    """A database of the original program: a call a minute until now.  Returns the times of its calls."""
    with sqlite3.connect(file) as database:
        database.executescript(OLD)
    database.close()
    times = [now - n * 60_000 for n in reversed(range(rows))]
    add(file, "old", times)
    return times


def calls(store: Store, since_ms: int) -> int:
    return merged(store.window(since_ms).aggregates.values()).calls


def total(store: Store) -> int:
    return merged(store.totals().values()).calls


def work_off(store: Store) -> None:
    while store.catch_up():
        pass


def test_a_report_answers_from_what_is_summed_and_says_how_far_that_is(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    times = old_database(file, now)
    shares, unsummed = [], []
    while True:
        window = store.window(0)
        counted = merged(window.aggregates.values()).calls
        assert counted == round(window.summed.share * ROWS), "the share is that of the calls"
        if window.summed.since_ms is not None:
            whole = sum(ts >= window.summed.since_ms for ts in times)
            assert counted == whole, "what is counted are the newest calls"
            assert calls(store, window.summed.since_ms) == whole
        shares.append(window.summed.share)
        unsummed.append(store.unsummed())
        if not store.catch_up():
            break
    assert shares == [0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0]
    assert unsummed == [950, 850, 750, 650, 550, 450, 350, 250, 150, 50, 0]
    assert calls(store, 0) == total(store) == ROWS
    assert store.window(0).summed.document() == {}


def test_a_window_of_the_newest_calls_is_whole_first(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    day, hour = store.window(now - 10 * HOUR_MS), store.window(now - HOUR_MS // 2)
    assert day.summed.share < 0.1 and hour.summed.share == 1
    store.catch_up()
    shares = [store.window(now - hours * HOUR_MS).summed.share for hours in (2, 5, 100)]
    assert shares[0] == 1 > shares[1] > shares[2] > 0
    summed = store.window(0).summed
    assert summed.document() == {"summed": {"share": 0.15, "since": utc(now - 150 * 60_000)}}


def test_few_rows_are_read_one_by_one_whoever_wrote_them(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now, 50)
    assert (calls(store, 0), store.window(0).summed.share, store.unsummed()) == (50, 1, 0)
    store.write([build.record(ts_ms=now)])
    work_off(store)
    assert (calls(store, 0), total(store), store.unsummed()) == (51, 51, 0)


def test_new_rows_count_at_once(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    for number in range(1, 6):
        store.write([build.record(ts_ms=now, backend="new")])
        store.catch_up()
        aggregates = store.window(now - 2 * HOUR_MS).aggregates
        assert sum(calls.calls for key, calls in aggregates.items() if key.backend == "new") == number
    work_off(store)
    assert total(store) == calls(store, 0) == ROWS + 5


def test_old_rows_that_are_not_summed_up_are_not_pruned(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    limit = now - HOUR_MS
    store.write([build.record(ts_ms=now)])
    assert store.prune(limit, most=1000) == 0
    work_off(store)
    assert total(store) == ROWS + 1
    assert store.prune(limit, most=1000) == ROWS - 61
    assert (total(store), calls(store, limit)) == (ROWS + 1, 62)


def test_another_program_that_writes_meanwhile(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    store.catch_up()
    for number in (10, 300):
        add(file, "other", [now] * number)
        assert calls(store, now - HOUR_MS // 60) == number + 2 + (10 if number == 300 else 0)
        store.catch_up()
    work_off(store)
    assert total(store) == calls(store, 0) == ROWS + 310
    add(file, "other", [now] * 300)
    assert store.unsummed() == 250, "a second backlog"
    work_off(store)
    assert total(store) == calls(store, 0) == ROWS + 610


def test_a_reader_of_an_old_database_counts_its_newest_calls(file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    before = file.read_bytes()
    store = Store(str(file), read_only=True)
    assert (calls(store, 0), store.window(0).summed.share, store.unsummed()) == (50, 0.05, 950)
    store.close()
    assert file.read_bytes() == before


def test_a_worker_that_is_killed_amid_it_doubles_nothing(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    for _ in range(8):
        pid = os.fork()
        if not pid:
            try:
                work_off(Store(str(file)))
            finally:
                os._exit(0)
        time.sleep(0.03)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert total(store) <= ROWS
    work_off(store)
    assert total(store) == calls(store, 0) == ROWS


def test_two_workers_share_the_work(store: Store, file: Path) -> None:
    now = int(time.time() * 1000)
    old_database(file, now)
    children = []
    for name in "ab":
        pid = os.fork()
        if not pid:
            status = 1
            try:
                _work_and_write(Store(str(file)), name, now)
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]
    work_off(store)
    by_backend = {key.backend: calls.calls for key, calls in store.totals().items()}
    assert by_backend == {"old": ROWS, "a": 20, "b": 20}
    assert calls(store, 0) == ROWS + 40


def _work_and_write(store: Store, name: str, now: int) -> None:
    written = 0
    while True:
        try:
            if written < 20:
                store.write([build.record(backend=name, ts_ms=now)])
                written += 1
            elif not store.catch_up():
                return
            store.catch_up()
        except StoreError as error:
            assert "locked" in str(error)

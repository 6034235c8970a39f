"""The queue before the database: bounded, in order, and never a request's problem."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from app.metrics.recorder import Recorder
from app.metrics.store import Store
from tests import build
from tests.logs import captured


def rows(file: Path) -> list[str]:
    """The request ids that are on disk, in the order they were written."""
    with sqlite3.connect(file) as database:
        found = [name for (name,) in database.execute("SELECT request_id FROM metrics ORDER BY id")]
    database.close()
    return found


class Bench:
    """A recorder whose database is out of reach until `repair()`."""

    def __init__(self, folder: Path, most: int) -> None:
        self.file = folder / "later" / "metrics.db"
        self.store = Store(str(self.file))
        self.recorder = Recorder(self.store, most)

    def record(self, *numbers: int) -> None:
        for number in numbers:
            self.recorder.note(build.record(request_id=f"r{number}"))

    def repair(self) -> None:
        self.file.parent.mkdir()

    def close(self) -> None:
        self.store.close()


def test_rows_are_written_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 100)
    bench.repair()
    bench.record(1, 2, 3)
    assert bench.recorder.queued == 3
    assert bench.recorder.flush() is True
    assert bench.recorder.queued == 0
    bench.record(4)
    assert bench.recorder.flush() is True
    assert rows(bench.file) == ["r1", "r2", "r3", "r4"]
    assert bench.recorder.flush() is True
    assert rows(bench.file) == ["r1", "r2", "r3", "r4"]
    bench.close()


def test_rows_that_are_being_written_still_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, counts = Bench(tmp_path, 100), []
    bench.repair()
    write = bench.store.write

    def counting(*arguments: object) -> None:
        counts.append(bench.recorder.queued)
        write(*arguments)

    monkeypatch.setattr(bench.store, "write", counting)
    bench.record(1, 2, 3)
    bench.recorder.flush()
    assert (counts, bench.recorder.queued) == ([3], 0)
    bench.close()


def test_more_than_a_batch_goes_out_in_one_flush(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5000)
    bench.repair()
    bench.record(*range(2500))
    assert bench.recorder.flush() is True
    assert rows(bench.file) == [f"r{number}" for number in range(2500)]
    bench.close()


def test_rows_wait_while_the_database_is_out_of_reach_and_keep_their_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 100)
    bench.record(1, 2)
    assert bench.recorder.flush() is False
    assert bench.recorder.queued == 2
    bench.record(3)
    assert bench.recorder.flush() is False
    bench.record(4)
    bench.repair()
    assert bench.recorder.flush() is True
    assert rows(bench.file) == ["r1", "r2", "r3", "r4"]
    assert bench.store.dropped() == 0
    bench.close()


def test_a_batch_that_could_not_be_written_goes_back_to_the_front(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5000)
    bench.record(*range(1500))
    assert bench.recorder.flush() is False
    bench.repair()
    assert bench.recorder.flush() is True
    assert rows(bench.file) == [f"r{number}" for number in range(1500)]
    bench.close()


def test_the_queue_is_bounded_drops_the_oldest_and_counts_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 10)
    bench.record(*range(25))
    assert bench.recorder.queued == 10
    assert bench.recorder.flush() is False
    bench.record(25, 26)
    assert bench.recorder.queued == 10
    bench.repair()
    assert bench.recorder.flush() is True
    assert rows(bench.file) == [f"r{number}" for number in range(17, 27)]
    assert bench.store.dropped() == 17
    bench.close()


def test_drops_are_told_even_when_nothing_waits_and_told_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 0)
    bench.record(1, 2, 3)
    assert bench.recorder.queued == 0
    assert bench.recorder.flush() is False
    bench.repair()
    assert bench.recorder.flush() is True
    assert bench.recorder.flush() is True
    assert bench.store.dropped() == 3
    bench.close()


def test_trouble_is_said_once_and_its_end_too(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 10)
    with captured("llr.metrics") as said:
        for number in range(4):
            bench.record(number)
            bench.recorder.flush()
        bench.repair()
        bench.recorder.flush()
        bench.record(9)
        bench.recorder.flush()
    assert said == [
        f"ERROR metrics cannot be written and wait in memory: {bench.file}: unable to open database file. "
        "`flask doctor` prints the fix",
        "INFO metrics can be written again",
    ]
    bench.close()


@pytest.mark.parametrize(
    "odd",
    [
        {"model": "x\ud800"},
        {"model": "x" * 10_000_000},
        {"model": "a\x00b"},
        {"input_tokens": 10**30},
        {"output_tokens": 2**63},
        {"error": "\udfff"},
    ],
    ids=["surrogate", "long", "zero byte", "huge count", "huge count 2", "error"],
)
def test_one_odd_value_costs_no_other_row(tmp_path: Path, odd: dict[str, object]) -> None:
    bench = Bench(tmp_path, 10)
    bench.repair()
    bench.record(1)
    bench.recorder.note(build.record(request_id="odd", **odd))
    bench.record(2)
    assert bench.recorder.flush() is True
    assert rows(bench.file) == ["r1", "odd", "r2"]
    assert bench.file.stat().st_size < 1_000_000
    bench.close()


def test_rows_that_can_never_be_written_count_as_dropped(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 10)
    bench.repair()
    bench.recorder.note(build.record(ts_ms=10**30))
    with pytest.raises(OverflowError):
        bench.recorder.flush()
    bench.record(1)
    assert bench.recorder.flush() is True
    assert rows(bench.file) == ["r1"]
    assert bench.store.dropped() == 1
    bench.close()

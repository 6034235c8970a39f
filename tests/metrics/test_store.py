"""The metrics database: fresh, of the original program, out of reach, shared, pruned, and summed up."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.metrics import queries, rollup
from app.metrics import window as windows
from app.metrics.aggregates import Aggregate, Dump, Key, merged
from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.storage import StoreError
from app.storage.model import Metric
from app.types import CallRecord
from tests import build

NOW = 1_700_000_000_000 // (BUCKET_S * 1000) * BUCKET_S * 1000  # the beginning of ten minutes

ORIGINAL = """
CREATE TABLE metrics (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  ts INTEGER NOT NULL,
  backend TEXT NOT NULL,
  latency_ms INTEGER NOT NULL,
  ok INTEGER NOT NULL,
  error TEXT,
  fallback_for TEXT{shadow}
);
CREATE INDEX idx_metrics_ts ON metrics(ts);
"""
SHADOW = ",\n  shadow INTEGER NOT NULL DEFAULT 0"
COLUMNS = [field.column_name for field in Metric._meta.sorted_fields]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.db"


@pytest.fixture
def store(file: Path) -> Iterator[Store]:
    made = Store(str(file))
    yield made
    made.close()


def query(file: Path, text: str, *values: object) -> list[tuple[Any, ...]]:
    database = sqlite3.connect(file)
    try:
        found = database.execute(text, values).fetchall()
        database.commit()
        return found
    finally:
        database.close()


def make_original(file: Path, rows: list[tuple[Any, ...]], *, shadow: bool = True) -> None:
    database = sqlite3.connect(file)
    database.executescript(ORIGINAL.format(shadow=SHADOW if shadow else ""))
    names = "ts, backend, latency_ms, ok, error, fallback_for" + (", shadow" if shadow else "")
    database.executemany(f"INSERT INTO metrics ({names}) VALUES ({','.join('?' * (7 if shadow else 6))})", rows)
    database.commit()
    database.close()


def count(aggregates: dict[Key, Aggregate]) -> int:
    return merged(aggregates.values()).calls


def by_backend(aggregates: dict[Key, Aggregate], kind: str = "live") -> dict[str, int]:
    return {backend: aggregate.calls for (backend, _, _, key, *_), aggregate in aggregates.items() if key == kind}


# --- a fresh database ---------------------------------------------------------------------------


def test_nothing_is_opened_before_it_is_used(file: Path) -> None:
    Store(str(file)).close()
    assert not file.exists()


def test_a_row_holds_the_whole_record(store: Store, file: Path) -> None:
    call = build.record(
        request_id="llr-1", ts_ms=NOW, kind="live", backend="cloud", model="gpt", route="task=code", stream=True,
        surface="responses", task="code", complexity="high", latency_ms=1234, ttfb_ms=56, outcome="ok", error=None,
        fallback_for="local", input_tokens=7, output_tokens=9, cost_usd=0.125, reason="fallback",
        destination="api.example:443", sent_bytes=321,
    )  # fmt: skip
    store.write([call])
    assert [name for _, name, *_ in query(file, "PRAGMA table_info(metrics)")] == COLUMNS
    names = COLUMNS[: COLUMNS.index("sensitivity")]
    assert query(file, f"SELECT {', '.join(names)} FROM metrics") == [
        (
            1, NOW, "cloud", 1234, 1, None, "local", 0, "gpt", "task=code", "responses", 1, "code", "high", 56, 7, 9,
            0.125, "ok", "llr-1", "live", "fallback", "api.example:443", 321,
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields, ok, shadow",
    [
        ({}, 1, 0),
        ({"outcome": "error", "error": "timeout"}, 0, 0),
        ({"outcome": "cancelled"}, 0, 0),
        ({"kind": "shadow"}, 1, 1),
        ({"kind": "probe"}, 1, 1),
    ],
)
def test_the_originals_own_queries_stay_right(
    store: Store, file: Path, fields: dict[str, Any], ok: int, shadow: int
) -> None:
    store.write([build.record(**fields)])
    assert query(file, "SELECT ok, shadow FROM metrics") == [(ok, shadow)]


def test_aggregates_by_backend_model_route_and_kind(store: Store) -> None:
    store.write(
        [
            build.record(ts_ms=NOW, latency_ms=100),
            build.record(ts_ms=NOW + 1, latency_ms=300, outcome="error", error="timeout"),
            build.record(ts_ms=NOW + 2, model="n"),
            build.record(ts_ms=NOW + 3, route="task=code"),
            build.record(ts_ms=NOW + 4, kind="shadow"),
            build.record(ts_ms=NOW + 5, model="made-up", outcome="error", error="http_404"),
        ]
    )
    found = store.window(NOW).aggregates
    assert {key[:4]: aggregate.calls for key, aggregate in found.items()} == {
        ("local", "m", "default", "live"): 2,
        ("local", "n", "default", "live"): 1,
        ("local", "m", "task=code", "live"): 1,
        ("local", "m", "default", "shadow"): 1,
        ("local", "", "default", "live"): 1,
    }
    both = found[Key("local", "m", "default", "live")]
    assert (both.successes, both.latency.average, both.latency.exact) == (1, 200, [100, 300])
    assert count(store.window(NOW + 3).aggregates) == 3
    assert store.window(NOW + 6).aggregates == {}
    assert {key: aggregate.calls for key, aggregate in store.totals().items()} == {
        key: aggregate.calls for key, aggregate in found.items()
    }


def test_names_that_clients_think_of_do_not_add_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums of all time stay for ever."""
    monkeypatch.setattr(rollup, "_MOST_MODELS", 3)
    for n in range(3):
        store.write([build.record(ts_ms=NOW, model=f"made-up-{n}{m}") for m in range(5)])
    store.write([build.record(ts_ms=NOW, model="made-up-00")])
    assert {key[1]: aggregate.calls for key, aggregate in store.totals().items()} == {
        "made-up-00": 2,
        "made-up-01": 1,
        "made-up-02": 1,
        "": 12,
    }
    store.write([build.record(ts_ms=NOW, backend="other", model="real")])
    assert store.totals()[Key("other", "real", "default", "live")].calls == 1, "they take no room of another backend's"


def test_a_write_reads_the_sums_of_its_own_models_only(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients may have thought of a thousand names."""
    store.write([build.record(ts_ms=NOW, model=f"made-up-{n}") for n in range(100)])
    read: list[str] = []
    parse = Dump.parse
    monkeypatch.setattr(Dump, "parse", lambda text: read.append(text) or parse(text))
    store.write([build.record(ts_ms=NOW, model="made-up-7")])
    assert len(read) == 2 * 4, "two distributions of ten minutes, an hour, a day and of all time"
    assert {aggregate.calls for aggregate in store.totals().values()} == {1, 2}


def test_an_empty_database_has_no_numbers(store: Store) -> None:
    assert (store.window(0).aggregates, store.totals(), store.dropped(), store.workers(0, NOW)) == ({}, {}, 0, {})
    assert store.calls_after(0, 0) == (0, [])
    assert store.prune(NOW) == 0


def test_drops_add_up(store: Store) -> None:
    store.write([], 3)
    store.write([build.record()], 4)
    assert store.dropped() == 7


@pytest.mark.parametrize("exact", [True, False])
def test_calls_of_a_time_when_the_clock_was_ahead_are_in_no_window(
    store: Store, monkeypatch: pytest.MonkeyPatch, exact: bool
) -> None:
    now, day = int(time.time() * 1000), 86_400_000
    store.write([build.record(ts_ms=at) for at in (now, now + 2 * day, now + 30 * day)])
    if not exact:
        monkeypatch.setattr(windows, "_EXACT_ROWS", 0)
    for hours in (1, 24, 200):
        assert count(store.window(now - hours * 3_600_000).aggregates) == 1
    assert count(store.totals()) == 3


def test_workers_report_about_themselves(store: Store) -> None:
    store.report_worker("a:1", NOW, {"queued": 1})
    store.report_worker("b:2", NOW + 50, {"queued": 2})
    store.report_worker("a:1", NOW + 100, {"queued": 3})
    assert store.workers(NOW + 100, 50) == {"a:1": {"queued": 3}, "b:2": {"queued": 2}}
    assert store.workers(NOW + 110, 50) == {"a:1": {"queued": 3}}
    store.forget_worker("a:1")
    assert store.workers(NOW + 100, 50) == {"b:2": {"queued": 2}}
    store.report_worker("c:3", NOW + 50 + 86_400_001, {})
    assert store.workers(0, 2 * NOW) == {"c:3": {}}, "reports older than a day are removed"


def test_a_worker_that_died_while_the_clock_was_ahead_is_gone_when_it_is_right(store: Store) -> None:
    store.report_worker("dead:1", NOW + 365 * 86_400_000, {})
    store.report_worker("here:2", NOW, {})
    assert store.workers(NOW, 10_000) == {"here:2": {}}
    assert store.workers(0, 2 * NOW) == {"here:2": {}}, "and is removed"


def test_the_latest_successful_calls(store: Store) -> None:
    store.write(
        [
            build.record(request_id="1", ts_ms=NOW - 10),
            build.record(request_id="2", ts_ms=NOW, outcome="error", error="timeout"),
            build.record(request_id="3", ts_ms=NOW, kind="shadow"),
            build.record(request_id="4", ts_ms=NOW, kind="probe", latency_ms=5),
            build.record(request_id="5", ts_ms=NOW, stream=True, ttfb_ms=20, latency_ms=90),
            build.record(request_id="6", ts_ms=NOW, outcome="cancelled"),
        ]
    )
    last, rows = store.calls_after(0, NOW)
    assert last == 6
    assert [(row.request_id, row.latency_ms, row.ttfb_ms, row.stream) for row in rows] == [
        ("4", 5, None, False),
        ("5", 90, 20, True),
    ]
    assert [row.request_id for row in store.calls_after(0, 0)[1]] == ["1", "4", "5"]
    assert [row.request_id for row in store.calls_after(4, 0)[1]] == ["5"]
    assert [row.request_id for row in store.calls_after(0, 0, most=3)[1]] == ["4", "5"]
    assert store.calls_after(6, 0) == (6, [])


# --- databases of the original ------------------------------------------------------------------


@pytest.mark.parametrize("shadow", [True, False], ids=["with shadow", "without shadow"])
def test_a_database_of_the_original_is_upgraded_in_place_and_keeps_its_rows(
    store: Store, file: Path, shadow: bool
) -> None:
    old = [
        (NOW - 3000, "local", 1800, 1, None, None, 0),
        (NOW - 2000, "sarmalink", 600, 1, None, "local", 0),
        (NOW - 1000, "local", 90, 0, "HTTP 500", None, 0),
        (NOW - 500, "sarmalink", 700, 1, None, None, 1),
    ]
    make_original(file, old if shadow else [row[:6] for row in old], shadow=shadow)
    mirrored = 1 if shadow else 0
    found = store.window(NOW - 10_000).aggregates
    assert by_backend(found) == {"local": 2, "sarmalink": 2 - mirrored}
    assert by_backend(found, "shadow") == ({"sarmalink": 1} if shadow else {})
    assert merged(found.values()).successes == 3
    assert merged(found.values()).fallbacks == 1
    store.write([build.record(ts_ms=NOW, backend="new")])
    assert query(file, "SELECT id, ts, backend, latency_ms, ok, error, fallback_for, shadow FROM metrics") == [
        *[(number, *row[:6], row[6] if shadow else 0) for number, row in enumerate(old, 1)],
        (5, NOW, "new", 100, 1, None, None, 0),
    ]
    assert [name for _, name, *_ in query(file, "PRAGMA table_info(metrics)")] == COLUMNS
    assert count(store.window(0).aggregates) == count(store.totals()) == 5
    again = Store(str(file))
    assert count(again.window(0).aggregates) == 5
    again.close()


def test_the_original_can_still_write_to_an_upgraded_database(store: Store, file: Path) -> None:
    make_original(file, [])
    store.write([build.record(ts_ms=NOW)])
    query(file, "INSERT INTO metrics (ts, backend, latency_ms, ok, shadow) VALUES (?, 'old', 12, 1, 0)", NOW)
    store.write([build.record(ts_ms=NOW)])
    assert by_backend(store.window(0).aggregates) == by_backend(store.totals()) == {"local": 2, "old": 1}


# --- windows: from the rows, or from the sums ---------------------------------------------------


def many_calls(seed: int, number: int, hours: float) -> list[CallRecord]:
    dice = random.Random(seed)
    calls = []
    for index in range(number):
        outcome = dice.choice(["ok", "ok", "ok", "error", "cancelled"])
        calls.append(
            build.record(
                request_id=f"r{index}",
                ts_ms=NOW - int(dice.random() * hours * 3_600_000),
                backend=dice.choice(["a", "b"]),
                model=dice.choice(["m", "n"]),
                route=dice.choice(["default", "task=code"]),
                kind=dice.choice(["live", "live", "shadow", "probe"]),
                latency_ms=dice.randrange(1, 100_000),
                ttfb_ms=dice.choice([None, dice.randrange(1, 5000)]),
                outcome=outcome,
                fallback_for=dice.choice([None, None, "z"]),
                input_tokens=dice.choice([None, dice.randrange(5000)]),
                cost_usd=dice.choice([None, dice.randrange(100) / 4]),
            )
        )
    return calls


def facts(aggregates: dict[Key, Aggregate]) -> dict[Key, Any]:
    """All of an aggregate that does not depend on whether it is exact."""
    return {
        key: (
            calls.calls, calls.successes, calls.cancelled, calls.fallbacks, calls.input_tokens, calls.output_tokens,
            calls.priced, calls.cost_usd, calls.latency.count, calls.latency.total, tuple(calls.latency.bins),
            calls.ttfb.count, calls.ttfb.total, tuple(calls.ttfb.bins),
        )
        for key, calls in aggregates.items()
    }  # fmt: skip


def test_sums_and_rows_tell_the_same_of_every_window(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = many_calls(1, 800, 5)
    for begin in range(0, len(calls), 100):
        store.write(calls[begin : begin + 100])
    bucket_ms = BUCKET_S * 1000
    for since in (
        0,
        NOW - 5 * 3_600_000,
        NOW - 3_600_000 + 1234,
        NOW - bucket_ms,
        NOW - bucket_ms + 1,
        NOW - 1,
        NOW + 1,
    ):
        monkeypatch.setattr(windows, "_EXACT_ROWS", 10**9)
        exact = store.window(since).aggregates
        monkeypatch.setattr(windows, "_EXACT_ROWS", -1)
        summed = store.window(since).aggregates
        assert facts(summed) == facts(exact), since
        assert count(exact) == sum(call.times.ts_ms >= since for call in calls)


def test_a_window_of_many_rows_is_read_from_the_sums(store: Store, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from outside: the rows are gone, the sums still tell of them."""
    store.write([build.record(ts_ms=NOW - 7_200_000) for _ in range(50)])
    store.write([build.record(ts_ms=NOW)])
    query(file, "DELETE FROM metrics WHERE ts < ?", NOW - 3_600_000)
    monkeypatch.setattr(windows, "_EXACT_ROWS", 0)
    assert count(store.window(NOW - 86_400_000).aggregates) == 51
    monkeypatch.setattr(windows, "_EXACT_ROWS", 10)
    assert count(store.window(NOW - 86_400_000).aggregates) == 1


# --- pruning ------------------------------------------------------------------------------------


def test_old_rows_go_in_small_steps_and_totals_never_fall(store: Store, file: Path) -> None:
    calls = many_calls(2, 300, 48)
    store.write(calls)
    store.write([build.record(ts_ms=NOW)])
    before, limit = facts(store.totals()), NOW - 24 * 3_600_000
    old = sum(call.times.ts_ms < limit for call in calls)
    assert 100 < old < 200
    steps = []
    while gone := store.prune(limit, most=40):
        steps.append(gone)
        assert facts(store.totals()) == before
    assert steps == [40] * (old // 40) + [old % 40]
    assert query(file, "SELECT count(*), min(ts) >= ? FROM metrics", limit) == [(301 - old, 1)]
    assert query(
        file, "SELECT count(*) FROM llr_sums WHERE span > 0 AND bucket + span <= ?", limit // 1000 - BUCKET_S
    ) == [(0,)]
    assert count(store.window(limit).aggregates) == 301 - old


def test_the_newest_row_stays_and_ids_go_on_rising(store: Store, file: Path) -> None:
    store.write([build.record(ts_ms=NOW - 100), build.record(ts_ms=NOW - 50)])
    assert store.prune(NOW) == 1
    assert store.prune(NOW) == 0
    assert query(file, "SELECT id FROM metrics") == [(2,)]
    store.write([build.record(ts_ms=NOW)])
    assert query(file, "SELECT id FROM metrics") == [(2,), (3,)]
    assert count(store.totals()) == 3


def test_rows_that_are_in_no_sum_yet_are_not_pruned(store: Store, file: Path) -> None:
    make_original(file, [(1000, "local", 10, 1, None, None, 0)] * 5)
    assert store.prune(NOW) == 0
    store.write([build.record(ts_ms=NOW)])
    assert store.prune(NOW) == 5
    assert count(store.totals()) == 6


# --- trouble ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"this is no database, it is a letter\n" * 40, b"\x00" * 5000, b"SQLite format 3\x00 but cut"]
)
def test_a_file_that_is_no_database_is_left_as_it_is(store: Store, file: Path, content: bytes) -> None:
    file.write_bytes(content)
    actions: list[Callable[[], object]] = [
        lambda: store.write([build.record()]),
        lambda: store.window(0).aggregates,
        lambda: store.prune(NOW),
        lambda: store.totals(),
    ]
    for action in actions:
        with pytest.raises(StoreError) as caught:
            action()
        assert str(caught.value) == f"{file}: file is not a database"
    assert file.read_bytes() == content
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_folder_that_is_made_later(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "data" / "metrics.db"))
    with pytest.raises(StoreError, match="unable to open database file"):
        store.write([build.record()])
    (tmp_path / "data").mkdir()
    store.write([build.record()])
    assert count(store.totals()) == 1
    store.close()


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    with pytest.raises(StoreError, match="unable to open database file"):
        store.write([build.record()])


def test_a_locked_database_is_not_waited_for_long_and_nothing_is_half_written(store: Store, file: Path) -> None:
    store.write([build.record()])
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = time.monotonic()
    with pytest.raises(StoreError, match="database is locked"):
        store.write([build.record(), build.record()], 5)
    assert time.monotonic() - began < 2
    assert count(store.window(0).aggregates) == 1, "reading goes on beside a writer"
    other.execute("ROLLBACK")
    other.close()
    store.write([build.record()])
    assert (count(store.window(0).aggregates), count(store.totals()), store.dropped()) == (2, 2, 0)


def test_a_batch_is_written_as_a_whole_or_not_at_all(store: Store, file: Path) -> None:
    store.write([build.record()])
    query(
        file,
        "CREATE TRIGGER full BEFORE INSERT ON metrics WHEN NEW.backend = 'b' BEGIN SELECT RAISE(FAIL, 'full'); END",
    )
    with pytest.raises(StoreError, match="full"):
        store.write([build.record(), build.record(backend="b")], 2)
    assert (count(store.window(0).aggregates), count(store.totals()), store.dropped()) == (1, 1, 0)


def test_a_file_that_was_deleted_or_replaced_is_made_anew(store: Store, file: Path) -> None:
    store.write([build.record()])
    for entry in list(file.parent.iterdir()):
        entry.unlink()
    store.write([build.record(), build.record()])
    assert query(file, "SELECT count(*) FROM metrics") == [(2,)]


@pytest.mark.parametrize("gone", ["replaced", "deleted", "moved"])
def test_the_log_of_a_former_database_does_not_ruin_the_next(store: Store, file: Path, gone: str) -> None:
    """Only the database itself was exchanged, as people do; what SQLite keeps beside it stayed.  Two workers."""
    store.write([build.record()] * 10)
    backup = file.with_name("backup.db")
    with contextlib.closing(sqlite3.connect(file)) as old, contextlib.closing(sqlite3.connect(backup)) as new:
        old.backup(new)
    other = Store(str(file))
    for worker in (store, other):
        worker.write([build.record()] * 500)
    {"replaced": lambda: backup.replace(file), "deleted": file.unlink, "moved": lambda: file.replace(backup)}[gone]()
    for worker in (store, other, store):
        worker.write([build.record()] * 5)
    other.close()
    assert query(file, "PRAGMA integrity_check") == [("ok",)]
    assert query(file, "SELECT count(*) FROM metrics") == [(25 if gone == "replaced" else 15,)]


def test_a_database_that_nobody_has_a_driver_for() -> None:
    store = Store("nosuch://user@host/db")
    with pytest.raises(StoreError, match="LLR_DB"):
        store.write([build.record()])


def test_the_password_of_a_database_url_is_not_told() -> None:
    """With a driver there is nobody at this port, without one there is no driver: an error either way."""
    store = Store("postgresql://me:hunter2@127.0.0.1:9/db")
    with pytest.raises(StoreError) as caught:
        store.write([build.record()])
    assert "hunter2" not in str(caught.value)


# --- several processes --------------------------------------------------------------------------


def in_processes(*works: Callable[[], None]) -> None:
    """Runs each in a process of its own, at once."""
    children = []
    for work in works:
        pid = os.fork()
        if not pid:
            status = 1
            try:
                work()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0] * len(works)


def insist(action: Callable[[], object]) -> None:
    """As the recorder does: what was locked is tried again."""
    while True:
        try:
            action()
            return
        except StoreError as error:
            assert "locked" in str(error)


def writer(file: Path, backend: str, batches: int) -> Callable[[], None]:
    def work() -> None:
        store = Store(str(file))
        for batch in range(batches):
            calls = [build.record(backend=backend, ts_ms=NOW, request_id=f"{backend}{batch}-{n}") for n in range(10)]
            insist(lambda calls=calls: store.write(calls, 1))
        store.close()

    return work


def test_two_processes_lose_nothing_and_double_nothing(store: Store, file: Path) -> None:
    in_processes(writer(file, "a", 25), writer(file, "b", 25))
    assert query(file, "SELECT count(*), count(DISTINCT request_id) FROM metrics") == [(500, 500)]
    assert by_backend(store.totals()) == by_backend(store.window(0).aggregates) == {"a": 250, "b": 250}
    assert store.dropped() == 50


def test_two_processes_upgrade_one_database_once(store: Store, file: Path) -> None:
    make_original(file, [(NOW, "old", 10, 1, None, None, 0)] * 20, shadow=True)
    in_processes(writer(file, "a", 3), writer(file, "b", 3), writer(file, "c", 3))
    assert (
        by_backend(store.totals()) == by_backend(store.window(0).aggregates) == {"old": 20, "a": 30, "b": 30, "c": 30}
    )
    assert [name for _, name, *_ in query(file, "PRAGMA table_info(metrics)")] == COLUMNS


def test_pruning_beside_a_writer(store: Store, file: Path) -> None:
    store.write([build.record(ts_ms=NOW - 10**9, backend="old") for _ in range(300)])

    def pruner() -> None:
        mine = Store(str(file))
        for _ in range(20):
            insist(lambda: mine.prune(NOW - 10**8, most=20))
        mine.close()

    in_processes(pruner, writer(file, "a", 20))
    store.prune(NOW - 10**8)  # the newest row always stays: of the old ones too, when the pruner was done first
    assert by_backend(store.window(0).aggregates) == {"a": 200}
    assert by_backend(store.totals()) == {"old": 300, "a": 200}


# --- mirrored calls and their live ones ---------------------------------------------------------


def mirrored(number: int, ts_ms: int, live_ts_ms: int | None, **fields: Any) -> CallRecord:
    known = {"request_id": f"r{number}", "kind": "shadow", "backend": "cloud", "latency_ms": 50}
    return build.record(ts_ms=ts_ms, live_ts_ms=live_ts_ms, **{**known, **fields})


def test_a_mirrored_call_stands_beside_the_live_call_of_its_request(store: Store):
    now = int(time.time() * 1000)
    store.write(
        [
            build.record(request_id="r1", ts_ms=now - 900, backend="spare", outcome="error", error="timeout"),
            build.record(request_id="r1", ts_ms=now - 500, finish="stop", answer_chars=7, output_tokens=3),
            build.record(request_id="r1", ts_ms=now - 500, kind="probe"),
            build.record(request_id="r2", ts_ms=now - 500),
            build.record(request_id="r3", ts_ms=now - 500),
            mirrored(1, now, now - 500, finish="length", answer_chars=2, doubt=0.25, agreement=0.5, live_doubt=0.75),
            mirrored(2, now, now - 500, outcome="cancelled"),
            mirrored(3, now, now - 501),  # another request of that name
            mirrored(4, now, now - 500),
        ]
    )
    (pair,) = store.pairs(now - 10_000)
    assert pair.live == ("local", "m", 100, "ok", 3, "stop", 7, None, None, None, None)
    assert pair.shadow == ("cloud", "m", 50, "ok", None, "length", 2, None, 0.25, 0.5, 0.75)
    assert store.pairs(now + 1) == []


@pytest.mark.parametrize(
    "live_ago_ms, found", [(0, True), (150, True), (5_100, True), (60_000, False), (-6_000, False)]
)
def test_rows_that_do_not_say_what_they_mirror_are_of_older_versions(store: Store, live_ago_ms: int, found: bool):
    """Their live call ended just before they began."""
    now = int(time.time() * 1000)
    store.write([build.record(request_id="r1", ts_ms=now - live_ago_ms), mirrored(1, now, None, latency_ms=200)])
    assert len(store.pairs(now - 100_000)) == found


def test_a_report_reads_the_newest_mirrored_calls(store: Store, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(queries, "_MOST_SHADOWS", 3)
    now = int(time.time() * 1000)
    for number in range(5):
        at = now - 1000 + number
        store.write([build.record(request_id=f"r{number}", ts_ms=at), mirrored(number, at, at, latency_ms=number)])
    assert sorted(pair.shadow.latency_ms for pair in store.pairs(now - 10_000)) == [2, 3, 4]


def test_a_database_of_the_version_before_gets_the_columns_of_answers(file: Path):
    store = Store(str(file))
    store.write([build.record()])
    store.close()
    for column in ("finish", "answer_chars", "live_ts"):
        query(file, f"ALTER TABLE metrics DROP COLUMN {column}")
    query(file, "DROP INDEX llr_metrics_shadow")
    query(file, "PRAGMA user_version = 2")
    store.write([build.record(finish="stop", answer_chars=3)])
    store.close()
    assert query(file, "SELECT finish, answer_chars, live_ts FROM metrics") == [(None, None, None), ("stop", 3, None)]
    assert query(file, "SELECT count(*) FROM sqlite_master WHERE name = 'llr_metrics_shadow'") == [(1,)]


def test_of_two_live_calls_under_one_id_the_later_counts(store: Store):
    now = int(time.time() * 1000)
    store.write([build.record(request_id="r1", ts_ms=now, latency_ms=ms) for ms in (1, 2)] + [mirrored(1, now, now)])
    assert [pair.live.latency_ms for pair in store.pairs(now - 1000)] == [2]

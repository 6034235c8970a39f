"""Whatever is wrong with the database: requests are served, and their rows come when it can be written again."""

from __future__ import annotations

import contextlib
import resource
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Router, wait_until
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.faults

REQUESTS = 20
Mend = Callable[[], object]


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream(models=["m"]) as running:
        yield running


def policy(up: Upstream) -> dict[str, Any]:
    return {
        "backends": {"local": {"type": "ollama", "endpoint": up.url, "models": ["m"]}},
        "routes": [{"default": "local"}],
    }


def side_files(database: Path) -> list[Path]:
    return [database.with_name(database.name + end) for end in ("-wal", "-shm", "-journal")]


def intact(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


# --- ways to break it; each returns how it is mended ---------------------------------------------


def a_folder(router: Router) -> Mend:
    router.database.mkdir()
    return router.database.rmdir


def no_database(router: Router) -> Mend:
    """Somebody else's file.  It is left as it is."""
    content = b"these are my notes, not a database\n" * 300
    router.database.write_bytes(content)

    def take_away() -> None:
        assert router.database.read_bytes() == content
        router.database.unlink()

    return take_away


def a_folder_in_the_place_of_the_log(router: Router) -> Mend:
    wal = side_files(router.database)[0]
    wal.mkdir()
    return wal.rmdir


def read_only(router: Router) -> Mend:
    """By the file's own mark (a write version nobody knows yet): file modes mean nothing to root."""
    with contextlib.closing(sqlite3.connect(router.database)) as connection:
        connection.execute("PRAGMA user_version")
        connection.execute("CREATE TABLE other (x)")
    mark(router.database, 3)
    connection = sqlite3.connect(router.database)
    with contextlib.closing(connection), pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("CREATE TABLE x (y)")
    return lambda: mark(router.database, 1)


def mark(database: Path, write_version: int) -> None:
    with database.open("r+b") as file:
        file.seek(18)
        file.write(bytes([write_version]))


BEFORE_THE_START = (a_folder, no_database, a_folder_in_the_place_of_the_log, read_only)


def locked(router: Router) -> Mend:
    """By another process' endless transaction."""
    connection = sqlite3.connect(router.database, timeout=5, isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    return connection.close


def full(router: Router) -> Mend:
    """No file may grow any more."""
    largest = max(path.stat().st_size for path in [router.database, *side_files(router.database)] if path.exists())
    for pid in router.worker_pids():
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, hard))

    def room() -> None:
        for pid in router.worker_pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    return room


def overwritten(router: Router) -> Mend:
    """Nonsense over a file that is open."""
    for path in side_files(router.database):
        path.unlink(missing_ok=True)
    router.database.write_bytes(b"nonsense" * 5000)
    return router.database.unlink


def replaced_by_a_folder(router: Router) -> Mend:
    for path in side_files(router.database):
        path.unlink(missing_ok=True)
    router.database.unlink()
    router.database.mkdir()
    return router.database.rmdir


WHILE_RUNNING = (locked, full, overwritten, replaced_by_a_folder)


# --- what must hold -----------------------------------------------------------------------------


def serves_without(router: Router, up: Upstream) -> None:
    """All that matters goes on while nothing can be written."""
    for number in range(REQUESTS):
        assert router.chat(f"number {number}", timeout=10).text == f"number {number}"
    with router.stream("a b", timeout=10) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")
    answer = router.post("/v1/responses", {"input": "hello", "model": "auto"}, timeout=10)
    assert answer.status == 200, answer.body
    assert router.get("/v1/models").status == 200
    for path in ("/v1/metrics", "/metrics", "/v1/ab"):
        answer = router.get(path)
        assert answer.status in (200, 503)
        assert answer.status == 200 or answer.error["code"] == "metrics_unavailable"
    assert queued(router) > 0
    assert len(up.chats) >= REQUESTS + 2


def queued(router: Router) -> int:
    """Rows waiting in the worker that answers."""
    return max(router.get("/health").json["rows_queued"] for _ in range(10))


def rows_come(router: Router) -> None:
    def there() -> bool:
        with contextlib.suppress(sqlite3.OperationalError):  # the file is being replaced while this reader opens it
            return len(router.rows()) >= REQUESTS + 2
        return False

    wait_until(there, 20, "the rows")
    rows = router.wait_rows(REQUESTS + 2)
    assert len({row["request_id"] for row in rows}) == len(rows) >= REQUESTS + 2
    wait_until(lambda: queued(router) == 0, 10, "the queue to be empty")
    assert intact(router.database)
    assert "Traceback" not in router.log_text()


@pytest.mark.parametrize("broken", BEFORE_THE_START, ids=lambda broken: broken.__name__)
def test_it_starts_and_serves_with_a_database_that_cannot_be_used(
    up: Upstream, tmp_path: Path, broken: Callable[[Router], Mend]
) -> None:
    router = Router(policy(up), folder=tmp_path, workers=2)
    mend = broken(router)
    with router:
        serves_without(router, up)
        wait_until(lambda: "metrics cannot be written and wait in memory" in router.log_text(), 5, "a word about it")
        mend()
        rows_come(router)
        wait_until(lambda: "metrics can be written again" in router.log_text(), 5, "a word about its end")


@pytest.mark.parametrize("broken", WHILE_RUNNING, ids=lambda broken: broken.__name__)
def test_it_goes_on_when_the_database_breaks(up: Upstream, tmp_path: Path, broken: Callable[[Router], Mend]) -> None:
    with Router(policy(up), folder=tmp_path, workers=2) as router:
        wait_until(
            lambda: queued(router) == 0 and router.rows("SELECT * FROM llr_workers"), 10, "the database to be made"
        )
        mend = broken(router)
        serves_without(router, up)
        mend()
        rows_come(router)


def test_a_missing_folder(up: Upstream, tmp_path: Path) -> None:
    database = tmp_path / "later" / "metrics.db"
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_DB": str(database)}) as router:
        router.database = database
        serves_without(router, up)
        database.parent.mkdir()
        rows_come(router)


def test_a_file_that_is_deleted_is_made_anew(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path, workers=2) as router:
        router.chat("before")
        router.wait_rows(1)
        for path in (router.database, *side_files(router.database)):
            path.unlink(missing_ok=True)
        for number in range(REQUESTS):
            assert router.chat(f"number {number}").status == 200
        rows = router.wait_rows(REQUESTS, 20)
        assert len(rows) == REQUESTS
        assert intact(router.database)


def test_a_folder_that_is_deleted_and_comes_back(up: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_DB": str(folder / "metrics.db")}) as router:
        router.database = folder / "metrics.db"
        wait_until(router.database.exists, 10, "the database")
        shutil.rmtree(folder)
        serves_without(router, up)
        folder.mkdir()
        rows_come(router)


def test_a_backup_may_be_taken_at_any_time(up: Upstream, tmp_path: Path) -> None:
    """Readers of the file while it is written: nothing is lost, nobody waits."""
    with Router(policy(up), folder=tmp_path, workers=2) as router, ExitStack() as stack:
        router.chat("first")
        router.wait_rows(1)
        reader = stack.enter_context(contextlib.closing(sqlite3.connect(router.database, isolation_level=None)))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM metrics").fetchone()
        for number in range(REQUESTS):
            assert router.chat(f"number {number}", timeout=5).status == 200
        with contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as copy:
            wait_until(lambda: len(router.rows()) == REQUESTS + 1, 10, "the rows")
            with contextlib.closing(sqlite3.connect(router.database)) as source:
                source.backup(copy)
            assert copy.execute("SELECT count(*) FROM metrics").fetchone() == (REQUESTS + 1,)


def test_a_stop_waits_for_a_lock_to_end(up: Upstream, tmp_path: Path) -> None:
    """Rows that waited when SIGTERM came are written when the lock goes in time."""
    with Router(policy(up), folder=tmp_path, workers=2) as router:
        wait_until(lambda: router.rows("SELECT * FROM llr_workers"), 10, "the database to be made")
        unlock = locked(router)
        for number in range(REQUESTS):
            assert router.chat(f"number {number}").status == 200
        threading.Timer(2, unlock).start()
        assert router.terminate() == 0
        assert len(router.rows()) == REQUESTS

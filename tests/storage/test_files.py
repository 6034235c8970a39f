"""Who may read the database: it holds conversations."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.metrics.store import Store
from app.storage import NoDatabase, Storage, StoreError
from app.storage.model import MIGRATIONS
from tests import build

UMASKS = [0o022, 0o002, 0o000, 0o077]


@pytest.fixture(params=UMASKS, ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def modes(folder: Path) -> dict[str, str]:
    return {file.name: oct(file.stat().st_mode & 0o777) for file in sorted(folder.iterdir())}


PRIVATE = {"metrics.db": "0o600", "metrics.db-shm": "0o600", "metrics.db-wal": "0o600"}


@pytest.mark.usefixtures("umask")
def test_a_new_database_is_its_owners_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(str(tmp_path / "metrics.db"))
    store.write([build.record()])
    assert modes(tmp_path) == PRIVATE
    store.close()
    assert not caplog.records


@pytest.mark.parametrize("mode", [0o644, 0o664, 0o666, 0o640, 0o604, 0o777])
def test_an_old_one_is_closed_to_others_which_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    """With its log, which a running router of an older version left open to all."""
    file = tmp_path / "metrics.db"
    with contextlib.closing(sqlite3.connect(file)) as older:
        older.execute("PRAGMA journal_mode = wal")
        older.execute("CREATE TABLE mine (x)")
        for one in tmp_path.iterdir():
            one.chmod(mode)
        caplog.set_level(logging.WARNING)
        stores = [Store(str(file)) for _ in range(3)]
        for store in stores:
            store.write([build.record()])
        assert modes(tmp_path) == PRIVATE
        for store in stores:
            store.close()
    (record,) = caplog.records
    assert str(file) in record.getMessage() and "0600" in record.getMessage()


def test_a_file_that_nobody_may_write_stays_so(tmp_path: Path) -> None:
    file = tmp_path / "metrics.db"
    Store(str(file)).write([])
    file.chmod(0o444)
    with contextlib.suppress(StoreError):
        Store(str(file)).write([])
    assert oct(file.stat().st_mode & 0o777) == "0o400"


def test_behind_a_link_it_is_the_file_that_is_closed(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (there / "metrics.db").touch(0o644)
    (tmp_path / "link.db").symlink_to(there / "metrics.db")
    store = Store(str(tmp_path / "link.db"))
    store.write([build.record()])
    assert modes(there) == PRIVATE
    store.close()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_file_of_another_user_is_told_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "metrics.db"
    file.touch(0o644)
    os.chown(file, 12345, 12345)
    store = Store(str(file))
    for _ in range(3):
        store.write([])
        store.close()
    assert oct(file.stat().st_mode & 0o777) == "0o644"
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 1 and "others may read it" in messages[0] and "chmod 600" in messages[0]


@pytest.mark.e2e
def test_a_running_router_keeps_what_it_was_told_to_itself(router) -> None:
    policy = {"backends": {"echo": {"type": "echo"}}, "routes": [{"default": "echo"}]}
    before = os.umask(0o022)
    try:
        running = router(policy, workers=2)
    finally:
        os.umask(before)
    assert running.post("/v1/responses", {"input": "a secret"}).status == 200
    running.wait_rows(1)
    found = {file.name: oct(file.stat().st_mode & 0o777) for file in running.folder.glob("metrics.db*")}
    assert found == PRIVATE


# --- reading alone --------------------------------------------------------------------------------


def test_what_is_opened_to_read_cannot_be_changed(tmp_path: Path) -> None:
    file = tmp_path / "metrics.db"
    writer = Store(str(file))
    writer.write([build.record()])
    reader = Store(str(file), read_only=True)
    assert reader.source().database == str(file)
    with pytest.raises(StoreError, match="readonly"):
        reader.write([build.record()])
    reader.check_writable()
    with pytest.raises(StoreError, match="readonly"):
        reader.write([build.record()])
    writer.write([build.record(request_id="req-2")])
    assert len(reader.latest(9)) == 2, "rows of a running router are seen"
    writer.close()
    reader.close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.db"], "no log is left behind"


def test_a_locked_one_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "metrics.db"
    Store(str(file)).write([])
    reader = Store(str(file), read_only=True)
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="locked"):
            reader.check_writable()


@pytest.mark.parametrize("name", ["metrics.db", "no/such/metrics.db", "a b?c#d%20.db"])
def test_reading_makes_nothing(tmp_path: Path, name: str) -> None:
    reader = Storage(str(tmp_path / name), read_only=True)
    with pytest.raises(NoDatabase, match="there is no database at"), reader.reading():
        pass
    assert not list(tmp_path.iterdir())


def test_an_older_one_is_read_from_a_copy(tmp_path: Path) -> None:
    file = tmp_path / "metrics.db"
    store = Store(str(file))
    store.write([build.record()])
    store.close()
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute("ALTER TABLE metrics DROP COLUMN basis")
        database.execute("PRAGMA user_version = 0")
        database.commit()
    before = file.read_bytes()
    reader = Store(str(file), read_only=True)
    assert [call.basis for _, calls in reader.live_calls(0) for call in calls] == [None]
    assert len(reader.window(0).aggregates) == 1
    reader.close()
    assert file.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["metrics.db"]


def test_a_newer_one_is_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "metrics.db"
    Store(str(file)).write([build.record()])
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 7}")
    assert len(Store(str(file), read_only=True).latest(9)) == 1


def test_who_may_not_read_it_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "metrics.db"
    Store(str(file)).write([])
    monkeypatch.setattr(os, "access", lambda path, mode: not (Path(path) == file and mode == os.R_OK))
    with pytest.raises(NoDatabase, match="as the user that runs the router"):
        Store(str(file), read_only=True).source()

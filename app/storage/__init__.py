"""Open the database, upgrade it, run transactions.  Only metrics and conversations use this package and peewee.
Every function may block and may raise StoreError, so none runs on the event loop (see background/thread.py).
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import peewee
from playhouse import db_url

from app.settings import database_problem
from app.storage.files import keep_private
from app.storage.model import is_current, upgrade

T = TypeVar("T")
Row = TypeVar("Row", bound=NamedTuple)

log = logging.getLogger("llr.storage")

_BUSY_MS = 200  # the wait for another writer; rows that could not be written wait for the next try

_MISSING = -1  # for an inode


# A slow or dead PostgreSQL must not block the thread for long.  Seconds to connect; milliseconds for a statement, for a
# lock of another machine, and for bytes that are not acknowledged.
_POSTGRES: dict[str, object] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=10000 -c lock_timeout=2000",
}
_NO_WRITES = "-c default_transaction_read_only=on"


class StoreError(Exception):
    """Report in one line why the database cannot be used now."""


class NoDatabase(StoreError):
    """Report that LLR_DB does not exist, or that this user may not read it, and what to do."""


class Storage:
    """Hold one connection to LLR_DB for one thread at a time.  It is opened at the first use, and again after a
    failure."""

    def __init__(self, location: str, *, read_only: bool = False) -> None:
        """`location` is LLR_DB: an SQLite path, or a database URL.  A `read_only` storage creates, changes and
        upgrades no database; it reads a copy of an older file."""
        self.location = location
        self.name = _shown(location)  # without a password, which a URL may hold
        self._read_only = read_only
        self._database: peewee.Database | None = None
        self._files: tuple[int, ...] | None = None  # inodes
        self._mode_warning: str | None = None  # logged once

    @contextlib.contextmanager
    def transaction(self) -> Iterator[peewee.Database]:
        with self.reading() as database:
            begin = ("IMMEDIATE",) if isinstance(database, peewee.SqliteDatabase) else ()
            with database.atomic(*begin):
                yield database

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[peewee.Database]:
        """Run several queries that see the database at one moment."""
        with self.reading() as database:
            level = {} if isinstance(database, peewee.SqliteDatabase) else {"isolation_level": "REPEATABLE READ"}
            with database.atomic(**level):
                yield database

    @contextlib.contextmanager
    def reading(self) -> Iterator[peewee.Database]:
        """Yield an open, current database.  A failure closes it, so that the next use opens it again."""
        try:
            yield self._open()
        except (peewee.PeeweeException, sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self.close()
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StoreError(f"{self.name}: {reason}") from error

    def exists(self) -> bool:
        """Return True when there is a database.  Opening a missing database would create it."""
        return not _is_file(self.location) or Path(self.location).exists()

    def check_writable(self) -> None:
        """Take the lock of a writer and release it, without a change.  Raise StoreError."""
        with self.reading() as database:
            if isinstance(database, peewee.SqliteDatabase):
                database.execute_sql("PRAGMA query_only = 0")
                try:
                    database.execute_sql("BEGIN IMMEDIATE")
                    database.execute_sql("ROLLBACK")
                finally:
                    database.execute_sql(f"PRAGMA query_only = {int(self._read_only)}")

    def close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                self._database.close()
            self._database = None

    def _open(self) -> peewee.Database:
        if self._database is not None and self._moved():
            self.close()
        if self._database is None:
            database = self._open_to_read() if self._read_only else self._open_to_write()
            self._database, self._files = database, self._inodes()
        return self._database

    def _open_to_write(self) -> peewee.Database:
        self._drop_old_log()
        if _is_file(self.location):
            self._keep_private()
        database = connect(self.location)
        database.connect()
        try:
            upgrade(database)
        except BaseException:
            database.close()
            raise
        return database

    def _keep_private(self) -> None:
        warning = keep_private(self.location)
        if warning is not None and warning != self._mode_warning:
            log.warning("%s", warning)
        self._mode_warning = warning

    def _open_to_read(self) -> peewee.Database:
        if _is_file(self.location):
            _check_readable(self.location)
        database = connect(self.location, read_only=True)
        database.connect()
        try:
            if is_current(database):
                return database
            copy = _upgraded_copy(database)
        except BaseException:
            database.close()
            raise
        database.close()
        return copy

    def _moved(self) -> bool:
        """Return True when the file or its write-ahead log was deleted or replaced, perhaps while it was being
        opened.  SQLite would continue to write into a deleted file."""
        return self._files is not None and (_MISSING in self._files or self._inodes() != self._files)

    def _drop_old_log(self) -> None:
        """Remove the write-ahead log of a deleted database.  SQLite would use it for the new file at the same path,
        and destroy that.  Its index (-shm) would be shared with processes that still use the old file."""
        now = self._inodes()
        if self._files is None or now is None or now[0] == self._files[0] or now[1] != self._files[1]:
            return
        for end in ("-wal", "-shm"):
            Path(f"{self.location}{end}").unlink(missing_ok=True)

    def _inodes(self) -> tuple[int, ...] | None:
        """Return the inodes of the database and of its write-ahead log, which exists while this process is
        connected."""
        if not _is_file(self.location) or self._read_only:
            return None
        return _inode(self.location), _inode(f"{self.location}-wal")


def _inode(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_ino
    return _MISSING


def _is_file(location: str) -> bool:
    return "://" not in location and location != ":memory:"


def _check_readable(location: str) -> None:
    """Raise NoDatabase when the file cannot be read."""
    path = Path(location).absolute()
    if not path.exists():
        raise NoDatabase(
            f"there is no database at {path} (LLR_DB): the router creates it when it starts. "
            "When a router runs, set LLR_DB here to the value that it has"
        )
    if not os.access(path, os.R_OK):
        raise NoDatabase(f"{path} may not be read by this user: run this command as the user that runs the router")


def _upgraded_copy(database: peewee.Database) -> peewee.Database:
    """Return a copy in a temporary file that SQLite deletes, with the tables of this version.  Raise StoreError."""
    if not isinstance(database, peewee.SqliteDatabase):
        raise StoreError("LLR_DB holds no tables of this version: the router makes and upgrades them when it starts")
    copy = peewee.SqliteDatabase("file:", uri=True, thread_safe=False)
    copy.connect()
    database.connection().backup(copy.connection())
    upgrade(copy)
    return copy


def connect(location: str, *, read_only: bool = False) -> peewee.Database:
    """Return a database that is not open yet.  Raise StoreError when it cannot work."""
    if problem := database_problem(location):
        raise StoreError(f"LLR_DB: {problem}")
    if "://" in location:
        limits = _POSTGRES | ({"options": f"{_POSTGRES['options']} {_NO_WRITES}"} if read_only else {})
        database: peewee.Database = db_url.connect(
            location, unquote_password=True, unquote_user=True, thread_safe=False, **limits
        )
        return database
    if read_only:  # mode=ro would not remove the log; mode=rw creates no file, and query_only prevents changes
        uri = f"file:{quote(location)}?mode=rw"
        return peewee.SqliteDatabase(
            uri, uri=True, pragmas={"query_only": 1}, timeout=_BUSY_MS / 1000, thread_safe=False
        )
    pragmas = {"journal_mode": "wal", "synchronous": "normal", "busy_timeout": _BUSY_MS}
    return peewee.SqliteDatabase(location, pragmas=pragmas, timeout=_BUSY_MS / 1000, thread_safe=False)


def _shown(location: str) -> str:
    """Return LLR_DB without user, password and options."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def columns(table: type[peewee.Model], row: type[NamedTuple]) -> list[peewee.Field[object]]:
    """Return the columns of a table that are the fields of `row`."""
    return [getattr(table, name) for name in row._fields]


def fetch(row: type[Row], query: peewee.Select, database: peewee.Database) -> list[Row]:
    """Return the rows of a query, whose columns are the fields of `row`. SQLite's booleans are numbers.  Peewee
    would create a class for every query, and its rows would stay in memory until the next garbage collection.
    """
    return list(map(row._make, database.execute(query)))


def portions(items: Sequence[T], most: int = 256) -> Iterator[Sequence[T]]:
    """Split items into groups whose sizes are powers of two, so that there are few different statements.  Python
    caches the last 128 statements of a connection, and one of a hundred rows needs half a megabyte."""
    at = 0
    while left := len(items) - at:
        size = min(most, 1 << (left.bit_length() - 1))
        yield items[at : at + size]
        at += size


def plain(text: str) -> str:
    """Return text that every database accepts: clients also send lone surrogates and NUL."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def now_ms() -> int:
    return int(time.time() * 1000)

"""The database file: opening, upgrading, transactions.  Used by metrics and conversations; nobody else touches peewee.

Everything here may block and may raise StoreError; nothing of it runs on the event loop (see background/lane.py).
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import time
from collections import namedtuple
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import peewee
from playhouse import db_url

from app.settings import database_problem
from app.storage.model import upgrade

T = TypeVar("T")

_BUSY_MS = 200  # wait for another writer; what could not be written is kept for the next turn

_MISSING = -1  # for an inode


# A PostgreSQL that is far away or gone must not hold the lane for long.  Seconds to connect; milliseconds for a
# statement, for a lock another machine holds, and for bytes that nobody acknowledges.
_POSTGRES: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "options": "-c statement_timeout=10000 -c lock_timeout=2000",
}


class StoreError(Exception):
    """The database cannot be used now; the message says why in one line."""


class Storage:
    """One connection to LLR_DB, opened at first use and again after every failure.  Belongs to one thread at a time."""

    def __init__(self, location: str) -> None:
        """`location` is LLR_DB: an SQLite path, or a database URL."""
        self.location = location
        self.name = _shown(location)  # for people: a URL may hold a password
        self._database: peewee.Database | None = None
        self._files: tuple[int, ...] | None = None  # inodes

    @contextlib.contextmanager
    def transaction(self) -> Iterator[peewee.Database]:
        with self.reading() as database:
            begin = ("IMMEDIATE",) if isinstance(database, peewee.SqliteDatabase) else ()
            with database.atomic(*begin):
                yield database

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[peewee.Database]:
        """Several queries that see the database as of one moment."""
        with self.reading() as database:
            level = {} if isinstance(database, peewee.SqliteDatabase) else {"isolation_level": "REPEATABLE READ"}
            with database.atomic(**level):
                yield database

    @contextlib.contextmanager
    def reading(self) -> Iterator[peewee.Database]:
        """An open, current database.  Any failure closes it, so that the next use starts afresh."""
        try:
            yield self._open()
        except (peewee.PeeweeException, sqlite3.Error, OSError, UnicodeDecodeError) as error:
            self.close()
            said = str(error).strip().partition("\n")[0] or type(error).__name__
            raise StoreError(f"{self.name}: {said}") from error

    def exists(self) -> bool:
        """Whether there is a database; opening one that is not there would make it."""
        return "://" in self.location or Path(self.location).exists()

    def close(self) -> None:
        if self._database is not None:
            with contextlib.suppress(peewee.PeeweeException, sqlite3.Error):
                self._database.close()
            self._database = None

    def _open(self) -> peewee.Database:
        if self._database is not None and self._moved():
            self.close()
        if self._database is None:
            self._drop_old_log()
            database = connect(self.location)
            database.connect()
            try:
                upgrade(database)
            except BaseException:
                database.close()
                raise
            self._database, self._files = database, self._inodes()
        return self._database

    def _moved(self) -> bool:
        """A file was deleted or replaced under us, the write-ahead log too: SQLite would go on writing into what
        nobody will ever read.  Deleted perhaps while it was being opened."""
        return self._files is not None and (_MISSING in self._files or self._inodes() != self._files)

    def _drop_old_log(self) -> None:
        """Removes the write-ahead log of a database that is no longer there.  SQLite would take it for the log of the
        file in its place, and ruin that; its index (-shm) would be shared with those that still use the old one."""
        now = self._inodes()
        if self._files is None or now is None or now[0] == self._files[0] or now[1] != self._files[1]:
            return
        for end in ("-wal", "-shm"):
            Path(f"{self.location}{end}").unlink(missing_ok=True)

    def _inodes(self) -> tuple[int, ...] | None:
        """Of the database and its write-ahead log, which is there as long as we are connected."""
        if "://" in self.location or self.location == ":memory:":
            return None
        return _inode(self.location), _inode(f"{self.location}-wal")


def _inode(path: str) -> int:
    with contextlib.suppress(OSError):
        return Path(path).stat().st_ino
    return _MISSING


def connect(location: str) -> peewee.Database:
    """A database that is not yet open.  Raises StoreError for one that cannot work."""
    if said := database_problem(location):
        raise StoreError(f"LLR_DB: {said}")
    if "://" in location:
        database: peewee.Database = db_url.connect(
            location, unquote_password=True, unquote_user=True, thread_safe=False, **_POSTGRES
        )
        return database
    pragmas = {"journal_mode": "wal", "synchronous": "normal", "busy_timeout": _BUSY_MS}
    return peewee.SqliteDatabase(location, pragmas=pragmas, timeout=_BUSY_MS / 1000, thread_safe=False)


def _shown(location: str) -> str:
    """LLR_DB without user, password and options."""
    if "://" not in location:
        return location
    parts = urlsplit(location)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def fetch(query: peewee.Select, database: peewee.Database) -> list[Any]:
    """What a query finds, as named tuples of what the database gives; SQLite's booleans are numbers.

    Peewee's own named tuples are of a new class for every query, which keeps its rows until garbage is collected.
    """
    row = _row(*(column.name for column in query.selected_columns))
    return [row._make(values) for values in database.execute(query)]


@functools.cache
def _row(*names: str) -> Any:
    return namedtuple("Row", names)


def portions(items: Sequence[T], most: int = 256) -> Iterator[Sequence[T]]:
    """Cuts into powers of two: so that there are few different statements.  Python keeps the last 128 of a connection
    ready, and one of a hundred rows takes half a megabyte."""
    at = 0
    while left := len(items) - at:
        size = min(most, 1 << (left.bit_length() - 1))
        yield items[at : at + size]
        at += size


def plain(text: str) -> str:
    """Text that every database takes: clients also send lone surrogates and NUL."""
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)


def now_ms() -> int:
    return int(time.time() * 1000)

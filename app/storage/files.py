"""Keep the files of an SQLite database private: they hold conversations, so only their owner may read them."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path

PARTS = ("", "-wal", "-shm")  # the database, its write-ahead log and the index of that
_OWNER_ONLY = 0o600
_OTHERS = 0o077


def keep_private(location: str) -> str | None:
    """Create the database with mode 0600 when it is missing, else remove the rights of other users.  SQLite gives
    the log and its index the mode of the database.  Return a line for the log when a mode was changed, or could not
    be changed.
    """
    path = os.path.realpath(location)  # SQLite too puts the log beside the file that a link leads to
    with contextlib.suppress(OSError):  # the file exists, or SQLite will report why it cannot be created
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _OWNER_ONLY))
    changed = [file for part in PARTS if (file := Path(f"{path}{part}")) and _is_open(file)]
    foreign = [file for file in changed if not _close(file)]
    if foreign:
        return f"{foreign[0]} holds conversations, others may read it, and its mode cannot be changed: chmod 600"
    if changed:
        return f"{', '.join(map(str, changed))}: mode set to 0600, because conversations are kept there"
    return None


def _is_open(file: Path) -> bool:
    """Return True when other users than the owner have rights on a file."""
    with contextlib.suppress(OSError):
        status = file.stat()
        return stat.S_ISREG(status.st_mode) and bool(status.st_mode & _OTHERS)
    return False


def _close(file: Path) -> bool:
    with contextlib.suppress(OSError):
        status = file.stat()
        if status.st_uid == os.geteuid():
            file.chmod(stat.S_IMODE(status.st_mode) & _OWNER_ONLY)
            return True
    return False

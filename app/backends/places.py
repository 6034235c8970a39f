"""Limit the calls that a backend gets at the same time (`maxConcurrency`) from all workers of one machine.  A place
is one byte of a file that the master opened before it forked; a worker holds a place by a POSIX record lock on this
byte.  The kernel frees the lock when a worker dies in any way.  Record locks belong to a process, so a set in memory
holds the places that this worker's own calls use.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from collections.abc import Callable

from app.errors import BackendBusy

PLACES_FD = "_LLR_PLACES_FD"  # gunicorn.conf.py sets it for the workers; absent = this process alone
_LOOK_AGAIN_S = 0.02


class Places:
    """Hold the places of one backend.  `in_flight` and `waiting` are the numbers of this worker."""

    def __init__(self, limit: int, offset: int, fd: int | None) -> None:
        """`limit` 0 = no limit; `offset` is the backend's first byte in the shared file."""
        self._limit = limit
        self._offset = offset
        self._fd = fd
        self._mine: set[int] = set()
        self.in_flight = 0
        self.waiting = 0

    def acquire(self, deadline_s: float, sleep: Callable[[float], None] = time.sleep) -> int:
        """Wait for a place and return it.  Within this worker, calls get places in the order in which they began to
        wait, up to the polling interval.  Raise BackendBusy when none is free within `deadline_s`."""
        if not self._limit:
            self.in_flight += 1
            return -1
        until = time.monotonic() + deadline_s
        self.waiting += 1
        try:
            while (place := self._try()) is None:
                if time.monotonic() >= until:
                    raise BackendBusy(f"all {self._limit} places (maxConcurrency) stayed taken for {deadline_s:g} s")
                sleep(_LOOK_AGAIN_S)
        finally:
            self.waiting -= 1
        self.in_flight += 1
        return place

    def release(self, place: int) -> None:
        self.in_flight -= 1
        if place >= 0:
            self._mine.discard(place)
            if self._fd is not None:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset + place, os.SEEK_SET)

    def _try(self) -> int | None:
        for place in range(self._limit):
            if place in self._mine:
                continue
            if self._fd is not None:
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset + place, os.SEEK_SET)
                except OSError as error:
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        continue
                    raise
            self._mine.add(place)
            return place
        return None

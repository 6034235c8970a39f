"""Hold the state of all places in memory that the workers of one machine share.

Each worker has a row of its own, and for each group of places one word with the numbers of its calls and one word
with its first waiting call.  Only the worker itself writes them, and each is written as a whole, so a worker that dies
at any instant leaves nothing half-written.  A worker holds a record lock on the byte of its row as long as it lives:
the kernel frees the lock after any death, and other workers then clear the row.  A decision that depends on several
words is made under the lock of the table (Lock).
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from types import TracebackType

log = logging.getLogger("llr.places")

ROWS = 256  # LLR_WORKERS is at most 64; after a reload, the old workers finish beside the new ones
GROUPS = 256
_NAME_WORDS = 32  # 256 bytes for the name of a model
_LANES = 3
_WORDS = 1 + 2 * ROWS + GROUPS * (1 + 3 * ROWS + 1 + _NAME_WORDS + _LANES)
_BYTES = 8 * _WORDS  # about 1.7 MB

# One word of a worker and a group: the running calls in 20 bits, then the waiting ones of each lane in 14 bits.
RUNNING = 1
WAITING = (1 << 20, 1 << 34, 1 << 48)
MOST_WAITING = 10_000  # of one group, in all workers; fits into 14 bits
_RUNNING_BITS, _LANE_BITS = (1 << 20) - 1, (1 << 14) - 1


def running(word: int) -> int:
    """Return the running calls of a word, or of a sum of words."""
    return word & _RUNNING_BITS


def waiting(word: int) -> tuple[int, int, int]:
    """Return the waiting calls by lane."""
    return word >> 20 & _LANE_BITS, word >> 34 & _LANE_BITS, word >> 48 & _LANE_BITS


@dataclass(frozen=True, slots=True)
class Cells:
    """Hold the words of one group."""

    calls: memoryview  # by row: RUNNING and WAITING
    limits: memoryview  # by row: the limit of the worker, plus 1
    first: memoryview  # by row: the first waiting call (order.packed); 0 = none
    model: memoryview  # one word: the hash of the model of the latest call that got a place
    name: memoryview  # bytes: its name, then zeros
    served: memoryview  # by lane: waiting calls that have got a place


class Lock:
    """Let one worker in at a time.  Nothing in it waits or switches greenlets, so it is held for microseconds.  It is a
    flock, which costs a third less than a record lock.  It belongs to an open file and not to a process, so each
    process opens the master's file once more.  The new descriptor is never closed: the record locks of the process
    would go."""

    def __init__(self, fd: int | None) -> None:
        """`fd` None: there is no other process."""
        own = -1 if fd is None else os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
        self.enter: Callable[[], object] = _nothing if fd is None else partial(fcntl.flock, own, fcntl.LOCK_EX)
        self.leave: Callable[[], object] = _nothing if fd is None else partial(fcntl.flock, own, fcntl.LOCK_UN)

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.leave()


def _nothing() -> None:
    pass


class Table:
    """Hold the shared memory and the row of this process."""

    def __init__(self, fd: int | None) -> None:
        """`fd` is a file that the master opened before it forked; None: this process is alone."""
        self.fd = fd
        self.lock = Lock(fd)
        with self.lock:
            words = memoryview(memory(fd, _BYTES)).cast("q")
        at = 0

        def take(length: int) -> memoryview:
            nonlocal at
            at += length
            return words[at - length : at]

        self.used = take(1)  # one word: rows from this number on have never been used
        self._pids = take(ROWS)  # 0 = the row is free
        self.looks = take(ROWS)  # when the worker last looked after its waiting calls, in monotonic ns
        self._ids = take(GROUPS)
        self._limits = take(GROUPS * ROWS)  # of a worker for a group, plus 1; 0 = the worker does not have this group
        self._calls, self._first = take(GROUPS * ROWS), take(GROUPS * ROWS)
        self._models, self._names, self._served = take(GROUPS), take(GROUPS * _NAME_WORDS), take(GROUPS * _LANES)
        self.row = -1
        os.register_at_fork(after_in_child=_lock_again(weakref.ref(self)))

    def claim(self, groups: Iterable[tuple[str, int]]) -> list[Cells]:
        """Take a row for this process, and return the cells of its groups, which are given by name and limit.  Workers
        with the same name of a group count its calls together."""
        with self.lock:
            self.clear_dead()
            self.row = next((row for row in range(ROWS) if not self._pids[row] and self._hold(row)), -1)
            if self.row < 0:
                log.error("more than %d workers: this one counts its calls alone", ROWS)
                self.row, self.used = 0, _words(1)
                self.used[0] = 1
                return [_cells_alone() for _ in groups]
            self._clear(self.row)
            self._pids[self.row] = os.getpid()
            self.used[0] = max(self.used[0], self.row + 1)
            return [self._cells_of(hash_of(name), limit) for name, limit in groups]

    def clear_dead(self) -> None:
        """Clear the rows of workers that have died.  Must be called under the lock."""
        for row in range(self.used[0]):
            if row != self.row and self._pids[row] and self._hold(row):
                self._clear(row)
                self._pids[row] = 0
                self._let_go(row)

    def _cells_of(self, identity: int, limit: int) -> Cells:
        """Return the cells of a group.  A new group takes those of one that no worker has any more."""
        index = next((at for at in range(GROUPS) if self._ids[at] == identity), None)
        if index is None:
            index = next((at for at in range(GROUPS) if not any(self._limits[at * ROWS : (at + 1) * ROWS])), None)
            if index is None:
                log.error("more than %d groups of places: each worker counts the calls of another one alone", GROUPS)
                return _cells_alone()
            self._ids[index], self._models[index] = identity, 0
        self._limits[index * ROWS + self.row] = limit + 1
        return Cells(
            calls=self._calls[index * ROWS : (index + 1) * ROWS],
            limits=self._limits[index * ROWS : (index + 1) * ROWS],
            first=self._first[index * ROWS : (index + 1) * ROWS],
            model=self._models[index : index + 1],
            name=self._names[index * _NAME_WORDS : (index + 1) * _NAME_WORDS].cast("B"),
            served=self._served[index * _LANES : (index + 1) * _LANES],
        )

    def _clear(self, row: int) -> None:
        for cell in range(row, GROUPS * ROWS, ROWS):
            if self._limits[cell]:
                self._calls[cell] = self._first[cell] = self._limits[cell] = 0

    def _hold(self, row: int) -> bool:
        """Return True when this process has the lock of a row now."""
        if self.fd is None:
            return True
        try:
            fcntl.lockf(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, row)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _let_go(self, row: int) -> None:
        if self.fd is not None:
            fcntl.lockf(self.fd, fcntl.LOCK_UN, 1, row)


def hash_of(name: str) -> int:
    """Return a number that is the same in all processes, and never 0."""
    return int.from_bytes(blake2b(name.encode("utf-8", "replace"), digest_size=7).digest(), "big") or 1


def _cells_alone() -> Cells:
    """Return cells that no other process shares."""
    return Cells(_words(ROWS), _words(ROWS), _words(ROWS), _words(1), _words(_NAME_WORDS).cast("B"), _words(_LANES))


def _words(length: int) -> memoryview:
    return memoryview(bytearray(8 * length)).cast("q")


def memory(fd: int | None, length: int) -> mmap.mmap:
    """Return so many bytes of memory, which all processes with this file share.  The first process writes the zeros: if
    the file only had the size, a full disk would end the process at the first write into the memory."""
    if fd is None:
        return mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    while (size := os.fstat(fd).st_size) < length:
        os.pwrite(fd, bytes(length - size), size)
    return mmap.mmap(fd, length)


def _lock_again(table: weakref.ref[Table]) -> Callable[[], None]:
    """Return a hook for the child of a fork.  It has no record locks, so it needs a row of its own."""

    def lock_again() -> None:
        if (own := table()) is not None:
            own.row, own.lock = -1, Lock(own.fd)

    return lock_again

"""What is done for speed alone.  Without any of it the router does the same, only slower.

Each function says what it gains; docs/performance.md says how that was measured.  It imports nothing of ours, because
gunicorn.conf.py loads it in the master.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import logging
import socket
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # malloc.h
_KEPT_BYTES = 8 * 1024 * 1024
_LARGE_BYTES = 4 * 1024 * 1024
_SWITCH_S = 0.0005
_GC_THRESHOLDS = (20_000, 10, 5)


def keep_freed_memory() -> None:
    """Let glibc keep up to 8 MiB of freed memory, in one arena.  Elsewhere this does nothing.

    By default the memory of a large body goes back to the system after each step, to be cleared and mapped anew for the
    next one.  And each thread has an arena of its own, which stays as large as its largest work made it.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def collect_garbage_less() -> None:
    """Leave out what was loaded at the start, and look for garbage less often.

    A large body is a hundred thousand objects.  By default the garbage collector would go through all of them again and
    again while it is read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def switch_threads_often() -> None:
    """Let a thread of the database give way to the event loop every half millisecond.

    With Python's 5 ms the streams of a worker would stutter while rows are written.
    """
    sys.setswitchinterval(_SWITCH_S)


def log_without_threads() -> None:
    """Let log records leave out what no line of ours shows (the logging HOWTO, "Optimization")."""
    logging.logThreads = logging.logMultiprocessing = logging.logProcesses = False
    logging._srcfile = None


def send(sock: socket.socket, data: bytes) -> None:
    """Send all of it.  gevent's `sendall` alone asks the kernel each time how large its buffer is; most data fits."""
    sent = sock.send(data)
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


class CachedSettings:
    """Look up each of gunicorn's settings once.  gunicorn looks up a dozen for each request, a microsecond each."""

    def __init__(self, settings: object) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> object:
        value = getattr(self._settings, name)
        setattr(self, name, value)  # found without this method from now on
        return value

"""Make the router faster, without a change of its behaviour.  Each function says what it gains; docs/performance.md
says how that was measured.  This module imports no other module of the project, because gunicorn.conf.py loads it in
the master.
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
    """Let glibc keep up to 8 MiB of freed memory, in one arena.  With another C library this does nothing.  By
    default, the memory of a large body returns to the system after each step, and must be cleared and mapped again
    for the next one.  By default, each thread also has an arena of its own, which never becomes smaller.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def collect_garbage_less() -> None:
    """Exclude the objects of the start from garbage collection, and run it less often.  A large body has a hundred
    thousand objects.  By default, the garbage collector would check all of them again and again while the body is
    read.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)


def switch_threads_often() -> None:
    """Let a worker thread yield to the event loop every half millisecond.  With Python's default of 5 ms, the
    streams of a worker would stall while rows are written.
    """
    sys.setswitchinterval(_SWITCH_S)


def log_without_threads() -> None:
    """Leave out fields of log records that our lines do not show (the logging HOWTO, "Optimization")."""
    logging.logThreads = logging.logMultiprocessing = False  # gunicorn shows the process
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
        setattr(self, name, value)  # later look-ups do not call this method
        return value

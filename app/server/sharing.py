"""Distribute new connections evenly to the workers.  All workers wait at the same socket, and the worker that wakes
first would accept most connections of a burst: one worker could serve all 32 while the other is idle.
"""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable

import gevent
from gevent.server import StreamServer

_MAX_WORKERS = 128  # twice the maximum of LLR_WORKERS: after a reload, the old workers finish while the new ones start
_PAUSE_S = 0.001
_MAX_PAUSES = 5  # then a worker accepts the connection although it has more than another one, which may be busy


class Shares:
    """Count the connections of each worker, in memory that the master and all workers share."""

    def __init__(self) -> None:
        self._numbers = memoryview(mmap.mmap(-1, 4 * _MAX_WORKERS)).cast("I")  # 0 = no worker, else connections + 1

    def put(self, worker: int, connections: int) -> None:
        self._numbers[worker % _MAX_WORKERS] = connections + 1

    def remove(self, worker: int) -> None:
        """Remove a worker that accepts no more connections."""
        self._numbers[worker % _MAX_WORKERS] = 0

    def is_ahead(self, worker: int) -> bool:
        """Return whether a worker has clearly more connections than another one.

        An eighth more is not clear: when many connections come while all workers are busy, each shall take several at a
        time.
        """
        own = self._numbers[worker % _MAX_WORKERS]
        enough = own - own // 8
        return any(0 < other < enough for other in self._numbers)


class FairServer(StreamServer):  # type: ignore[misc]  # gevent has no types
    """Accept connections; before that, wait a moment for workers that have fewer."""

    def __init__(
        self, listener: socket.socket, handle: Callable[..., None], shares: Shares, worker: int, **options: object
    ) -> None:
        super().__init__(listener, handle, **options)
        self._shares = shares
        self._worker = worker
        self._pauses = 0
        self._connections = 0
        shares.put(worker, 0)

    def do_read(self) -> tuple[socket.socket, object] | None:
        if self._pauses < _MAX_PAUSES and self._shares.is_ahead(self._worker):
            self._pauses += 1
            self.stop_accepting()
            gevent.spawn_later(_PAUSE_S, self._go_on)
            return None
        self._pauses = 0
        accepted: tuple[socket.socket, object] | None = super().do_read()
        return accepted

    def do_handle(self, *accepted: object) -> None:
        self._count(1)
        super().do_handle(*accepted)

    def do_close(self, *accepted: object) -> None:
        super().do_close(*accepted)
        self._count(-1)

    def close(self) -> None:
        self._shares.remove(self._worker)
        super().close()

    def _count(self, change: int) -> None:
        self._connections += change
        if self.started:
            self._shares.put(self._worker, self._connections)

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()

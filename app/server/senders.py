"""Deadlines for what clients send, so that slow ones cannot take all places of a worker."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from types import TracebackType
from typing import Protocol

import gevent
import gevent.monkey
from gunicorn.http.body import Body

_GRACE_S = 30.0  # time after which a body must have the minimum rate
_SLOWEST_BYTES_PER_S = 4096
_LONGEST_S = 300.0  # for a whole body
_REST_S = 3.0  # for the rest of a body that was refused
_REST_PIECE_BYTES = 4096
_poll = gevent.monkey.get_original("select", "poll")

_TOO_SLOW = f"The request body came too slowly: slower than {_SLOWEST_BYTES_PER_S} bytes a second, or not within 300 s."
_TOO_MANY = "The request body was cut off: too many clients are sending slowly at once."


class Reader(Protocol):
    """Describe gunicorn's readers of bodies."""

    def read(self, size: int) -> bytes: ...


class Senders:
    """Hold the connections for which the worker waits: for a head, a body, or the next request.  Each uses one of
    the worker's connections.  To leave some for complete requests, their number is limited.  When there are more,
    the connection that has been waited for longest is closed.  Each received byte of a body reduces this time, so a
    client that sends at a normal rate is closed last.  A connection with data to read is never closed.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._since: dict[socket.socket, float] = {}  # monotonic seconds

    def enter(self, sock: socket.socket, since: float) -> None:
        self._since[sock] = since
        if len(self._since) > self._most:
            for oldest in sorted(self._since, key=self._since.__getitem__):
                if not _is_readable(oldest):
                    del self._since[oldest]
                    _end_input(oldest)
                    break

    def leave(self, sock: socket.socket) -> bool:
        """Return False when the connection was closed because there were too many."""
        return self._since.pop(sock, None) is not None


def _is_readable(sock: socket.socket) -> bool:
    poll = _poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _end_input(sock: socket.socket) -> None:
    """Make the reader of this socket see the end of its input.  gevent's own `shutdown` would raise an error there."""
    plain = gevent.monkey.get_original("socket", "socket")(fileno=sock.fileno())
    with contextlib.suppress(OSError):  # the client closed it meanwhile
        plain.shutdown(socket.SHUT_RD)
    plain.detach()


class HeadDeadline(gevent.Timeout):  # type: ignore[misc]  # gevent has no types
    """Limit the wait for the head of a request.  When none has arrived in time, the block ends without an error."""

    def __init__(self, senders: Senders, sock: socket.socket, seconds: float) -> None:
        super().__init__(seconds, False)
        self._senders = senders
        self._sock = sock

    def __enter__(self) -> object:
        self._senders.enter(self._sock, time.monotonic())
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> bool:
        self._senders.leave(self._sock)
        return bool(super().__exit__(kind, error, at))


class TimedBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """Read the body of a request.  `read` raises TimeoutError, with a text for the client, when the body is too
    slow."""

    def __init__(self, reader: Reader, senders: Senders, sock: socket.socket) -> None:
        super().__init__(reader)
        self._senders = senders
        self._sock = sock
        self._start = time.monotonic()
        self._received_bytes = 0

    def read(self, size: int | None = None) -> bytes:
        earned_s = self._received_bytes / _SLOWEST_BYTES_PER_S
        left_s = self._start + min(_GRACE_S + earned_s, _LONGEST_S) - time.monotonic()
        self._senders.enter(self._sock, self._start + earned_s)
        try:
            with gevent.Timeout(max(left_s, 0), TimeoutError(_TOO_SLOW)):
                piece: bytes = super().read(size)
        finally:
            if not self._senders.leave(self._sock):
                self.failed = True
                raise TimeoutError(_TOO_MANY)
        self._received_bytes += len(piece)
        return piece


def read_rest(body: Body) -> bool:
    """Read for a moment longer, so that a client that is still sending can read its response.  Return True at the
    end of the body."""
    with contextlib.suppress(Exception), gevent.Timeout(_REST_S, False):
        while body.read(_REST_PIECE_BYTES):
            gevent.sleep(0)
        return True
    return False

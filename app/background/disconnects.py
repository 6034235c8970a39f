"""Find clients that disconnected while the router was waiting for a backend.

WSGI notices a disconnect only at the next write, and there is none while a backend is silent.  So the sockets of
waiting requests are polled twice a second, all in one system call, and ClientGone is thrown into the greenlet of each
client that has closed its connection, wherever that greenlet waits.
"""

from __future__ import annotations

import select
import socket
import ssl
from functools import partial
from types import TracebackType

import gevent
import gevent.monkey

from app.errors import ClientGone

EVERY_S = 0.5
_CLOSED = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # POLLRDHUP is Linux's


class Disconnects:
    """`with disconnects.watch(sock): …` around every wait for a backend."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Watch] = {}
        self.watch = partial(_Watch, self._waiting)  # of gunicorn's client socket; None where there is none (tests)

    def sweep(self) -> None:
        """Throw ClientGone into each waiting greenlet whose client has closed its connection."""
        watches = [watch for watch in self._waiting.values() if watch.descriptor >= 0]
        if not watches:
            return
        poll = gevent.monkey.get_original("select", "poll")()
        by_descriptor = {watch.descriptor: watch for watch in watches}
        for descriptor in by_descriptor:
            poll.register(descriptor, select.POLLIN | _CLOSED)
        for descriptor, events in poll.poll(0):
            watch = by_descriptor[descriptor]
            if events & (_CLOSED | select.POLLNVAL) or _at_end(watch.sock):
                gevent.get_hub().loop.run_callback(self._throw, watch)

    def _throw(self, watch: _Watch) -> None:
        """Run in the hub, where the greenlet still waits, unless its watch has ended meanwhile."""
        if self._waiting.get(id(watch)) is watch and watch.greenlet is not None:
            watch.greenlet.throw(ClientGone)


class _Watch:
    __slots__ = ("_waiting", "descriptor", "greenlet", "sock")

    def __init__(self, waiting: dict[int, _Watch], sock: socket.socket | None) -> None:
        self._waiting = waiting
        self.sock = sock
        self.descriptor = -1
        self.greenlet: gevent.Greenlet | None = None

    def __enter__(self) -> None:
        if self.sock is not None:
            self.descriptor = self.sock.fileno()
            self.greenlet = gevent.getcurrent()
            self._waiting[id(self)] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.pop(id(self), None)


def _at_end(sock: socket.socket | None) -> bool:
    """Return True when there is no more data to read.  A TLS socket cannot be checked in this way; POLLRDHUP is
    enough for it."""
    if sock is None or isinstance(sock, ssl.SSLSocket):
        return False
    try:
        return sock.recv(1, socket.MSG_PEEK) == b""
    except OSError as error:
        return not isinstance(error, BlockingIOError)

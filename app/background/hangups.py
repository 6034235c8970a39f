"""Notices clients that left while they were being waited for.

WSGI tells of a hang-up only at the next write, and there is none while a backend is silent.  So the sockets of
waiting requests are looked at twice a second, all in one system call, and the greenlet of one that was closed
gets ClientGone wherever it waits.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Any

import gevent
import gevent.monkey

from app.errors import ClientGone

EVERY_S = 0.5
_CLOSED = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)  # POLLRDHUP is Linux's


class Hangups:
    """`with hangups.watch(sock): …` around every wait for a backend."""

    def __init__(self) -> None:
        self._waiting: dict[int, _Watch] = {}

    def watch(self, sock: Any) -> _Watch:
        """`sock` is gunicorn's client socket, or None where there is none (tests, the CLI)."""
        return _Watch(self._waiting, sock)

    def sweep(self) -> None:
        """Throws ClientGone into each waiting greenlet whose client has closed."""
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
        """Runs in the hub: the greenlet is waiting, and still for us."""
        if self._waiting.get(id(watch)) is watch:
            watch.greenlet.throw(ClientGone)


class _Watch:
    __slots__ = ("_waiting", "descriptor", "greenlet", "sock")

    def __init__(self, waiting: dict[int, _Watch], sock: Any) -> None:
        self._waiting = waiting
        self.sock = sock
        self.descriptor = -1
        self.greenlet: Any = None

    def __enter__(self) -> None:
        if self.sock is not None:
            self.descriptor = self.sock.fileno()
            self.greenlet = gevent.getcurrent()
            self._waiting[id(self)] = self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._waiting.pop(id(self), None)


def _at_end(sock: Any) -> bool:
    """Readable, and there is nothing to read.  (A TLS socket cannot be peeked at; POLLRDHUP serves it.)"""
    if isinstance(sock, ssl.SSLSocket):
        return False
    try:
        return bool(sock.recv(1, socket.MSG_PEEK) == b"")
    except OSError as error:
        return not isinstance(error, BlockingIOError)


Watch = Callable[[], _Watch]

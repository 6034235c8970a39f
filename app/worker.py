"""gunicorn's gevent worker, and what a client may hold of it.

It imports nothing of ours but `descriptors`: gunicorn.conf.py loads it in the master, and the packages behind the rest
would load ssl before the worker patches it.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Any

import gevent
import gevent.monkey
import gevent.socket
from gunicorn.http import errors
from gunicorn.http.body import Body
from gunicorn.workers.ggevent import GeventWorker

from app.descriptors import NONE_LEFT, limits

_GRACE_S = 30.0  # until a body must keep to the slowest rate
_SLOWEST_BYTES_PER_S = 4096
_LONGEST_S = 300.0  # for a whole body
_REST_S = 3.0  # for the rest of a body that was refused
_REST_PIECE_BYTES = 4096
_RECOVERED_S = 10.0  # without a connection that could not be accepted
_CODECS = ("idna", "utf-8-sig", "unicode_escape")  # of host names, bodies, the page

_TOO_SLOW = f"The request body came too slowly: slower than {_SLOWEST_BYTES_PER_S} bytes a second, or not within 300 s."
_TOO_MANY = "The request body was cut off: too many clients are sending slowly at once."


class Senders:
    """The connections that owe something: a head, a body, or, kept alive, the next request.

    Each holds one of the worker's places.  So that there are always some for requests that have come, only so many may
    owe something at once.  Beyond that the one that has owed longest is closed, where each byte of a body that came
    counts as time that was not owed: who sends at a usual pace is the last to go.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._since: dict[Any, float] = {}  # socket -> monotonic s

    def enter(self, sock: Any, since: float) -> None:
        self._since[sock] = since
        if len(self._since) > self._most:
            oldest = min(self._since, key=self._since.__getitem__)
            del self._since[oldest]
            _end_input(oldest)

    def leave(self, sock: Any) -> bool:
        """Return False when the connection was one too many."""
        return self._since.pop(sock, None) is not None


def _end_input(sock: Any) -> None:
    """Let the reader of this socket see the end of what comes.  gevent's own `shutdown` would raise an error there."""
    plain = gevent.monkey.get_original("socket", "socket")(fileno=sock.fileno())
    with contextlib.suppress(OSError):  # the client closed it meanwhile
        plain.shutdown(socket.SHUT_RD)
    plain.detach()


class _Head(gevent.Timeout):  # type: ignore[misc]  # gevent has no types
    """The wait for a request's head, within gunicorn's `keepalive`; at its end it raises nothing."""

    def __init__(self, senders: Senders, sock: Any, seconds: float) -> None:
        super().__init__(seconds, False)
        self._senders = senders
        self._sock = sock

    def __enter__(self) -> Any:
        self._senders.enter(self._sock, time.monotonic())
        return super().__enter__()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> Any:
        self._senders.leave(self._sock)
        return super().__exit__(kind, error, at)


class TimedBody(Body):  # type: ignore[misc]  # gunicorn has no types
    """A request's body.  `read` raises TimeoutError, with a text for the client, when it does not come in time."""

    def __init__(self, reader: Any, senders: Senders, sock: Any) -> None:
        super().__init__(reader)
        self._senders = senders
        self._sock = sock
        self._begun = time.monotonic()
        self._received_bytes = 0

    def read(self, size: int | None = None) -> bytes:
        earned_s = self._received_bytes / _SLOWEST_BYTES_PER_S
        left_s = self._begun + min(_GRACE_S + earned_s, _LONGEST_S) - time.monotonic()
        self._senders.enter(self._sock, self._begun + earned_s)
        try:
            with gevent.Timeout(max(left_s, 0), TimeoutError(_TOO_SLOW)):
                piece: bytes = super().read(size)
        finally:
            if not self._senders.leave(self._sock):
                self.failed = True
                raise TimeoutError(_TOO_MANY)
        self._received_bytes += len(piece)
        return piece


_REFUSALS = {
    errors.LimitRequestLine: 414,
    errors.LimitRequestHeaders: 431,
    errors.ExpectationFailed: 417,
    errors.UnsupportedTransferCoding: 501,
}
_REASONS = {
    400: "Bad Request",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    501: "Not Implemented",
}


class Worker(GeventWorker):  # type: ignore[misc]
    """gunicorn's own, but for six things.

    What is no proper HTTP is refused in the router's own words: gunicorn would quote it, in its answer and in its
    log, and behind a wrong Content-Length that is the prompt.  Bodies have a deadline, and clients that send slowly
    leave places for others.  The rest of a body that was refused is not read for ever.  A client that no longer takes
    anything has left, which is no error.  A lack of file descriptors is logged once, not with each connection.  After
    an answer the connection goes to the end of the queue: a client that is quick would otherwise be served again and
    again, because its next request is there already, and the others would wait.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._senders = Senders(self.worker_connections // 2)
        self._full_at: float | None = None  # when a connection last could not be accepted; None = all is well

    def run(self) -> None:
        hub = gevent.get_hub()
        _load_all(hub)
        hub.handle_error = partial(self._hub_error, hub.handle_error)
        super().run()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        if self._full_at is not None and time.monotonic() - self._full_at > _RECOVERED_S:
            self._full_at = None
            self.log.warning("connections are accepted again")
        gevent.getcurrent().client = client  # read by timeout_ctx, which is not told
        super().handle(listener, client, addr)

    def timeout_ctx(self) -> _Head:
        return _Head(self._senders, gevent.getcurrent().client, self.cfg.keepalive)

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> None:
        req.body = TimedBody(req.body.reader, self._senders, sock)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except TimeoutError:  # TCP_USER_TIMEOUT, see gunicorn.conf.py
            raise StopIteration from None
        finally:
            at_end = getattr(req.body.reader, "length", None) == 0 or _read_rest(req.body)
        if not at_end:
            raise StopIteration  # closes the connection
        # Only the event loop can tell that the socket takes more, so every connection that is ready gets its turn.
        gevent.socket.wait_write(sock.fileno(), self.cfg.keepalive, StopIteration())

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        if isinstance(exc, gevent.GreenletExit):
            return  # the worker stops
        if not isinstance(exc, errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        kind = type(exc).__name__
        status = _REFUSALS.get(type(exc), 400)
        self.log.warning("refused a request that cannot be read: %s", kind)
        self.wsgi.extensions["runtime"].count_refusal(HTTPStatus(status).name.lower())
        message = f"This cannot be read as an HTTP request: {kind}."
        error = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": error})
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += "x-should-retry: false\r\n"
        try:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        except OSError as failure:
            self.log.debug("nobody heard of it: %s", failure)

    def _hub_error(self, otherwise: Callable[..., None], context: Any, kind: Any, value: Any, at: Any) -> None:
        """gevent reports here what failed outside all requests.  After a connection that it could not accept it waits,
        for a second at the most, before it tries again."""
        if not (isinstance(value, OSError) and value.errno in NONE_LEFT):
            otherwise(context, kind, value, at)
            return
        if self._full_at is None:
            line = "no file descriptors left (ulimit -n %d): new connections wait"
            gevent.spawn(self.log.error, line, limits()[0])  # the hub itself may wait for nothing
        self._full_at = time.monotonic()


def _load_all(hub: Any) -> None:
    """Load what Python and gevent would load at its first use: there may be no descriptor left for the file then."""
    for codec in _CODECS:
        codecs.lookup(codec)
    assert hub.resolver  # makes it


def _read_rest(body: TimedBody) -> bool:
    """Read on for a moment, so that a client that is still sending gets to read its answer.  True when all was read."""
    with contextlib.suppress(Exception), gevent.Timeout(_REST_S, False):
        while body.read(_REST_PIECE_BYTES):
            gevent.sleep(0)
        return True
    return False

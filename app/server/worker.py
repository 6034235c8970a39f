"""gunicorn's gevent worker, with a loop of its own over the requests of a connection."""

from __future__ import annotations

import codecs
import json
import socket
import time
from collections.abc import Callable
from functools import partial
from http import HTTPStatus

import gevent
import gevent.socket
from gevent.pool import Pool
from gunicorn import util
from gunicorn.config import Config
from gunicorn.http import errors
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser
from gunicorn.workers.ggevent import GeventWorker

from app import tuning
from app.descriptors import NONE_LEFT, limits
from app.server.exchange import Response, environ_of
from app.server.senders import HeadDeadline, Senders, TimedBody, read_rest
from app.server.sharing import FairServer, Shares

_RECOVERED_S = 10.0  # without a connection that could not be accepted
_CODECS = ("idna", "utf-8-sig", "unicode_escape")  # of host names, bodies, the page
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
Address = tuple[str, int]


class Worker(GeventWorker):  # type: ignore[misc]  # gunicorn has no types
    """Serve requests fairly, and refuse clients that send slowly or send no valid HTTP. Between two requests, a
    connection waits for the event loop, even when the next request has already arrived.  So a fast client cannot
    make the others wait.
    """

    cfg: Config
    shares = Shares()  # created in the master, when this module is loaded

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)
        self._senders = Senders(self.worker_connections // 2)
        self._full_at: float | None = None  # the last time when a connection could not be accepted; None = none

    def run(self) -> None:
        hub = gevent.get_hub()
        _load_all(hub)
        hub.handle_error = partial(self._hub_error, hub.handle_error)
        self.cfg = tuning.CachedSettings(self.cfg)
        super().run()

    def server_class(self, listener: socket.socket, *, spawn: Pool, **options: object) -> FairServer:
        """Return the server that accepts connections at a socket."""
        tls = {"ssl_context": options["ssl_context"]} if "ssl_context" in options else {}
        return FairServer(listener, partial(self.handle, listener), self.shares, self.age, spawn=spawn, **tls)

    def handle(self, listener: socket.socket, client: socket.socket, addr: Address) -> None:
        """Serve one connection until its end."""
        if self._full_at is not None and time.monotonic() - self._full_at > _RECOVERED_S:
            self._full_at = None
            self.log.warning("connections are accepted again")
        request = None
        try:
            client.setblocking(True)
            server = listener.getsockname()
            parser = RequestParser(self.cfg, client, addr)
            while (request := self._next_request(parser, client)) and self._serve(request, client, addr, server):
                request = None
        except (StopIteration, errors.NoMoreData, gevent.GreenletExit):
            pass  # the client closed it, or the worker stops
        except OSError as error:
            self.log.debug("the client disconnected: %s", error)
        except errors.ParseException as error:
            self._refuse(client, error)
        except Exception as error:
            self.handle_error(request, client, addr, error)
        finally:
            util.close(client)

    def _next_request(self, parser: RequestParser, client: socket.socket) -> Request | None:
        """Return the next request of a connection; None when none has arrived within gunicorn's `keepalive`."""
        with HeadDeadline(self._senders, client, self.cfg.keepalive):
            if parser.unreader.buf.tell():  # it arrived together with the request before
                gevent.socket.wait_write(client.fileno())
            elif not self.cfg.is_ssl:  # TLS may have read it already
                gevent.socket.wait_read(client.fileno())
            return next(parser)
        return None  # the deadline ends the block

    def _serve(self, request: Request, client: socket.socket, addr: Address, server: Address) -> bool:
        """Answer a request.  Return True when the connection can be used for another one."""
        if not _is_here(request):
            request.body = TimedBody(request.body.reader, self._senders, client)
        response = Response(request, client, is_last=not self.alive)
        try:
            pieces = self.wsgi(environ_of(request, client, addr, server), response.start)
            try:
                for piece in pieces:
                    response.write(piece)
                response.end()
            finally:
                if close := getattr(pieces, "close", None):
                    close()
        except OSError:
            raise
        except Exception:
            if not response.is_begun:
                raise
            self.log.exception("a response was cut off")
            return False
        finally:
            is_read = getattr(request.body.reader, "length", None) == 0 or read_rest(request.body)
        return is_read and not response.closes

    def _refuse(self, client: socket.socket, error: errors.ParseException) -> None:
        """Answer a request that is no valid HTTP. Quote no part of it: after a wrong Content-Length it may be the
        prompt."""
        kind = type(error).__name__
        status = _REFUSALS.get(type(error), 400)
        self.log.warning("refused a request that cannot be read: %s", kind)
        self.wsgi.extensions["services"].count_refusal(HTTPStatus(status).name.lower())
        message = f"This cannot be read as an HTTP request: {kind}."
        document = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
        body = json.dumps({"error": document})
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nConnection: close\r\nContent-Type: application/json\r\n"
        head += "x-should-retry: false\r\n"
        try:
            client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        except OSError as failure:
            self.log.debug("the client disconnected: %s", failure)

    def _hub_error(
        self, otherwise: Callable[..., None], context: object, kind: object, value: object, at: object
    ) -> None:
        """Log once, not for each connection, that no descriptors are left.  gevent reports errors outside requests
        here.  After it could not accept a connection, it waits up to a second before it tries again.
        """
        if not (isinstance(value, OSError) and value.errno in NONE_LEFT):
            otherwise(context, kind, value, at)
            return
        if self._full_at is None:
            line = "no file descriptors left (ulimit -n %d): new connections wait"
            gevent.spawn(self.log.error, line, limits()[0])  # the hub itself must not wait
        self._full_at = time.monotonic()


def _is_here(request: Request) -> bool:
    """Return True when the whole body arrived with the head."""
    length = getattr(request.body.reader, "length", None)
    return length is not None and request.unreader.buf.tell() >= length


def _load_all(hub: gevent.hub.Hub) -> None:
    """Load what Python and gevent load at the first use, because there may be no descriptor left for the file then."""
    for codec in _CODECS:
        codecs.lookup(codec)
    assert hub.resolver  # makes it

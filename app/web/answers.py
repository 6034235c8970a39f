"""From a routed request to its HTTP answer, buffered or streaming, for either surface.

A streamed request runs in a greenlet of its own that hands events to the client's greenlet: so the client hears
a comment line while the backend is silent, and a fallback stays possible until real content was sent.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import gevent
import gevent.queue
from flask import Response, current_app
from werkzeug.wsgi import ClosingIterator

from app import pipeline
from app.errors import ClientGone, RouterError
from app.runtime import Runtime
from app.types import Buffered, ChatRequest, Reply, StoredRequest, Streamed
from app.web import errors, headers
from app.wire import sse

SILENCE_S = 10.0
Environ = dict[str, Any]  # WSGI's
_CORK = getattr(socket, "TCP_CORK", None)  # Linux
_AHEAD = 8  # events read ahead of a slow client: then the backend is no longer read

log = logging.getLogger("llr.request")


class Surface(Protocol):
    """How one URL speaks."""

    def document(self, reply: Buffered) -> bytes:
        """The body of a buffered answer."""

    def events(self, reply: Reply) -> Iterator[bytes]:
        """The bytes of a stream.  A stream that breaks ends with the surface's own error events."""

    def failure(self, error: RouterError) -> bytes:
        """The end of a stream that never began: all backends failed behind the first comment line."""


def runtime() -> Runtime:
    found: Runtime = current_app.extensions["runtime"]
    return found


def answer(request: ChatRequest, surface: Surface, rt: Runtime, environ: Environ) -> Response:
    """Runs a request and renders its reply.  Raises RouterError before anything was sent."""
    if request.stream:
        return _streamed(request, surface, rt, environ)
    return buffered(request, surface.document, rt, environ)


def buffered(
    request: ChatRequest | StoredRequest, document: Callable[[Buffered], bytes], rt: Runtime, environ: Environ
) -> Response:
    """Run a request and render its reply, whose body `document` makes.  Raises RouterError."""
    logged, sock = RequestLog(request), environ.get("gunicorn.socket")
    try:
        with rt.hangups.watch(sock):
            reply = pipeline.run(request, rt)
        assert isinstance(reply, Buffered)
        body = document(reply)
    except ClientGone:
        logged.write(499, None)
        return Response(status=499)  # nobody reads it
    except RouterError as error:
        logged.write(error.status, None, error)
        raise
    logged.write(200, reply)
    response = _AsItIs(body, 200, headers.answer_headers(request.request_id, reply, environ))
    response.call_on_close(_hold_back(sock))
    return response


class _AsItIs(Response):
    """JSON that goes out with the headers it has: werkzeug would go through them twice more to complete them."""

    default_mimetype = "application/json"

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:  # noqa: ARG002
        start_response(self.status, self.headers.to_wsgi_list())
        return ClosingIterator(self.response, self.close)  # type: ignore[arg-type]  # bytes, as it was made


def _hold_back(sock: Any) -> Callable[[], None]:
    """Until the function that it returns is called, what is written to `sock` is held back: so the head and the body
    of a message, written one after the other, leave as one packet and wake the other side once."""
    if _CORK is None or sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return lambda: None

    def let_go() -> None:
        with contextlib.suppress(OSError):  # closed meanwhile
            sock.setsockopt(socket.IPPROTO_TCP, _CORK, 0)

    with contextlib.suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, _CORK, 1)
    return let_go


def _streamed(request: ChatRequest, surface: Surface, rt: Runtime, environ: Environ) -> Response:
    feed = Feed(request, surface, rt, environ.get("gunicorn.socket"))
    try:
        reply = feed.open(SILENCE_S)
    except ClientGone:
        feed.close()
        return Response(status=499)
    except BaseException:
        feed.close()
        raise
    known = headers.answer_headers(request.request_id, reply, environ)
    response = Response(feed, 200, known, mimetype="text/event-stream", direct_passthrough=True)
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"  # nginx passes each event on at once
    return response


class Feed:
    """The events of one streamed request, as the WSGI server reads them."""

    def __init__(self, request: ChatRequest, surface: Surface, rt: Runtime, sock: Any) -> None:
        self._request = request
        self._surface = surface
        self._rt = rt
        self._sock = sock
        self._queue: gevent.queue.Queue = gevent.queue.Queue(_AHEAD)
        self._between_events = True  # a comment may only stand there
        self._silent = False  # the client waited for the head already: it gets a comment at once
        self._over = False
        self._log = RequestLog(request)
        self._pump = gevent.spawn(self._run)

    def open(self, wait_s: float) -> Reply | None:
        """The reply, once a backend has answered; None when none has within `wait_s`.  Raises RouterError."""
        try:
            first = self._get(wait_s)
        except gevent.queue.Empty:
            self._silent = True
            return None
        if isinstance(first, RouterError):
            self._end(first.status, first)
            try:
                raise first
            finally:
                del first  # this frame and the error would hold each other
        return first  # type: ignore[no-any-return]

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> bytes:
        if self._silent:
            self._silent = False
            return sse.KEEP_ALIVE
        while not self._over:
            try:
                item = self._get(SILENCE_S)
            except gevent.queue.Empty:
                if self._between_events:
                    return sse.KEEP_ALIVE
                continue
            except ClientGone:
                self.close()
                break
            if item is None:
                self._end(200)
            elif isinstance(item, RouterError):
                self._end(item.status, item)
                self._rt.refused(item)
                return self._surface.failure(item)
            elif isinstance(item, bytes):
                if item != sse.KEEP_ALIVE:
                    self._between_events = not sse.missing_end(item)
                return item
        raise StopIteration

    def close(self) -> None:
        """Called by the WSGI server at the end, and when the client left."""
        if not self._over:
            self._end(499)
        self._pump.kill(ClientGone, block=False)

    def _get(self, wait_s: float) -> Any:
        with self._rt.hangups.watch(self._sock):
            return self._queue.get(timeout=wait_s)

    def _end(self, status: int, error: RouterError | None = None) -> None:
        self._over = True
        self._log.write(status, self._log.reply, error)

    def _run(self) -> None:
        """In its own greenlet: the pipeline, then the events, then None; or a RouterError."""
        reply: Reply | None = None
        try:
            reply = self._log.reply = pipeline.run(self._request, self._rt)
            self._queue.put(reply)
            for event in self._surface.events(reply):
                if event:
                    self._queue.put(event)
            self._queue.put(None)
        except ClientGone:
            pass
        except RouterError as error:
            self._queue.put(error)
        except Exception as error:
            self._queue.put(errors.unexpected(error, self._request.request_id))
        finally:
            if isinstance(reply, Streamed):
                reply.chunks.close()


class RequestLog:
    """One line a request: id, surface, route, backend, model, status, ms, the cause of a failure.  Never content."""

    def __init__(self, request: ChatRequest | StoredRequest) -> None:
        self._request = request
        self._started = time.monotonic()
        self.reply: Reply | None = None

    def write(self, status: int, reply: Reply | None, error: RouterError | None = None) -> None:
        if error is not None:
            error.logged = True
        if not log.isEnabledFor(logging.INFO):
            return
        route = reply.route if reply else error.route if error else None
        backend, model = (reply.target.backend, reply.target.model) if reply else (error and error.target) or ("-", "-")
        ms = (time.monotonic() - self._started) * 1000
        line = "%s %s route=%s backend=%s model=%s status=%d ms=%.0f%s"
        ids = (self._request.request_id, self._request.surface)
        cause = _cause(reply, error)
        log.info(line, *ids, headers.printable(route or "-"), backend, headers.printable(model), status, ms, cause)


def _cause(reply: Reply | None, error: RouterError | None) -> str:
    """Return the end of a request's line: the calls that failed before the answer, or why there was none."""
    if error is not None:
        return f" error={error.cause}"
    if reply is None:
        return ""
    failed = f" failed={reply.failed}" if reply.failed else ""
    broken = reply.chunks.failure if isinstance(reply, Streamed) else None
    return f"{failed} error={reply.target.backend}:{broken}" if broken else failed

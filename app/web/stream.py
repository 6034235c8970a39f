"""Stream the response of one request.  The request runs in a greenlet of its own and puts pieces into a queue for
the client's greenlet.  So the client gets keep-alives while the backend sends nothing, and a fallback is possible
until the first event.
"""

from __future__ import annotations

import socket

import gevent
import gevent.queue

from app import pipeline
from app.errors import ClientGone, RouterError
from app.services import Services
from app.types import Environ, Reply, Streamed
from app.web import errors, headers
from app.web.request_log import RequestLog
from app.web.response import Response
from app.web.surface import Exchange, Surface

SILENCE_S = 10.0
_AHEAD = 8  # pieces that wait for a slow client; when there are more, the backend is not read


def respond(exchange: Exchange, surface: Surface, environ: Environ, services: Services) -> Response:
    """Run a request and return its response as soon as its head can be sent.  Raise RouterError before that."""
    feed = Feed(exchange, surface, services, environ.get("gunicorn.socket"))
    try:
        reply = feed.open(SILENCE_S)
    except ClientGone:
        feed.close()
        return Response(499, {}, b"")  # the client has disconnected
    except BaseException:
        feed.close()
        raise
    head = headers.reply_headers(exchange.request.request_id, reply or feed.held, environ)
    head["Content-Type"] = surface.stream_type
    head["Cache-Control"] = "no-cache"
    head["X-Accel-Buffering"] = "no"  # nginx then sends each event at once
    return Response(200, head, feed)


class Feed:
    """Yield the bytes of one streamed reply, as the WSGI server reads them."""

    def __init__(self, exchange: Exchange, surface: Surface, services: Services, sock: socket.socket | None) -> None:
        self._exchange = exchange
        self._surface = surface
        self._services = services
        self._sock = sock
        self._queue: gevent.queue.Queue = gevent.queue.Queue(_AHEAD)
        self._between_events = True  # a keep-alive is allowed only between events
        self.held: Reply | None = None  # the reply of the first target, while its answer is judged
        self._silent = False  # the client has waited for the head already, so it gets a keep-alive at once
        self._is_head_sent = False  # before the reply: the head does not tell the verdict
        self._over = False
        self._reply: Reply | None = None
        self._log = RequestLog(exchange.request)
        self._pump = gevent.spawn(self._run)

    def open(self, wait_s: float) -> Reply | None:
        """Return the reply once it has begun; None when none has within `wait_s`.  Raise RouterError."""
        try:
            first = self._next_item(wait_s)
        except gevent.queue.Empty:
            self._silent = self._is_head_sent = True
            return None
        if isinstance(first, RouterError):
            self._end(first.status, first)
            try:
                raise first
            finally:
                del first  # this frame and the error would refer to each other
        return self._reply

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> bytes:
        if self._silent:
            self._silent = False
            return self._sign_of_life()
        while not self._over:
            try:
                item = self._next_item(SILENCE_S)
            except gevent.queue.Empty:
                if self._between_events:
                    return self._sign_of_life()
                continue
            except ClientGone:
                self.close()
                break
            if item is None:
                self._end(200)
                if comment := self._last_comment():
                    return comment
            elif isinstance(item, RouterError):
                self._end(item.status, item)
                self._services.refused(item)
                return self._exchange.failure(item)
            elif isinstance(item, bytes):
                if item != self._surface.keep_alive:
                    self._between_events = not self._surface.missing_end(item)
                return item
        raise StopIteration

    def close(self) -> None:
        """Stop the greenlet.  The WSGI server calls this at the end, and after a disconnect."""
        if not self._over:
            self._end(499)
        self._pump.kill(ClientGone, block=False)

    def _sign_of_life(self) -> bytes:
        """Return the keep-alive, which tells what the request waits for when it is not the reply itself."""
        wait = self._services.progress.of(self._exchange.request.request_id)
        return self._surface.comment(wait) if wait else self._surface.keep_alive

    def _last_comment(self) -> bytes:
        """Return the comment with the verdict, when the head was sent before it; b"" when there is none to tell."""
        reply = self._reply
        verified = headers.verified(reply) if reply and self._is_head_sent else ""
        if not reply or not verified:
            return b""
        word, _, reason = verified.partition(" ")
        because = f" reason={reason}" if reason else ""
        return self._surface.comment(f"llr verified={word}{because} backend={reply.target.backend}")

    def _show(self, held: Reply) -> None:
        self.held = held

    def _next_item(self, wait_s: float) -> Reply | bytes | RouterError | None:
        with self._services.disconnects.watch(self._sock):
            item: Reply | bytes | RouterError | None = self._queue.get(timeout=wait_s)
            return item

    def _end(self, status: int, error: RouterError | None = None) -> None:
        self._over = True
        self._log.write(status, self._reply, error)

    def _run(self) -> None:
        """Put the reply, its pieces and then None into the queue; or a RouterError.  Runs in a greenlet of its own."""
        reply: Reply | None = None
        try:
            reply = self._reply = pipeline.run(self._exchange.request, self._services, self._show)
            self._queue.put(reply)
            for piece in self._exchange.events(reply):
                if piece:
                    self._queue.put(piece)
            self._queue.put(None)
        except ClientGone:
            pass
        except RouterError as error:
            self._queue.put(error)
        except Exception as error:
            self._queue.put(errors.unexpected(error, self._exchange.request.request_id))
        finally:
            if isinstance(reply, Streamed):
                reply.chunks.close()

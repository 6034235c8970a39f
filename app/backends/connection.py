"""Use one connection to a backend.  urllib3 resolves the name and connects; this module writes and reads.  The
deadlines for connecting, sending and the first byte apply only here.
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import gevent.monkey
from urllib3.connection import HTTPConnection

from app import tuning
from app.backends.failures import HandshakeTimeout, SendTimeout
from app.backends.response import Response
from app.errors import PrivacyViolation
from app.routing.locality import is_local_address
from app.types import Timeouts

_SENT_AT_ONCE_BYTES = 256 * 1024
_READ_BYTES = 65536
_CLOSED_BY_PEER = (errno.EPIPE, errno.ECONNRESET, errno.EPROTOTYPE)  # the last one occurs on macOS
_poll = gevent.monkey.get_original("select", "poll")


class StaleConnection(ConnectionResetError):
    """Report that the server closed an idle connection before it answered this request."""


@dataclass(frozen=True, slots=True)
class Server:
    """Hold the address of a connection, and its limits."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    deadlines: Timeouts
    local_only: bool  # refuse to send a byte to an address that is not local, whatever the name is


class Connection:
    """Send requests to a server, one after the other.  The response before must be closed."""

    def __init__(self, server: Server, give_back: Callable[[Connection], None]) -> None:
        """`give_back` gets the connection when it can be used for another request."""
        self._server = server
        self._give_back = give_back
        self._sock: socket.socket | None = None
        self._response_count = 0

    def is_open(self) -> bool:
        """Return False when the server has closed the connection, or has sent data without a request.  It is called
        before each request, so it asks the kernel directly, without the event loop.
        """
        if self._sock is None:
            return False
        poll = _poll()
        poll.register(self._sock, select.POLLIN)
        return not poll.poll(0)

    def call(self, message: bytes) -> Response:
        """Send a request and return its response, whose head was read.

        Raise OSError (StaleConnection is one), urllib3's errors, and PrivacyViolation."""
        sock = self._sock or self._connect()
        response = Response(sock, self._release)
        try:
            self._send(sock, message, response)
            response.read_head(self._server.deadlines.first_byte_s)
        except EOFError as error:
            response.close()
            if self._response_count:
                raise StaleConnection("kept connection closed by the server") from error
            raise ConnectionResetError("closed by the server before it answered") from error
        except BaseException:
            response.close()
            raise
        self._response_count += 1
        return response

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _release(self, is_reusable: bool) -> None:
        if is_reusable:
            self._give_back(self)
        else:
            self.close()

    def _connect(self) -> socket.socket:
        server = self._server
        connection = HTTPConnection(server.host, server.port, timeout=server.deadlines.connect_s)
        connection.connect()
        sock: socket.socket = connection.sock
        try:
            if server.local_only and not is_local_address(sock.getpeername()[0]):
                raise PrivacyViolation("the name of this backend leads outside the local network: not called")
            if server.tls is not None:
                sock = server.tls.wrap_socket(sock, server_hostname=connection.host)
        except TimeoutError:
            sock.close()
            raise HandshakeTimeout from None
        except BaseException:
            sock.close()
            raise
        self._sock = sock
        return sock

    def _send(self, sock: socket.socket, message: bytes, response: Response) -> None:
        """Send a request.  When the server closes the connection meanwhile, its response can still be read."""
        sock.settimeout(self._server.deadlines.send_s)
        try:
            if len(message) <= _SENT_AT_ONCE_BYTES:
                tuning.send(sock, message)
            else:
                self._send_in_pieces(sock, memoryview(message), response)
        except TimeoutError:
            raise SendTimeout from None
        except ssl.SSLEOFError:
            return
        except OSError as error:
            if error.errno not in _CLOSED_BY_PEER:
                raise

    def _send_in_pieces(self, sock: socket.socket, rest: memoryview, response: Response) -> None:
        """Send a large request.  The deadline applies to each piece, so that a slow network can transfer it.  A
        server may refuse a request before it has read all of it, so its response is read meanwhile.
        """
        deadline_s = self._server.deadlines.send_s
        poll = select.poll()
        while rest:
            poll.register(sock, select.POLLOUT if response.status else select.POLLOUT | select.POLLIN)
            events = poll.poll(deadline_s * 1000)
            if not events:
                raise TimeoutError
            if events[0][1] & select.POLLIN:
                if _is_refused(sock, response):
                    response.early = True
                    return
            else:
                rest = rest[sock.send(rest[:_SENT_AT_ONCE_BYTES]) :]


def _is_refused(sock: socket.socket, response: Response) -> bool:
    """Read the data that the server sends before it has the whole request.  Return True when it closed the
    connection, or when its status is not 2xx."""
    deadline_s = sock.gettimeout()
    sock.settimeout(0)
    try:
        data = sock.recv(_READ_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False  # a record of TLS itself
    finally:
        sock.settimeout(deadline_s)
    if data:
        response.feed_head(data)
    return not data or response.status >= 300

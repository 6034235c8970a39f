"""Connections to one backend, kept and used again.

They are urllib3's (names, addresses, TLS, pools), but for the way a request is written and a response is read; and
they know when they died of old age, and can prove where they lead.
"""

from __future__ import annotations

import select
import socket
import ssl
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import gevent.monkey
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.backends.failures import AuthoritiesError, HandshakeTimeout, SendTimeout, causes
from app.backends.response import Response
from app.descriptors import MOST_CONNECTIONS, NONE_LEFT
from app.errors import PrivacyViolation
from app.routing.locality import is_local_address
from app.types import Timeouts

_POOL_SIZE = MOST_CONNECTIONS  # no more calls than that run at once
_SENT_AT_ONCE_BYTES = 256 * 1024
_READ_BYTES = 65536
_DEADLINES = Timeouts(connect_s=3.0, first_byte_s=120.0, idle_s=60.0)
_poll = gevent.monkey.get_original("select", "poll")


class StaleConnection(ConnectionResetError):
    """A connection that had answered before died before answering again: the server had closed it meanwhile."""


class _Lean(HTTPConnection):
    """urllib3's connection, with the request written in one piece and the response parsed in C.  It tells a kept
    connection that the server closed from a server that fell over at this request.

    Its deadlines to connect, to send and to the first byte are applied here and nowhere else."""

    answered = 0
    _response: Response | None = None  # begun while the request is still being sent

    def __init__(self, *arguments: Any, deadlines: Timeouts = _DEADLINES, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._deadlines = deadlines

    def connect(self) -> None:
        self.timeout = self._deadlines.connect_s
        super().connect()

    @property
    def is_connected(self) -> bool:
        """Not closed by the server.  Asked before each call, so the kernel is asked without gevent's detour."""
        if self.sock is None:
            return False
        poll = _poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def request(self, method: str, url: str, body: Any = None, headers: Any = None, **_options: Any) -> None:
        """Raises OSError, and urllib3's errors of connecting."""
        if self.sock is None:
            self.connect()
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {url} HTTP/1.1\r\nHost: {self._authority()}\r\nAccept-Encoding: identity\r\n{lines}\r\n"
        message = head.encode("latin-1") + (body or b"")
        self.sock.settimeout(self._deadlines.send_s)
        try:
            if len(message) <= _SENT_AT_ONCE_BYTES:
                self.sock.sendall(message)
            else:
                self._send_in_pieces(self.sock, memoryview(message))
        except TimeoutError:
            raise SendTimeout from None
        except ssl.SSLEOFError:
            raise BrokenPipeError from None  # so that urllib3 reads what the server said before it closed

    def _send_in_pieces(self, sock: Any, rest: memoryview) -> None:
        """Send a large request: each piece has the deadline anew, so that a slow uplink gets it through.  A server may
        refuse a request before it has read all of it, so its answer is read meanwhile."""
        response = self._response = Response(self)
        poll = select.poll()
        while rest:
            poll.register(sock, select.POLLOUT if response.status else select.POLLOUT | select.POLLIN)
            events = poll.poll(self._deadlines.send_s * 1000)
            if not events:
                raise TimeoutError
            if events[0][1] & select.POLLIN:
                if _is_refused(sock, response):
                    response.early = True
                    return
            else:
                rest = rest[sock.send(rest[:_SENT_AT_ONCE_BYTES]) :]

    def getresponse(self) -> Response:  # type: ignore[override]  # all that its pool asks of one
        """Its head is read.  Raises OSError and urllib3's ProtocolError."""
        reused = self.answered > 0
        response, self._response = self._response or Response(self), None
        try:
            response.read_head(self._deadlines.first_byte_s)
        except EOFError as error:
            response.close()
            if reused:
                raise StaleConnection("kept connection closed by the server") from error
            raise ConnectionResetError("closed by the server before it answered") from error
        except BaseException:
            response.close()
            raise
        self.answered += 1
        return response

    def close(self) -> None:
        self.answered, self._response = 0, None
        super().close()

    def _authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == self.default_port else f"{host}:{self.port}"


def _is_refused(sock: Any, response: Response) -> bool:
    """Read what the server sends while it is sent to.  True when it closed, or answers something other than 2xx."""
    before = sock.gettimeout()
    sock.settimeout(0)
    try:
        data = sock.recv(_READ_BYTES)
    except (BlockingIOError, ssl.SSLWantReadError):
        return False  # a record of TLS itself
    finally:
        sock.settimeout(before)
    if data:
        response.feed_head(data)
    return not data or response.status >= 300


class _LeanTLS(_Lean, HTTPSConnection):
    def connect(self) -> None:
        try:
            super().connect()
        except TimeoutError:
            raise HandshakeTimeout from None


class _Inside(_Lean):
    """Refuses to carry a byte to an address outside the operator's machine or network, whatever the name said."""

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        address = connected.getpeername()[0]
        if not is_local_address(address):
            connected.close()
            raise PrivacyViolation("the name of this backend leads outside the local network: not called")
        return connected


class _InsideTLS(_Inside, _LeanTLS):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls: Any = _Lean  # its pool's protocol wants more of a response than it asks for

    def give_back(self, connection: Any) -> None:
        """To be used again, if it is still open."""
        self._put_conn(connection)


class _TLSPool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls: Any = _LeanTLS


class _InsidePool(_Pool):
    ConnectionCls: Any = _Inside


class _InsideTLSPool(_TLSPool):
    ConnectionCls: Any = _InsideTLS


class Connections(HTTPAdapter):
    """requests' adapter for one backend, without what it does anew for each call: finding the pool, setting up TLS,
    and collecting cookies."""

    def __init__(self, endpoint: str, timeouts: Timeouts, authorities: str = "", *, inside_only: bool = False) -> None:
        """`authorities`: a file of certificates to trust, instead of the public ones."""
        super().__init__(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)  # retries are the dispatcher's
        self._endpoint = endpoint
        self._verify: bool | str = authorities or True
        self._origin_chars = len(endpoint) - len(urlsplit(endpoint).path)
        self._deadlines = timeouts
        pools = (_InsidePool, _InsideTLSPool) if inside_only else (_Pool, _TLSPool)
        self.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))
        self._pool: urllib3.HTTPConnectionPool | None = None

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """Its head has come; its body is still to be read.  No redirect is followed.  Raises requests' errors,
        StaleConnection somewhere among their causes."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._endpoint + path, body
        request.headers = headers  # type: ignore[assignment]  # a plain dict is all that is read
        try:
            sent = self.send(request, stream=True, verify=self._verify)
        except Exception as error:
            _clear_frames(error)
            raise
        return cast(Response, sent)

    def forget(self) -> None:
        """Closes the connections that are kept: now, not when the pool is found to be garbage."""
        pool, self._pool = self._pool, None
        self.poolmanager.clear()
        if pool is not None:
            pool.close()

    def close(self) -> None:
        self.forget()
        super().close()

    # --- what requests asks for each call ---

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        if self._pool is None:
            if isinstance(verify, str) and self._endpoint.startswith("https:"):
                _check_authorities(Path(verify))
            pool: Any = super().get_connection_with_tls_context(request, verify, proxies, cert)
            super().cert_verify(pool, self._endpoint, verify, cert)  # type: ignore[no-untyped-call]
            pool.conn_kw["deadlines"] = self._deadlines
            self._pool = pool
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Done when the pool was made."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:  # noqa: ARG002
        return str(request.url)[self._origin_chars :]

    def build_response(self, req: Any, resp: Any) -> Any:  # noqa: ARG002
        """Return it as it is: nobody here reads what requests would put around it."""
        return resp


def _check_authorities(path: Path) -> None:
    """Raise AuthoritiesError, which says why the file cannot be used.  A folder holds a certificate in each file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if not path.is_dir():
            context.load_verify_locations(path)
    except ssl.SSLError:
        raise AuthoritiesError(f"{path}, which holds no certificate in PEM form") from None
    except OSError as error:
        if error.errno in NONE_LEFT:
            raise
        raise AuthoritiesError(f"{path}: {(error.strerror or 'it cannot be read').lower()}") from None


def _clear_frames(error: Exception) -> None:
    """Urllib3's frames hold the error that holds them, and with them the request, until the garbage collector looks."""
    for cause in causes(error):
        traceback.clear_frames(cause.__traceback__)

"""Connections to one backend, kept and used again.

They are urllib3's, with two additions: they know when they died of old age, and they can prove where they lead.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Callable, Mapping
from http.client import RemoteDisconnected
from typing import Any, cast
from urllib.parse import urlsplit

import gevent.monkey
import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.errors import PrivacyViolation
from app.routing.locality import is_inside
from app.types import Timeouts

_POOL_SIZE = 1000  # gunicorn's worker_connections: no more calls than that run at once
_CORK = getattr(socket, "TCP_CORK", None)  # Linux


class StaleConnection(ConnectionResetError):
    """A connection that had answered before died before answering again: the server had closed it meanwhile."""


class _Reused(HTTPConnection):
    """Tells a kept connection that the server closed from a server that fell over at this request."""

    answered = 0

    @property
    def is_connected(self) -> bool:
        """Not closed by the server.  Asked before each call, so the kernel is asked without gevent's detour."""
        if self.sock is None:
            return False
        poll = gevent.monkey.get_original("select", "poll")()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def request(self, *arguments: Any, **options: Any) -> None:
        if self.sock is None:
            self.connect()
        let_go = hold_back(self.sock)
        try:
            super().request(*arguments, **options)
        finally:
            let_go()

    def getresponse(self) -> urllib3.HTTPResponse:  # type: ignore[override]
        reused = self.answered > 0  # asked now: http.client closes the connection before it raises
        try:
            response = super().getresponse()
        except (RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            if reused:
                raise StaleConnection("kept connection closed by the server") from error
            raise
        self.answered += 1
        return response

    def close(self) -> None:
        self.answered = 0
        super().close()


class _ReusedTLS(_Reused, HTTPSConnection):
    pass


class _Inside(_Reused):
    """Refuses to carry a byte to an address outside the operator's machine or network, whatever the name said."""

    def _new_conn(self) -> socket.socket:
        connected = super()._new_conn()
        address = connected.getpeername()[0]
        if not is_inside(address):
            connected.close()
            raise PrivacyViolation("the name of this backend leads outside the local network: not called")
        return connected


class _InsideTLS(_Inside, HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Reused


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _ReusedTLS


class _InsidePool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Inside


class _InsideTLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _InsideTLS


class Connections(HTTPAdapter):
    """requests' adapter for one backend, without what it does anew for each call: finding the pool, setting up TLS,
    and collecting cookies."""

    def __init__(self, endpoint: str, timeouts: Timeouts, *, inside_only: bool = False) -> None:
        super().__init__(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)  # retries are the dispatcher's
        self._endpoint = endpoint
        self._origin_chars = len(endpoint) - len(urlsplit(endpoint).path)
        self._timeout = urllib3.Timeout(connect=timeouts.connect_s, read=timeouts.first_byte_s)
        pools = (_InsidePool, _InsideTLSPool) if inside_only else (_Pool, _TLSPool)
        self.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))
        self._pool: urllib3.HTTPConnectionPool | None = None

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer's head; its body is still to be read.  No redirect is followed.  Raises requests' errors,
        StaleConnection somewhere among their causes."""
        request = requests.PreparedRequest()
        request.method, request.url, request.body = method, self._endpoint + path, body
        request.headers = headers  # type: ignore[assignment]  # a plain dict is all that is read
        answer = self.send(request, stream=True, timeout=self._timeout)  # type: ignore[arg-type]  # urllib3's own is read too
        return cast(urllib3.BaseHTTPResponse, answer.raw)

    def forget(self) -> None:
        """Closes the connections that are kept."""
        self.poolmanager.clear()
        self._pool = None

    # --- what requests asks for each call ---

    def get_connection_with_tls_context(self, request: Any, verify: Any, proxies: Any = None, cert: Any = None) -> Any:
        if self._pool is None:
            pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
            super().cert_verify(pool, self._endpoint, verify, cert)  # type: ignore[no-untyped-call]
            self._pool = cast(urllib3.HTTPConnectionPool, pool)
        return self._pool

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Done when the pool was made."""

    def request_url(self, request: requests.PreparedRequest, proxies: Any) -> str:  # noqa: ARG002
        return str(request.url)[self._origin_chars :]

    def build_response(self, req: Any, resp: Any) -> requests.Response:  # noqa: ARG002
        response = requests.Response()
        response.raw = resp
        return response


def hold_back(sock: Any) -> Callable[[], None]:
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


def set_read_timeout(raw: Any, seconds: float) -> None:
    """Bounds each further read of a response body.  The socket is found through http.client's file object, which
    holds it also when the connection will not be kept."""
    reader = getattr(getattr(raw, "_fp", None), "fp", None)
    sock = getattr(getattr(reader, "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(max(seconds, 0.001))

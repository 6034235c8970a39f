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
_NEVER = urllib3.Retry(False)  # nothing is sent twice by urllib3: retries are ours and the dispatcher's
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


class Connections:
    """The connections to one backend."""

    def __init__(self, endpoint: str, timeouts: Timeouts, *, inside_only: bool = False) -> None:
        self._endpoint = endpoint
        self._path = urlsplit(endpoint).path
        self._timeout = urllib3.Timeout(connect=timeouts.connect_s, read=timeouts.first_byte_s)
        self._adapter = HTTPAdapter(pool_connections=2, pool_maxsize=_POOL_SIZE)
        pools = (_InsidePool, _InsideTLSPool) if inside_only else (_Pool, _TLSPool)
        self._adapter.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))
        self._pool: urllib3.HTTPConnectionPool | None = None

    def send(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> urllib3.BaseHTTPResponse:
        """The answer's head; its body is still to be read.  No redirect is followed.  Raises urllib3's errors,
        StaleConnection somewhere among their causes, and OSError."""
        if self._pool is None:
            self._pool = self._open()
        return self._pool.urlopen(
            method,
            self._path + path,
            body=body,
            headers=headers,
            timeout=self._timeout,
            retries=_NEVER,
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )

    def forget(self) -> None:
        """Closes the connections that are kept."""
        self._adapter.poolmanager.clear()
        self._pool = None

    def close(self) -> None:
        self._adapter.close()
        self._pool = None

    def _open(self) -> urllib3.HTTPConnectionPool:
        """requests' adapter knows how to verify a server; what else it does for each call is not wanted here."""
        somewhere = requests.PreparedRequest()
        somewhere.url = self._endpoint
        pool = self._adapter.get_connection_with_tls_context(somewhere, verify=True)
        self._adapter.cert_verify(pool, self._endpoint, verify=True, cert=None)  # type: ignore[no-untyped-call]
        return cast(urllib3.HTTPConnectionPool, pool)


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

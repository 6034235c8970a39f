"""urllib3 connections with two additions: they know when they died of old age, and they can prove where they lead."""

from __future__ import annotations

import socket
from http.client import RemoteDisconnected
from typing import Any

import urllib3
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.errors import PrivacyViolation
from app.routing.locality import is_inside

_POOL_SIZE = 1000  # gunicorn's worker_connections: no more calls than that run at once


class StaleConnection(ConnectionResetError):
    """A connection that had answered before died before answering again: the server had closed it meanwhile."""


class _Reused(HTTPConnection):
    """Tells a kept connection that the server closed from a server that fell over at this request."""

    answered = 0

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


def adapter(*, inside_only: bool = False) -> HTTPAdapter:
    """A connection pool for one backend.  Nothing is ever sent twice by it: retries are the dispatcher's."""
    made = HTTPAdapter(pool_connections=2, pool_maxsize=_POOL_SIZE, max_retries=0)
    pools = (_InsidePool, _InsideTLSPool) if inside_only else (_Pool, _TLSPool)
    made.poolmanager.pool_classes_by_scheme = dict(zip(("http", "https"), pools, strict=True))
    return made


def set_read_timeout(raw: Any, seconds: float) -> None:
    """Bounds each further read of a response body.  The socket is found through http.client's file object, which
    holds it also when the connection will not be kept."""
    reader = getattr(getattr(raw, "_fp", None), "fp", None)
    sock = getattr(getattr(reader, "raw", None), "_sock", None)
    if sock is not None:
        sock.settimeout(max(seconds, 0.001))

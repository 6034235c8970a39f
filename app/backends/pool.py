"""Keep idle connections to one backend for the next requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property

from requests.utils import requote_uri
from urllib3.connection import port_by_scheme
from urllib3.util import Url, parse_url

from app.backends.connection import Connection, Server
from app.backends.response import Response
from app.backends.tls import client_context
from app.descriptors import MOST_CONNECTIONS
from app.types import Timeouts

_MAX_IDLE = MOST_CONNECTIONS  # a worker runs at most this number of calls
_is_plain = re.compile(r"[!-~]*").fullmatch  # printable ASCII


class ConnectionPool:
    """Call one backend, without cookies, redirects, proxies and retries.  The connection that was used last is used
    first, so that unneeded ones become old and are closed.
    """

    def __init__(self, endpoint: str, timeouts: Timeouts, authorities: str = "", *, local_only: bool = False) -> None:
        """`authorities` is a file of certificates to trust instead of the public ones."""
        self.timeouts = timeouts
        self._endpoint = endpoint
        self._authorities = authorities
        self._local_only = local_only
        self._idle: list[Connection] = []
        self._is_closed = False

    def call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> Response:
        """Send a request and return its response, whose head was read; the caller closes it.

        Raise OSError (StaleConnection is one), urllib3's errors, and PrivacyViolation.
        """
        target = self._base_path + (path if _is_plain(path) else requote_uri(path))
        lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        head = f"{method} {target} HTTP/1.1\r\n{self._own_headers}{lines}\r\n"
        return self._take().call(head.encode("latin-1") + (body or b""))

    def forget(self) -> None:
        """Close the idle connections."""
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def close(self) -> None:
        """Close the idle connections, and the others as soon as they are released."""
        self._is_closed = True
        self.forget()

    @cached_property
    def _url(self) -> Url:
        return parse_url(self._endpoint)

    @cached_property
    def _default_port(self) -> int:
        return port_by_scheme[self._url.scheme or "http"]

    @cached_property
    def _base_path(self) -> str:
        return (self._url.path or "").rstrip("/")

    @cached_property
    def _own_headers(self) -> str:
        host = (self._url.host or "").rstrip(".")
        port = "" if self._url.port in (None, self._default_port) else f":{self._url.port}"
        return f"Host: {host}{port}\r\nAccept-Encoding: identity\r\n"

    @cached_property
    def _server(self) -> Server:
        """Create the server at the first call.  While its certificate authorities cannot be read, each call reports
        why."""
        return Server(
            host=(self._url.host or "").strip("[]"),
            port=self._url.port or self._default_port,
            tls=client_context(self._authorities) if self._url.scheme == "https" else None,
            deadlines=self.timeouts,
            local_only=self._local_only,
        )

    def _take(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open():
                return connection
            connection.close()
        return Connection(self._server, self._give_back)

    def _give_back(self, connection: Connection) -> None:
        if self._is_closed or len(self._idle) >= _MAX_IDLE:
            connection.close()
        else:
            self._idle.append(connection)

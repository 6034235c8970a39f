"""Convert one HTTP request and its response to WSGI (PEP 3333).

gunicorn's own versions also serve HTTP/2, files, hooks and an access log.  The router uses none of these, and they
cost more CPU than the rest.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from types import TracebackType
from urllib.parse import unquote_to_bytes

from gunicorn.http import errors
from gunicorn.http.message import Request

from app import tuning

_JOINED_BYTES = 64 * 1024  # a longer first piece is sent after the head, without a copy
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

Environ = dict[str, object]
ExcInfo = tuple[type[BaseException], BaseException, TracebackType]


def environ_of(request: Request, sock: socket.socket, client: tuple[str, int], server: tuple[str, int]) -> Environ:
    """Return the WSGI environment of a request.  Send `100 Continue` to a client that waits for it."""
    environ: Environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(request.path).decode("latin-1") if "%" in request.path else request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": request.uri,
        "SERVER_PROTOCOL": f"HTTP/{request.version[0]}.{request.version[1]}",
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1]),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": request.scheme,
        "wsgi.input": request.body,
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "gunicorn.socket": sock,
    }
    for name, value in request.headers:
        if name == "SCRIPT_NAME":
            raise errors.InvalidHeaderName(name)  # this header would change the paths
        key = name.replace("-", "_")
        if name not in ("CONTENT-TYPE", "CONTENT-LENGTH"):
            key = f"HTTP_{key}"
        environ[key] = f"{environ[key]},{value}" if key in environ else value
    if request.version >= (1, 1) and "HTTP_EXPECT" in environ:  # gunicorn refuses other values than 100-continue
        sock.sendall(_CONTINUE)
    return environ


class Response:
    """Write a response: its head in one packet with the first piece of the body, which wakes the client once."""

    def __init__(self, request: Request, sock: socket.socket, *, is_last: bool) -> None:
        """`is_last`: the connection is closed after this response."""
        self.closes = is_last or request.should_close()
        self.is_begun = False  # a part of it was sent
        self._request = request
        self._sock = sock
        self._head = b""
        self._has_body = True
        self._is_chunked = False

    def start(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """Take the status and the headers, as `start_response` of WSGI."""
        if exc_info is not None and self.is_begun:
            raise exc_info[1].with_traceback(exc_info[2])
        version = self._request.version
        code = int(status[:3])
        self._has_body = self._request.method != "HEAD" and code not in (204, 304)
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        self._is_chunked = self._has_body and not has_length and version >= (1, 1)
        self.closes = self.closes or (self._has_body and not has_length and not self._is_chunked)
        lines = [
            f"HTTP/{version[0]}.{version[1]} {status}",
            f"Server: gunicorn\r\nDate: {_date(int(time.time()))}",
            f"Connection: {'close' if self.closes else 'keep-alive'}",
            *(("Transfer-Encoding: chunked",) if self._is_chunked else ()),
            *(f"{name}: {value}" for name, value in headers),
        ]
        if any("\r" in value or "\n" in value for _, value in headers):
            raise ValueError("a header of the response holds a line break")
        self._head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        return self.write

    def write(self, piece: bytes) -> None:
        """Send a piece of the body; an empty one sends nothing."""
        if not piece or not self._has_body:
            return
        if self._is_chunked:
            piece = b"%X\r\n%b\r\n" % (len(piece), piece)
        self._flush(piece)

    def end(self) -> None:
        self._flush(b"0\r\n\r\n" if self._is_chunked else b"")

    def _flush(self, data: bytes) -> None:
        head, self._head = self._head, b""
        self.is_begun = True
        if head and len(data) > _JOINED_BYTES:
            tuning.send(self._sock, head)
            head = b""
        if head or data:
            tuning.send(self._sock, head + data)


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    return formatdate(second, usegmt=True)

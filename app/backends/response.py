"""An HTTP response as it arrives: parsed in C by llhttp (httptools), framing and decoding undone."""

from __future__ import annotations

import ssl
import time
import zlib
from typing import Any, Protocol

import gevent.socket
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from urllib3.connection import HTTPConnection
from urllib3.exceptions import DecodeError, ProtocolError

_PIECE_BYTES = 65536
_TLS_ALERT = b"\x15\x03"  # RFC 8446, 5.1: the type of the record, and the version's first byte
_MUCH_BYTES = 16384
_MOST_HEAD_BYTES = 256 * 1024
_MOST_FRAMING_BYTES = 256 * 1024  # chunk sizes and trailers that come without a byte of the body
_MOST_JOINED_CHARS = 1000  # of a header that comes again and again
_MOST_INFLATED_BYTES = 1024 * 1024  # at once: a small piece may hold a bomb
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
# What http.client reads too: servers at home are not always strict, and the operator chose them.
_LENIENT = {"lenient_headers": True, "lenient_optional_cr_before_lf": True, "lenient_data_after_close": True}


class TLSAnswered(ProtocolError):
    """A TLS alert came in answer to a plain request."""


class Pool(Protocol):
    """Where a connection goes back to."""

    def give_back(self, connection: Any) -> None: ...


class Response:
    """Status and headers (by lower-case name) once `read_head` returned, then the body, piece by piece.

    Whoever has one closes it: the connection goes back to its pool, still open when all was read.
    """

    # urllib3 sets the first three and reads the others.
    retries: Any = None
    _connection: Any = None
    _pool: Pool | None = None
    version_string = "HTTP/1.1"
    length_remaining = None

    def __init__(self, connection: HTTPConnection) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self._from = connection
        self._sock = connection.sock  # the connection forgets its own when it is closed
        self._parser = HttpResponseParser(self)
        self._parser.set_dangerous_leniencies(**_LENIENT)
        self._head_bytes = 0
        self._pieces: list[bytes] = []
        self._inflate: Any = None
        self._broken: ProtocolError | None = None  # told when all that came before it was read
        self.first_byte_by = 0.0  # monotonic s: when the head, of a stream also its first event, must have come
        self.early = False  # it came before the whole request was sent: the connection cannot carry another
        self._ended = False  # all of it has come
        self._keep = False  # and the connection may carry another
        self._closed = False

    def read_head(self, within_s: float) -> None:
        """Raises OSError, ProtocolError, and EOFError when the server closed without a word."""
        self.first_byte_by = time.monotonic() + within_s
        if not self._head_bytes and not isinstance(self._sock, ssl.SSLSocket):  # TLS may hold what the kernel gave away
            # Ask the event loop, not the socket: when the response is there already the other requests get their turn.
            gevent.socket.wait_read(self._sock.fileno(), within_s, TimeoutError())
        while not self.status:
            try:
                data = self._receive(self.first_byte_by)
            except (ConnectionResetError, BrokenPipeError):
                data = b""
            if not data and not self._head_bytes:
                raise EOFError
            self.feed_head(data)
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflate = zlib.decompressobj(_ZLIB_OR_GZIP)
        elif encoding not in ("identity", ""):
            raise ProtocolError("the response is compressed in a way that was not asked for")

    def feed_head(self, data: bytes) -> None:
        """Read a piece of the head; b"" is the end of the connection.  Raises ProtocolError."""
        if not self._head_bytes and data.startswith(_TLS_ALERT):
            raise TLSAnswered("a TLS server answers there")
        self._head_bytes += len(data)
        if not data or self._head_bytes > _MOST_HEAD_BYTES:
            raise ProtocolError("the head of the response does not end")
        self._feed(data)
        if self._broken and not self.status:
            raise self._broken

    def read(self, within_s: float) -> bytes:
        """What has come of the body, else what comes next; b"" at its end.  Raises OSError, TimeoutError when nothing
        has come within `within_s`, and urllib3's errors for a body that breaks off or cannot be decoded."""
        until = time.monotonic() + within_s
        received = 0
        while True:
            if self._pieces:
                piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
                self._pieces = []
                if self._inflate is None:
                    return piece
                if piece := self._inflated(piece):
                    return piece
            elif self._broken:
                raise self._broken
            elif self._ended:
                if self._inflate is not None and not self._inflate.eof:
                    raise DecodeError("the compressed response breaks off")
                return b""
            elif received > _MOST_FRAMING_BYTES:
                raise ProtocolError("the response goes on and on without a byte of its body")
            else:
                data = self._receive(until)
                received += len(data)
                self._feed(data)

    def close(self) -> None:
        """A response that was not read to its end takes its connection with it."""
        if self._closed:
            return
        self._closed = True
        del self._parser  # the two hold each other: nobody shall have to look for them
        if self.early or not (self._ended and self._keep):
            self._from.close()
        if self._pool is not None:
            self._pool.give_back(self._from)

    def _receive(self, until: float) -> bytes:
        """Some bytes, b"" at the end of the connection; TimeoutError at `until`, however many have come before."""
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        data: bytes = self._sock.recv(_PIECE_BYTES)
        if len(data) > _MUCH_BYTES:
            time.sleep(0)  # from a fast sender there is always more: the other requests' turn
        return data

    def _feed(self, data: bytes) -> None:
        if not data:
            self._hung_up()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._keep = False
            if not self._ended:  # else something came behind the end: nobody reads it
                self._broken = ProtocolError(f"the response breaks the rules of HTTP: {error}")

    def _hung_up(self) -> None:
        """The end of the connection is the end of a body whose length nobody told."""
        if "content-length" in self.headers or "chunked" in self.headers.get("transfer-encoding", "").lower():
            raise ProtocolError("the response breaks off")
        self._ended, self._keep = True, False

    def _inflated(self, piece: bytes) -> bytes:
        if self._inflate.eof:
            return b""  # what stands behind the end of the compressed data
        try:
            inflated: bytes = self._inflate.decompress(self._inflate.unconsumed_tail + piece, _MOST_INFLATED_BYTES)
        except zlib.error:
            raise DecodeError("the compressed response cannot be decoded") from None
        if self._inflate.unconsumed_tail:
            self._pieces.append(b"")  # there is more of it
        return inflated

    # --- what the parser calls ---

    def on_message_begin(self) -> None:
        if self._ended:
            self._keep = False  # a response that nobody asked for

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.status:  # else a trailer
            key, text = name.decode("latin-1").lower(), value.decode("latin-1")
            known = self.headers.get(key)
            self.headers[key] = text if known is None else f"{known}, {text}"[:_MOST_JOINED_CHARS]

    def on_headers_complete(self) -> None:
        if self._ended:
            return
        status = self._parser.get_status_code()
        if status < 200:
            self.headers.clear()  # an interim response
        else:
            self.status = status

    def on_body(self, data: bytes) -> None:
        if not self._ended:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.status and not self._ended:
            self._ended = True
            self._keep = self._parser.should_keep_alive()

"""Read an HTTP response while it arrives."""

from __future__ import annotations

import socket
import ssl
import time
import zlib
from collections.abc import Callable
from typing import Protocol

import gevent.socket
from urllib3.exceptions import DecodeError, ProtocolError

from app.backends.http_parser import ResponseParser

_PIECE_BYTES = 65536
_LARGE_PIECE_BYTES = 16384
_MAX_HEAD_BYTES = 256 * 1024
_MAX_FRAMING_BYTES = 256 * 1024  # chunk sizes and trailers without a byte of the body
_MAX_INFLATED_BYTES = 1024 * 1024  # of one piece: a small piece may expand to a very large one
_ZLIB_OR_GZIP = 32 + zlib.MAX_WBITS
_TLS_ALERT = b"\x15\x03"  # RFC 8446, 5.1: the type of the record, and the first byte of the version


class Inflater(Protocol):
    """Describe the objects that zlib.decompressobj returns."""

    @property
    def eof(self) -> bool: ...

    @property
    def unconsumed_tail(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class TLSAnswered(ProtocolError):
    """Report that the server answered an HTTP request with a TLS alert."""


class Response:
    """Hold the status and the headers (by lower-case name) after `read_head`, then read the body piece by piece.
    The owner closes it.  This releases the connection, which can be used again when the body was read to its end.
    """

    def __init__(self, sock: socket.socket, release: Callable[[bool], None]) -> None:
        """`release` gets the connection, and True when it can be used for another request."""
        self.status = 0  # 0 = the head is not complete
        self.headers: dict[str, str] = {}
        self.first_byte_by = 0.0  # monotonic s: deadline for the head, and for the first event of a stream
        self.early = False  # it arrived before the whole request was sent, so the connection cannot be used again
        self._sock = sock
        self._release = release
        self._parser = ResponseParser()
        self._head_bytes = 0
        self._inflater: Inflater | None = None
        self._is_closed = False

    def read_head(self, within_s: float) -> None:
        """Raise OSError, ProtocolError, or EOFError when the server closed the connection without a byte."""
        self.first_byte_by = time.monotonic() + within_s
        if not self._head_bytes and not isinstance(self._sock, ssl.SSLSocket):  # TLS may have read it ahead
            # Wait in the event loop, even when the response has already arrived, so that other requests get their turn.
            gevent.socket.wait_read(self._sock.fileno(), within_s, TimeoutError())
        while not self.status:
            try:
                data = self._receive(self.first_byte_by)
            except (ConnectionResetError, BrokenPipeError):
                data = b""
            if not data and not self._head_bytes:
                raise EOFError
            self.feed_head(data)
        self.headers = self._parser.headers
        encoding = self.headers.get("content-encoding", "identity").lower()
        if encoding in ("gzip", "x-gzip", "deflate"):
            self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
        elif encoding not in ("identity", ""):
            raise ProtocolError("the response is compressed in a way that was not asked for")

    def feed_head(self, data: bytes) -> None:
        """Parse a piece of the head; b"" is the end of the connection.  Raise ProtocolError."""
        if not self._head_bytes and data.startswith(_TLS_ALERT):
            raise TLSAnswered("a TLS server answers there")
        self._head_bytes += len(data)
        if not data or self._head_bytes > _MAX_HEAD_BYTES:
            raise ProtocolError("the head of the response does not end")
        parser = self._parser
        parser.feed(data)
        self.status = parser.status
        if parser.error and not parser.status:
            raise parser.error

    def read(self, within_s: float) -> bytes:
        """Return the next piece of the body, decoded; b"" at its end.

        Raise OSError, TimeoutError when nothing came within `within_s`, and urllib3's errors for a body that breaks off
        or cannot be decoded.
        """
        parser = self._parser
        until = time.monotonic() + within_s
        received_bytes = 0
        while True:
            piece = parser.take()
            if self._inflater is not None:
                piece = _inflate(self._inflater, piece)
            if piece:
                return piece
            if parser.error:
                raise parser.error
            if parser.is_complete:
                if self._inflater is not None and not self._inflater.eof:
                    raise DecodeError("the compressed response breaks off")
                return b""
            if received_bytes > _MAX_FRAMING_BYTES:
                raise ProtocolError("the response goes on and on without a byte of its body")
            data = self._receive(until)
            received_bytes += len(data)
            parser.feed(data)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        parser = self._parser
        parser.close()
        self._release(parser.is_complete and parser.keeps_alive and not self.early)

    def _receive(self, until: float) -> bytes:
        """Return some bytes, b"" at the end of the connection.  Raise TimeoutError at `until` (monotonic s)."""
        left_s = until - time.monotonic()
        if left_s <= 0:
            raise TimeoutError
        self._sock.settimeout(left_s)
        data = self._sock.recv(_PIECE_BYTES)
        if len(data) > _LARGE_PIECE_BYTES:
            time.sleep(0)  # a fast sender always has more data: let other requests run
        return data


def _inflate(inflater: Inflater, piece: bytes) -> bytes:
    data = inflater.unconsumed_tail + piece
    if inflater.eof or not data:  # data after the end of the compressed data is ignored
        return b""
    try:
        return inflater.decompress(data, _MAX_INFLATED_BYTES)
    except zlib.error:
        raise DecodeError("the compressed response cannot be decoded") from None

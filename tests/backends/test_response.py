"""What is read from a backend's connection, however it is cut into packets."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator

import pytest
from urllib3.exceptions import DecodeError, HTTPError, ProtocolError

from app.backends.reply import Stream
from app.backends.response import Response
from app.errors import BackendProtocol
from app.types import BackendConfig, Timeouts, Wire

OK = b"HTTP/1.1 200 OK\r\n"
EVENT = b'data: {"choices": []}\n\n'
BOMB = gzip.compress(b"\0" * 50_000_000)


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


def opened(ours: socket.socket) -> tuple[Response, list[bool]]:
    """Return a response, and what it says of its connection when it releases it: may it be used again?"""
    released: list[bool] = []
    return Response(ours, released.append), released


def body_of(response: Response) -> bytes:
    pieces = []
    while piece := response.read(1):
        pieces.append(piece)
    return b"".join(pieces)


# name: what arrives, whether the connection ends behind it, the body, whether the connection is kept
WELL = {
    "length": (OK + b"Content-Length: 2\r\n\r\nhi", False, b"hi", True),
    "empty": (OK + b"Content-Length: 0\r\n\r\n", False, b"", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", False, b"", True),
    "chunked": (OK + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhi\r\n1\r\n!\r\n0\r\n\r\n", False, b"hi!", True),
    "trailers": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\n\r\n", False, b"hi", True),
    "said to close": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi", False, b"hi", False),
    "until the end": (OK + b"\r\nhi", True, b"hi", False),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nhi", True, b"hi", False),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", False, b"hi", False),
    "interim": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        False,
        b"hi",
        True,
    ),
    "bare line feeds": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", False, b"hi", True),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nhi", False, b"hi", True),
    "a second response": (
        OK + b"Content-Length: 2\r\n\r\nhi" + OK + b"Content-Length: 2\r\n\r\nno",
        False,
        b"hi",
        False,
    ),
    "rubbish behind the end": (OK + b"Content-Length: 2\r\n\r\nhirubbish", False, b"hi", False),
    "beyond ASCII in a header": (OK + b"X: caf\xc3\xa9\r\nContent-Length: 2\r\n\r\nhi", False, b"hi", True),
    "gzip": (OK + b"Content-Encoding: gzip\r\nContent-Length: 22\r\n\r\n" + gzip.compress(b"hi"), False, b"hi", True),
    "deflate": (
        OK + b"Content-Encoding: deflate\r\nContent-Length: 10\r\n\r\n" + zlib.compress(b"hi"),
        False,
        b"hi",
        True,
    ),
}


@pytest.mark.parametrize("bytewise", [False, True], ids=["one packet", "byte by byte"])
@pytest.mark.parametrize("name", WELL)
def test_a_body(ends: tuple[socket.socket, socket.socket], name: str, bytewise: bool) -> None:
    ours, theirs = ends
    arriving, hangs_up, body, kept = WELL[name]
    response, released = opened(ours)
    if bytewise:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        response._parser = _Bytewise(response._parser)  # type: ignore[assignment]
    theirs.sendall(arriving)
    if hangs_up:
        theirs.shutdown(socket.SHUT_WR)
    response.read_head(1)
    assert response.status in (200, 204)
    assert body_of(response) == body
    response.close()
    response.close()
    assert released == [kept]


class _Bytewise:
    """Feeds a parser one byte at a time."""

    def __init__(self, parser: object) -> None:
        self._parser = parser

    def feed(self, data: bytes) -> None:
        for at in range(len(data)):
            self._parser.feed(data[at : at + 1])  # type: ignore[attr-defined]
        if not data:
            self._parser.feed(data)  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> object:
        return getattr(self._parser, name)


# name: what arrives before the connection ends, what is read before the error
BROKEN = {
    "short of its length": (OK + b"Content-Length: 9\r\n\r\nhi", b"hi"),
    "no last chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n", b"hi"),
    "half a chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nhi", b"hi"),
    "a bad chunk behind a good one": (OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\nzz\r\nno", b"hi"),
    "no gzip": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", b""),
    "half a gzip": (OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"hi")[:-4], b"hi"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_body_that_breaks_off(ends: tuple[socket.socket, socket.socket], name: str) -> None:
    """All that came well is read first."""
    ours, theirs = ends
    arriving, good = BROKEN[name]
    response, released = opened(ours)
    theirs.sendall(arriving)
    theirs.shutdown(socket.SHUT_WR)
    response.read_head(1)
    read = b""
    with pytest.raises((ProtocolError, DecodeError)):
        while piece := response.read(1):
            read += piece
    assert read == good
    response.close()
    assert released == [name == "no gzip"]  # which came whole


HEADS = {
    "not HTTP": b"SSH-2.0-OpenSSH\r\n",
    "breaks off": b"HTTP/1.1 200 OK\r\nContent-Le",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no end": OK + b"X: y\r\n" * 100_000,
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a compression nobody asked for": OK + b"Content-Encoding: zstd\r\n\r\n",
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_cannot_be_read(ends: tuple[socket.socket, socket.socket], name: str) -> None:
    ours, theirs = ends
    ours.settimeout(1)
    theirs.setblocking(False)
    response, _ = opened(ours)
    sent = theirs.send(HEADS[name])
    if sent == len(HEADS[name]):
        theirs.shutdown(socket.SHUT_WR)
    with pytest.raises((HTTPError, TimeoutError)):
        response.read_head(0.5)


def test_nothing_at_all(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.shutdown(socket.SHUT_WR)
    with pytest.raises(EOFError):
        opened(ours)[0].read_head(1)


def test_headers_are_joined_and_found_by_lower_case_names(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(OK + b"Retry-After: 1\r\nX-Two: a\r\nx-two: b\r\nContent-Length: 0\r\n\r\n")
    response, _ = opened(ours)
    response.read_head(1)
    assert response.headers == {"retry-after": "1", "x-two": "a, b", "content-length": "0"}


def test_a_bomb_is_unpacked_bit_by_bit(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB))
    response, _ = opened(ours)
    response.read_head(1)
    theirs.sendall(BOMB)
    size = 0
    while piece := response.read(1):
        assert len(piece) <= 1024 * 1024
        size += len(piece)
    assert size == 50_000_000


def test_a_response_left_unread_closes_its_connection(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.sendall(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
    response, released = opened(ours)
    response.read_head(1)
    assert response.read(1) == b"hi"
    response.close()
    assert released == [False]


# --- what does not end --------------------------------------------------------------------------


@pytest.fixture
def flood(ends: tuple[socket.socket, socket.socket]) -> Iterator[Callable[[bytes, bytes], Response]]:
    """A response whose head came; then the same bytes come as fast as they are read, until somebody hangs up."""
    ours, theirs = ends
    threads = []

    def begin(head: bytes, again: bytes) -> Response:
        def send() -> None:
            with contextlib.suppress(OSError):
                theirs.sendall(head)
                while True:
                    theirs.sendall(again)

        threads.append(threading.Thread(target=send))
        threads[0].start()
        response, _ = opened(ours)
        response.read_head(5)
        return response

    yield begin
    theirs.shutdown(socket.SHUT_RDWR)
    threads[0].join(5)
    assert not threads[0].is_alive()


CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    "head, again",
    [(CHUNKED + b"0\r\n", b"X: y\r\n" * 1000), (CHUNKED + b"0\r\nX: ", b"y" * 1000), (CHUNKED + b"5;", b"x" * 1000)],
    ids=["trailers", "a trailer", "a chunk extension"],
)
def test_framing_without_an_end(flood: Callable[[bytes, bytes], Response], head: bytes, again: bytes) -> None:
    """It would keep the worker busy, and grow, until the deadline."""
    response = flood(head, again)
    with pytest.raises(ProtocolError, match="on and on"):
        response.read(20)
    response.close()


@pytest.mark.parametrize("wire", [Wire.CHAT, Wire.RESPONSES])
@pytest.mark.parametrize("again", [b":" + b" " * 99_998 + b"\n\n", b"x" * 100_000], ids=["comments", "a line"])
def test_a_flood_without_an_event(flood: Callable[[bytes, bytes], Response], again: bytes, wire: Wire) -> None:
    """What came before the first event is held: it must not be all that the deadline lets through."""
    config = BackendConfig(name="b", type="llamacpp", endpoint="http://b", timeouts=Timeouts(2, 2, 2))
    stream = Stream(flood(OK + b"\r\n", again), config, "", wire=wire)
    with pytest.raises(BackendProtocol, match="without an event"):
        stream.wait_for_first(time.monotonic() + 20)
    stream.close()


def test_a_fast_sender_leaves_the_others_their_turn(flood: Callable[[bytes, bytes], Response]) -> None:
    turns = []
    response = flood(OK + b"\r\n", b"x" * 100_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "sleep", turns.append)
        for _ in range(100):
            response.read(5)
    assert turns.count(0) > 10
    response.close()

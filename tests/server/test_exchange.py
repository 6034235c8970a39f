"""What the worker makes of a request and sends as its response is what gunicorn's own worker makes and sends."""

from __future__ import annotations

import re
import socket

import pytest
from gunicorn.config import Config
from gunicorn.http import errors, wsgi
from gunicorn.http.message import Request
from gunicorn.http.parser import RequestParser

from app.server.exchange import Response, environ_of

CLIENT, SERVER = ("127.0.0.1", 5), ("127.0.0.1", 3030)
OURS_ALONE = {"wsgi.errors", "wsgi.multithread", "wsgi.multiprocess"}
GUNICORNS_ALONE = {"wsgi.file_wrapper", "wsgi.early_hints", "SERVER_SOFTWARE", "wsgi.errors"}


def parsed(raw: bytes, config: Config | None = None) -> Request:
    config = config or Config()
    config.set("header_map", "dangerous")
    return next(RequestParser(config, iter([raw]), CLIENT))


REQUESTS = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET /a%20b/%E2%82%AC?x=%20&y HTTP/1.0\r\nHost: a:1\r\nConnection: keep-alive\r\n\r\n",
    b"POST /v1 HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"POST /v1 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nX-A: 1\r\nX_A: 2\r\nx-a: 3\r\nAccept: */*\r\nX-B: \xe9\r\n\r\n",
    b"POST / HTTP/1.1\r\nContent_Type: a/b\r\nContent_Length: 9\r\nContent-Length: 2\r\n\r\n{}",
    b"GET http://b.example/x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
]


@pytest.mark.parametrize("raw", REQUESTS)
def test_the_environment_is_gunicorns(raw: bytes) -> None:
    request = parsed(raw)
    with socket.socket() as sock:
        ours = environ_of(request, sock, CLIENT, SERVER)
        theirs = wsgi.create(request, sock, CLIENT, SERVER, Config())[1]
    assert {name: ours[name] for name in ours.keys() - OURS_ALONE} == {
        name: theirs[name] for name in theirs.keys() - OURS_ALONE - GUNICORNS_ALONE
    }


def test_no_client_moves_the_paths() -> None:
    with socket.socket() as sock, pytest.raises(errors.InvalidHeaderName):
        environ_of(parsed(b"GET /v1/models HTTP/1.1\r\nSCRIPT_NAME: /v1\r\n\r\n"), sock, CLIENT, SERVER)


@pytest.mark.parametrize("expect", [b"Expect: 100-Continue\r\n", b"Expect: 100-continue\r\n" * 2])
def test_a_client_that_waits_for_it_gets_a_100(expect: bytes) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.settimeout(1)
        environ_of(parsed(b"POST / HTTP/1.1\r\n" + expect + b"Content-Length: 2\r\n\r\n"), ours, CLIENT, SERVER)
        assert theirs.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"


_BUFFER_BYTES = 50_000


class Sent:
    """A socket that remembers what was sent, and how often; its buffer takes only so much at once."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.pieces.append(bytes(data[:_BUFFER_BYTES]))
        return len(self.pieces[-1])

    def sendall(self, data: bytes) -> None:
        self.pieces.append(bytes(data))

    @property
    def text(self) -> bytes:
        return re.sub(rb"Date: [^\r]*", b"Date: now", b"".join(self.pieces))


RESPONSES: list[tuple[str, list[tuple[str, str]], list[bytes]]] = [
    ("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")], [b"hello"]),
    ("200 OK", [("content-length", "5")], [b"he", b"", b"llo"]),
    ("200 OK", [("Content-Type", "text/event-stream")], [b"data: 1\n\n", b"", b"x" * 100_000]),
    ("200 OK", [("Content-Length", "100000")], [b"x" * 100_000]),
    ("200 OK", [], []),
    ("404 NOT FOUND", [("Content-Length", "0")], []),
    ("304 NOT MODIFIED", [], []),
    ("204 NO CONTENT", [("Access-Control-Allow-Origin", "*")], []),
]


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize("version", ["1.1", "1.0", "1.1\r\nConnection: close", "1.0\r\nConnection: keep-alive"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("response", RESPONSES)
def test_the_response_is_gunicorns(
    response: tuple[str, list[tuple[str, str]], list[bytes]], method: str, version: str, is_last: bool
) -> None:
    request = parsed(f"{method} / HTTP/{version}\r\n\r\n".encode())
    status, headers, pieces = response
    ours, theirs = Sent(), Sent()
    mine = Response(request, ours, is_last=is_last)  # type: ignore[arg-type]
    mine.start(status, headers)
    gunicorns = wsgi.Response(request, theirs, Config())
    if is_last:
        gunicorns.force_close()
    gunicorns.start_response(status, headers)
    for piece in pieces:
        mine.write(piece)
        gunicorns.write(piece)
    mine.end()
    gunicorns.close()
    assert ours.text == theirs.text
    assert mine.closes == gunicorns.should_close()


def test_head_and_body_are_one_packet() -> None:
    sent = Sent()
    response = Response(parsed(REQUESTS[0]), sent, is_last=False)  # type: ignore[arg-type]
    response.start("200 OK", [("Content-Length", "2")])
    response.write(b"ok")
    response.end()
    assert len(sent.pieces) == 1


@pytest.mark.parametrize("value", ["a\r\nEvil: 1", "a\nb", "a\r"])
def test_a_header_cannot_bring_another_one_along(value: str) -> None:
    sent = Sent()
    response = Response(parsed(REQUESTS[0]), sent, is_last=False)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="line break"):
        response.start("200 OK", [("X-A", value)])
    assert not sent.pieces

"""Connections that are kept, and what happens when the server closed one meanwhile."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator

import gevent
import pytest

from app.backends.base import Backend
from app.backends.connection import Connection, Server
from app.backends.failures import TRANSPORT_ERRORS
from app.backends.llamacpp import LlamaCppBackend
from app.backends.pool import ConnectionPool
from app.errors import BackendProtocol
from app.types import BackendConfig, ChatRequest, Target, Timeouts
from app.wire.chat import request as chat
from tests.fakes.replies import CLOSE, HANG, RESET, End
from tests.fakes.upstream import Upstream

REQUEST = ChatRequest(
    request_id="r",
    surface="chat",
    body=chat.parse(b'{"messages": [{"role": "user", "content": "hello"}]}'),
    model="",
    stream=False,
)


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream() as running:
        yield running


@pytest.fixture
def backend(up: Upstream) -> Iterator[Backend]:
    made = LlamaCppBackend(BackendConfig(name="b", type="llamacpp", endpoint=up.url, timeouts=Timeouts(2, 2, 2)), {})
    yield made
    made.close()


def ask(backend: Backend) -> None:
    target = Target("b", "m")
    backend.open(backend.prepare(REQUEST, target, stream=False), target, stream=False, private=False).close()


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_kept_connection_that_died_is_replaced_once(up: Upstream, backend: Backend, end: End) -> None:
    up.stale_after_first(end)
    ask(backend)
    ask(backend)
    assert [(request.connection, request.nth) for request in up.requests] == [(0, 0), (0, 1), (1, 0)]


@pytest.mark.parametrize("end", [CLOSE, RESET])
def test_a_fresh_connection_that_dies_is_not_tried_again(up: Upstream, backend: Backend, end: End) -> None:
    up.script([end], repeat=True)
    with pytest.raises(BackendProtocol):
        ask(backend)
    assert len(up.requests) == 1


class Headers(dict[str, str]):
    """Can be referred to weakly; and like all of a request, the frames of its call hold it."""


@pytest.mark.parametrize("end", [CLOSE, RESET, HANG, "refused", "no such host", "no TLS"])
def test_a_failed_call_leaves_nothing_for_the_garbage_collector(up: Upstream, end: End | str) -> None:
    endpoint = up.url
    if isinstance(end, str):
        endpoint = {
            "refused": "http://127.0.0.1:9",
            "no such host": "http://no-such-host.invalid",
            "no TLS": up.url.replace("http:", "https:"),
        }[end]
    else:
        up.script([end], repeat=True)
    pool = ConnectionPool(endpoint, Timeouts(2, 0.2, 2))
    headers = Headers({"Content-Length": "2"})
    left = weakref.ref(headers)
    gc.disable()
    try:
        failed = False
        try:
            pool.call("POST", "/v1/chat/completions", b"{}", headers)
        except TRANSPORT_ERRORS:
            failed = True
        del headers
        gevent.sleep(0)  # the event loop, which threw a time-out, still holds it until it goes on
        assert failed and left() is None
    finally:
        gc.enable()
        pool.close()


def test_close_ends_kept_connections_at_once(up: Upstream, backend: Backend) -> None:
    """Not when the garbage collector comes by."""
    gc.disable()
    try:
        ask(backend)
        assert up.open_connections == 1
        backend.close()
        up.wait(lambda: not up.open_connections)
    finally:
        gc.enable()


def test_a_response_left_unread_closes_its_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        pool = ConnectionPool(f"http://127.0.0.1:{listener.getsockname()[1]}", Timeouts(2, 2, 2))
        calling = threading.Thread(target=lambda: pool.call("GET", "/", None, {}).close())
        calling.start()
        theirs, _ = listener.accept()
        with theirs:
            theirs.recv(65536)
            theirs.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n")
            theirs.settimeout(5)
            assert theirs.recv(1) == b""
        calling.join(5)
    pool.close()


def test_a_large_request_may_take_longer_than_the_deadline_of_sending() -> None:
    """The deadline holds for each piece, so that a slow uplink can carry the request."""
    body, pieces = b"x" * (16 * 256 * 1024), []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def take() -> None:
            theirs, _ = listener.accept()
            with theirs:
                while sum(map(len, pieces)) < len(body):
                    pieces.append(theirs.recv(256 * 1024))
                    time.sleep(0.1)  # 2 s and more in all
                theirs.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

        slow = threading.Thread(target=take)
        slow.start()
        deadlines = Timeouts(connect_s=5, first_byte_s=60, idle_s=5, send_s=1)
        server = Server("127.0.0.1", listener.getsockname()[1], None, deadlines, local_only=False)
        released: list[Connection] = []
        response = Connection(server, released.append).call(body)
        assert response.read(5) == b""
        response.close()
        slow.join(60)
    assert b"".join(pieces) == body
    released[0].close()


def test_a_path_cannot_bring_headers_along(up: Upstream) -> None:
    """Ids of responses that a backend keeps are its own words."""
    pool = ConnectionPool(up.url, Timeouts(2, 2, 2))
    answer = pool.call("GET", "/v1/responses/r\r\nEvil: 1\r\n\r\n", None, {})
    answer.close()
    pool.close()
    (request,) = up.requests
    assert request.path == "/v1/responses/r%0D%0AEvil:%201%0D%0A%0D%0A"
    assert "Evil" not in request.headers

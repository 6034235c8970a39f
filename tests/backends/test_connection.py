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
from app.backends.connection import Connections, _Lean
from app.backends.failures import TRANSPORT_ERRORS
from app.backends.llamacpp import LlamaCppBackend
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


@pytest.mark.parametrize("end", [CLOSE, RESET, HANG])
def test_a_failed_call_leaves_nothing_for_the_garbage_collector(up: Upstream, end: End) -> None:
    up.script([end], repeat=True)
    connections = Connections(up.url, Timeouts(2, 0.2, 2))
    headers = Headers({"Content-Length": "2"})
    left = weakref.ref(headers)
    gc.disable()
    try:
        failed = False
        try:
            connections.call("POST", "/v1/chat/completions", b"{}", headers)
        except TRANSPORT_ERRORS:
            failed = True
        del headers
        gevent.sleep(0)  # the event loop, which threw a time-out, still holds it until it goes on
        assert failed and left() is None
    finally:
        gc.enable()
        connections.close()


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


def test_a_large_request_may_take_longer_than_connecting() -> None:
    """`timeout` is for each piece: a slow line gets it through."""
    ours, theirs = socket.socketpair()
    connection = _Lean("backend")
    connection.sock, connection.timeout = ours, 1.0
    body, read = b"x" * (16 * 256 * 1024), []

    def take() -> None:
        while piece := theirs.recv(256 * 1024):
            read.append(piece)
            time.sleep(0.1)  # a slow line: 2 s and more

    slow = threading.Thread(target=take)
    slow.start()
    connection.request("POST", "/v1", body, {"Content-Length": str(len(body))})
    connection.close()
    slow.join(60)
    theirs.close()
    assert b"".join(read).endswith(body)


def test_a_path_cannot_bring_headers_along(up: Upstream) -> None:
    """Ids of responses that a backend keeps are its own words."""
    connections = Connections(up.url, Timeouts(2, 2, 2))
    answer = connections.call("GET", "/v1/responses/r\r\nEvil: 1\r\n\r\n", None, {})
    answer.close()
    connections.close()
    (request,) = up.requests
    assert request.path == "/v1/responses/r%0D%0AEvil:%201%0D%0A%0D%0A"
    assert "Evil" not in request.headers

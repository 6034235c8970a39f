"""No client is served again and again while others wait."""

from __future__ import annotations

import json
import selectors
import socket

import pytest

from tests.e2e.server import chat_body, wait_until

pytestmark = pytest.mark.e2e

MANY = 200
ECHO = {"backends": {"echo": {"type": "echo"}}, "routes": [{"default": "echo"}]}


def test_a_client_with_many_requests_ready_lets_another_one_in_between(router):
    """`echo` waits for nothing, so only the turn after each answer lets another connection in."""
    running = router(ECHO, workers=1)
    raw = json.dumps(chat_body("hello")).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(raw)}\r\n\r\n"
    request = head.encode() + raw
    with (
        socket.create_connection(("127.0.0.1", running.port)) as busy,
        socket.create_connection(("127.0.0.1", running.port)) as other,
        selectors.DefaultSelector() as selector,
    ):
        for client in (busy, other):  # both connections are accepted
            client.sendall(request)
            wait_until(lambda client=client: b'"usage"' in client.recv(65536), 10, "an answer")
        busy.sendall(request * MANY)
        answers = busy.recv(65536).count(b"HTTP/1.1 200")  # the worker is at it
        other.sendall(request)
        for client in (busy, other):
            selector.register(client, selectors.EVENT_READ)
        while answers < MANY:
            ready = [key.fileobj for key, _ in selector.select(10)]
            assert ready, "nothing came for 10 s"
            if other in ready:
                break
            answers += busy.recv(65536).count(b"HTTP/1.1 200")
    assert answers < MANY / 2

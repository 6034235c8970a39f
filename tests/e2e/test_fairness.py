"""No client is served again and again while others wait, and workers share the connections."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.server import Router, chat_body, wait_until

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


def sockets_of(pid: int) -> int:
    number = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            number += str(entry.readlink()).startswith("socket:")
    return number


@contextlib.contextmanager
def burst(running: Router, size: int) -> Iterator[list[int]]:
    """Open many connections at once; yield how many of them each worker has."""
    pids = running.worker_pids()
    before = [sockets_of(pid) for pid in pids]
    with contextlib.ExitStack() as stack:
        for _ in range(size):
            stack.enter_context(socket.create_connection(("127.0.0.1", running.port)))

        def shares() -> list[int]:
            return [sockets_of(pid) - old for pid, old in zip(pids, before, strict=True)]

        wait_until(lambda: sum(shares()) == size, 10, "all connections to be accepted")
        yield shares()


def is_even(running: Router) -> bool:
    with burst(running, 40) as shares:
        return min(shares) >= 15


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files in /proc")
def test_workers_share_a_burst_of_connections(router):
    running = router(ECHO, workers=2)
    wait_until(lambda: is_even(running), 20, "an even burst")  # the workers do not begin at the same moment
    killed, other = running.worker_pids()
    os.kill(killed, signal.SIGKILL)  # the connections of the dead one count no more
    wait_until(lambda: len({*running.worker_pids()} - {killed, other}) == 1, 20, "a new worker")
    wait_until(lambda: is_even(running), 20, "an even burst")

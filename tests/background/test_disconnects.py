"""Clients that leave while they are waited for, over real sockets."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from app.background.disconnects import Disconnects
from app.errors import ClientGone

ROOT = Path(__file__).resolve().parents[2]


class Waiter:
    """A greenlet that waits for something while its client is watched."""

    def __init__(self, disconnects: Disconnects, sock: socket.socket | None) -> None:
        self.outcome = "waiting"
        self.event = Event()  # what it waits for
        self.rest = Event()  # what it waits for afterwards, unwatched
        self.rest.set()
        self._disconnects = disconnects
        self._sock = sock
        self.greenlet = gevent.spawn(self._run)
        gevent.idle()

    def _run(self) -> None:
        try:
            with self._disconnects.watch(self._sock):
                self.event.wait(10)
            self.outcome = "answered"
            self.rest.wait(10)
        except ClientGone:
            self.outcome = "gone"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """(client, server) of a real TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    yield client, server
    client.close()
    server.close()


def resets(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def sends_and_closes(client: socket.socket) -> None:
    client.sendall(b"GET / HTTP/1.1\r\n")
    client.close()


CLIENTS: dict[str, tuple[Callable[[socket.socket], object], str]] = {
    "says nothing": (lambda _: None, "waiting"),
    "sends its next request early": (lambda client: client.sendall(b"GET / HTTP/1.1\r\n\r\n"), "waiting"),
    "closes": (lambda client: client.close(), "gone"),
    "resets": (resets, "gone"),
    "sends and closes": (sends_and_closes, "gone"),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_what_a_client_does(name: str, pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    act, outcome = CLIENTS[name]
    disconnects = Disconnects()
    waiter = Waiter(disconnects, server)
    act(client)
    disconnects.sweep()
    gevent.idle()
    assert waiter.outcome == outcome
    waiter.event.set()
    waiter.greenlet.join(5)
    assert waiter.outcome in ("gone", "answered")


def test_early_bytes_are_left_for_the_server(pair: tuple[socket.socket, socket.socket]) -> None:
    client, server = pair
    disconnects = Disconnects()
    waiter = Waiter(disconnects, server)
    client.sendall(b"next")
    disconnects.sweep()
    gevent.idle()
    assert server.recv(10) == b"next"
    waiter.event.set()
    waiter.greenlet.join(5)


def test_only_the_one_who_left_is_told() -> None:
    disconnects = Disconnects()
    pairs = [socket.socketpair() for _ in range(5)]
    waiters = [Waiter(disconnects, server) for _, server in pairs]
    pairs[1][0].close()
    pairs[3][0].close()
    disconnects.sweep()
    gevent.idle()
    assert [waiter.outcome for waiter in waiters] == ["waiting", "gone", "waiting", "gone", "waiting"]
    for waiter in waiters:
        waiter.event.set()
        waiter.greenlet.join(5)
    for client, server in pairs:
        client.close()
        server.close()


def test_who_is_no_longer_waiting_is_not_told() -> None:
    client, server = socket.socketpair()
    disconnects = Disconnects()
    waiter = Waiter(disconnects, server)
    waiter.event.set()
    waiter.greenlet.join(5)
    client.close()
    disconnects.sweep()
    gevent.idle()
    assert waiter.outcome == "answered"
    server.close()


def test_who_has_its_answer_before_it_can_be_told_keeps_it() -> None:
    """The sweep saw it leave; before the hub gets round to telling it, its answer comes."""
    client, server = socket.socketpair()
    disconnects = Disconnects()
    waiter = Waiter(disconnects, server)
    waiter.rest.clear()
    client.close()
    waiter.event.set()
    disconnects.sweep()
    gevent.idle()
    assert waiter.outcome == "answered"
    waiter.rest.set()
    waiter.greenlet.join(5)
    assert waiter.outcome == "answered"
    server.close()


def test_a_server_socket_that_is_closed_counts_as_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    _, server = pair
    disconnects = Disconnects()
    waiter = Waiter(disconnects, server)
    server.close()
    disconnects.sweep()
    gevent.idle()
    assert waiter.outcome == "gone"


def test_without_a_socket_there_is_nothing_to_watch() -> None:
    disconnects = Disconnects()
    waiter = Waiter(disconnects, None)
    disconnects.sweep()
    gevent.idle()
    assert waiter.outcome == "waiting"
    waiter.event.set()
    waiter.greenlet.join(5)
    assert waiter.outcome == "answered"


def test_an_error_ends_the_watch() -> None:
    client, server = socket.socketpair()
    disconnects = Disconnects()
    with pytest.raises(ValueError, match="x"), disconnects.watch(server):
        raise ValueError("x")
    client.close()
    disconnects.sweep()
    gevent.idle()
    server.close()


PATCHED = """
from gevent import monkey
monkey.patch_all()
import gevent, socket, threading
from app.background.disconnects import Disconnects
from app.errors import ClientGone

disconnects, heard = Disconnects(), []
client, server = socket.socketpair()
backend, silent = socket.socketpair()

def serve():
    try:
        with disconnects.watch(server):
            backend.recv(100)  # as requests and urllib3 wait, deep inside
    except ClientGone:
        heard.append("gone")

def sweep():
    while not heard:
        disconnects.sweep()
        gevent.sleep(0.01)

serving = gevent.spawn(serve)
sweeping = gevent.spawn(sweep)
gevent.sleep(0)
client.close()
gevent.joinall([serving, sweeping], timeout=10)
print(heard)
"""


def test_under_a_patched_standard_library_as_gunicorn_runs_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATCHED], cwd=ROOT, capture_output=True, text=True, timeout=30, check=False
    )
    assert (done.stdout, done.returncode) == ("['gone']\n", 0), done.stderr

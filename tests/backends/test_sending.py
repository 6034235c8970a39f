"""Large requests: a backend may take its time to read them, stop reading, or answer before it has read all."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from app.backends.openai import OpenAIBackend
from app.errors import BackendError, BackendProtocol, BackendRejected, BackendTimeout
from app.types import BackendConfig, ChatRequest, Target, Timeouts
from app.wire.chat import request as chat

LARGE = b'{"messages": [{"role": "user", "content": "' + b"x" * 20_000_000 + b'"}]}'
OK = b'{"choices": [{"message": {"role": "assistant", "content": "all of it"}}]}'
HEAD = "HTTP/1.1 {} X\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
Play = Callable[[socket.socket], None]


def reply(status: int, body: bytes) -> bytes:
    return HEAD.format(status, len(body)).encode() + body


REFUSAL = reply(413, b'{"error": {"message": "too large for me"}}')


def read_all(sock: socket.socket, data: bytes = b"") -> None:
    """`data` was read before."""
    while b"\r\n\r\n" not in data:
        data += sock.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length: ")[2].split()[0]) - len(body)
    while left and (piece := sock.recv(1 << 20)):
        left -= len(piece)


@contextmanager
def server(play: Play, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """Plays `play` for one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock if context is None else context.wrap_socket(sock, server_side=True) as used:
                play(used)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield f"http{'s' if context else ''}://127.0.0.1:{listener.getsockname()[1]}/v1"
        thread.join(30)
        assert not thread.is_alive()


def send(endpoint: str, timeouts: Timeouts, authorities: str = "") -> str:
    """What the backend says in answer to a large request."""
    config = BackendConfig(name="b", type="openai", endpoint=endpoint, timeouts=timeouts, api_key_env="KEY")
    backend = OpenAIBackend(config, {"KEY": "sk-test", "REQUESTS_CA_BUNDLE": authorities})
    request = ChatRequest(request_id="r", surface="chat", body=chat.parse(LARGE), model="", stream=False)
    target = Target("b", "m")
    try:
        answer = backend.open(backend.prepare(request, target, stream=False), target, stream=False, private=False)
        return str(answer.document["choices"][0]["message"]["content"])  # type: ignore[union-attr]
    finally:
        backend.close()


def test_a_backend_that_begins_to_read_after_the_connect_deadline_gets_the_request() -> None:
    def play(sock: socket.socket) -> None:
        time.sleep(1)
        read_all(sock)
        sock.sendall(reply(200, OK))

    with server(play) as endpoint:
        assert send(endpoint, Timeouts(connect_s=0.3, first_byte_s=20, idle_s=0.3, send_s=20)) == "all of it"


def test_sending_does_not_use_up_the_deadline_of_the_answer() -> None:
    def play(sock: socket.socket) -> None:
        time.sleep(1.5)
        read_all(sock)
        time.sleep(0.5)
        sock.sendall(reply(200, OK))

    with server(play) as endpoint:
        assert send(endpoint, Timeouts(connect_s=2, first_byte_s=1.2, idle_s=5, send_s=20)) == "all of it"


def test_a_backend_that_takes_nothing_is_waited_for_within_the_deadline_of_sending() -> None:
    over = threading.Event()
    with server(lambda _: over.wait(20)) as endpoint:  # type: ignore[arg-type,return-value]
        with pytest.raises(BackendTimeout) as caught:
            send(endpoint, Timeouts(connect_s=20, first_byte_s=20, idle_s=20, send_s=0.5))
        over.set()
    assert caught.value.message == "took nothing of the request for 0.5 s"
    assert caught.value.kind == "timeout"


def lingering(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(REFUSAL)
    time.sleep(1)  # nothing is read meanwhile
    while sock.recv(1 << 20):  # until the router hangs up
        pass


def closing(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(REFUSAL)
    time.sleep(0.3)


def closing_at_once(sock: socket.socket) -> None:
    """The router may hear of it while it sends.  OpenSSL reads nothing more then: only played without TLS."""
    sock.recv(65536)
    sock.sendall(REFUSAL)


def with_an_interim_response(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n")
    time.sleep(0.2)
    sock.sendall(REFUSAL)


def in_pieces(sock: socket.socket) -> None:
    sock.recv(65536)
    sock.sendall(REFUSAL[:30])
    time.sleep(0.2)
    sock.sendall(REFUSAL[30:])


@pytest.mark.parametrize(
    ("play", "tls"),
    [
        *((play, tls) for play in (lingering, closing, with_an_interim_response, in_pieces) for tls in (False, True)),
        (closing_at_once, False),
    ],
)
def test_a_backend_that_refuses_before_it_has_read_all_is_heard(play: Play, tls: bool, tmp_path: Path) -> None:
    context = None
    if tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)

    def quietly(sock: socket.socket) -> None:
        try:
            play(sock)
        except OSError:
            return  # the router hung up

    with server(quietly, context) as endpoint, pytest.raises(BackendRejected) as caught:
        send(endpoint, Timeouts(5, 5, 5, 5), str(tmp_path / "ca.pem") if tls else "")
    assert caught.value.status == 413
    assert caught.value.backend_text == "too large for me"


def test_an_answer_that_begins_before_all_was_read_is_no_refusal() -> None:
    def play(sock: socket.socket) -> None:
        begin = sock.recv(65536)
        sock.sendall(HEAD.format(200, len(OK)).encode())
        read_all(sock, begin)
        sock.sendall(OK)

    with server(play) as endpoint:
        assert send(endpoint, Timeouts(5, 5, 5, 5)) == "all of it"


def test_a_backend_that_hangs_up_while_it_is_sent_to_is_a_reset() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(65536)

    with server(play) as endpoint, pytest.raises(BackendError) as caught:
        send(endpoint, Timeouts(5, 5, 5, 5))
    assert (type(caught.value), caught.value.kind) == (BackendProtocol, "reset")

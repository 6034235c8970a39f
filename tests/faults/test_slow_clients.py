"""Clients that send or read too slowly, or never stop: bounded memory, nobody else kept waiting."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Router, Stream, chat_body, wait_until
from tests.fakes.replies import HANG, event, sse
from tests.fakes.upstream import Upstream
from tests.faults.altered import HASTY, altered_copy

pytestmark = pytest.mark.faults

CROWD = 300
HEAD = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BIG = event({"choices": [{"index": 0, "delta": {"content": "x" * 60_000}}]})


def policy(up: Upstream, **more: Any) -> dict[str, Any]:
    return {
        "backends": {"local": {"type": "ollama", "endpoint": up.url, "models": ["m"], **more}},
        "routes": [{"default": "local"}],
    }


@pytest.fixture
def up() -> Iterator[Upstream]:
    with Upstream(models=["m"]) as running:
        yield running


def memory_mb(router: Router) -> float:
    """The resident memory of the worker that has most."""
    return max(rss_mb(pid) for pid in router.worker_pids())


def rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(pid)


def others_are_served(router: Router, count: int = 40) -> None:
    for number in range(count):
        assert router.chat(f"number {number}", timeout=5).text == f"number {number}"
    with router.stream("a b c", timeout=5) as stream:
        assert stream.read().endswith(b"data: [DONE]\n\n")


# --- slow senders -------------------------------------------------------------------------------


@pytest.mark.parametrize("begun", ["", "POST /v1/chat/compl", HEAD, HEAD + "Content-Length: 5000\r\n\r\n{"], ids=len)
def test_a_crowd_that_does_not_finish_its_requests_disturbs_nobody(up: Upstream, tmp_path: Path, begun: str) -> None:
    with Router(policy(up), folder=tmp_path, workers=2) as router, ExitStack() as stack:
        before = memory_mb(router)
        for _ in range(CROWD):
            stack.enter_context(router.raw(begun.encode()))
        others_are_served(router)
        assert memory_mb(router) < before + 50
        assert len(up.chats) == 41


def test_a_head_that_does_not_come_is_not_waited_for(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path) as router, router.raw(HEAD.encode(), timeout=15) as sock:
        assert sock.recv(100) == b""


def test_a_head_that_trickles_is_not_waited_for(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path) as router, router.raw(timeout=0.2) as sock:
        assert closed_while_sending(sock, HEAD.encode() * 10)


def closed_while_sending(sock: socket.socket, data: bytes) -> bool:
    """Sends a byte every 0.2 s, for 20 s at the most."""
    for place in range(100):
        try:
            sock.send(data[place : place + 1])
            if sock.recv(1) == b"":
                return True
        except TimeoutError:
            continue
        except OSError:
            return True
    return False


def test_a_body_that_does_not_come_is_a_408(up: Upstream, tmp_path: Path) -> None:
    root = altered_copy(tmp_path / "copy", HASTY)
    with Router(policy(up), folder=tmp_path, root=root) as router:
        with router.raw((HEAD + "Content-Length: 5000\r\n\r\n{").encode(), timeout=15) as sock:
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"]["type"] == "invalid_request_error"
        assert not up.chats


# --- senders that never stop --------------------------------------------------------------------


@contextmanager
def flooding(router: Router, chunk: bytes, senders: int = 3) -> Iterator[list[int]]:
    """Senders of endless chunked bodies, each as fast as it can, again and again.  Yields the bytes each got rid of
    before it was cut off."""
    over, sent = threading.Event(), list[int]()

    def send() -> None:
        while not over.is_set():
            count = 0
            try:
                with router.raw((HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode()) as sock:
                    while not over.is_set():
                        sock.sendall(chunk)
                        count += len(chunk)
            except OSError:
                sent.append(count)

    threads = [threading.Thread(target=send) for _ in range(senders)]
    for thread in threads:
        thread.start()
    try:
        yield sent
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


@pytest.mark.parametrize("size", [65536, 16])
def test_endless_bodies_are_cut_off_and_disturb_nobody(up: Upstream, tmp_path: Path, size: int) -> None:
    chunk = (b"%x\r\n%b\r\n" % (size, b"x" * size)) * max(1, 4096 // size)
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_MAX_BODY_BYTES": "1000000"}) as router:
        before = memory_mb(router)
        with flooding(router, chunk) as sent:
            others_are_served(router)
            wait_until(lambda: len(sent) >= 3, 60, "the floods to be cut off")
            others_are_served(router, 5)
        assert memory_mb(router) < before + 50
        assert {request.json["messages"][0]["content"][:6] for request in up.chats} == {"number", "a b c"}


def test_an_endless_body_is_answered_with_413(up: Upstream, tmp_path: Path) -> None:
    head = (HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode()
    env = {"LLR_MAX_BODY_BYTES": "100000"}
    with Router(policy(up), folder=tmp_path, env=env) as router, router.raw(head) as sock:
        for _ in range(20):
            sock.sendall(b"2710\r\n" + b"x" * 10000 + b"\r\n")
        assert sock.recv(12) == b"HTTP/1.1 413"


# --- slow readers -------------------------------------------------------------------------------


def unread_stream(router: Router, **body: Any) -> Stream:
    """A stream of which only the head is read."""
    return router.stream("hello", timeout=60, **body)


def test_a_crowd_that_does_not_read_disturbs_nobody(up: Upstream, tmp_path: Path) -> None:
    """Each answer would be 30 MB: the backend is not read ahead for those who do not read."""
    up.script(sse(*[BIG] * 500), when=lambda request: request.json.get("user") == "sleepy", repeat=True)
    with Router(policy(up), folder=tmp_path, workers=2) as router, ExitStack() as stack:
        before = memory_mb(router)
        for _ in range(60):
            stack.enter_context(unread_stream(router, user="sleepy"))
        others_are_served(router)
        assert memory_mb(router) < before + 100


def test_who_does_not_read_loses_its_place_at_the_backend(up: Upstream, tmp_path: Path) -> None:
    up.script(sse(*[BIG] * 500))
    root = altered_copy(tmp_path / "copy", HASTY)
    with Router(policy(up, maxConcurrency=1), folder=tmp_path, workers=2, root=root) as router:
        with unread_stream(router):
            up.wait_hangup(20)
            assert router.wait_rows(1)[0]["outcome"] == "cancelled"
            assert router.chat("my turn").text == "my turn"
        assert "Traceback" not in router.log_text()


def test_who_reads_slowly_gets_everything(up: Upstream, tmp_path: Path) -> None:
    """Slower than the deadline in all, but never still for so long."""
    up.script(sse(*[BIG] * 200))
    root = altered_copy(tmp_path / "copy", HASTY)
    with Router(policy(up), folder=tmp_path, root=root) as router, unread_stream(router) as stream:
        size, begin = 0, time.monotonic()
        for _, piece in stream:
            size += len(piece)
            if time.monotonic() - begin < 6:
                time.sleep(0.01)
        assert size > 200 * len(BIG)
        assert router.wait_rows(1)[0]["outcome"] == "ok"


def test_a_buffered_answer_that_is_not_read_disturbs_nobody(up: Upstream, tmp_path: Path) -> None:
    up.text = "word " * 1_000_000
    body = json.dumps(chat_body("hello")).encode()
    raw = (HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    with Router(policy(up), folder=tmp_path, workers=2) as router, ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(router.raw(raw))
        wait_until(lambda: up.answered >= 10, 30, "the backend's part")
        up.text = None
        others_are_served(router)


def test_the_backend_may_hang_for_a_crowd_that_waits(up: Upstream, tmp_path: Path) -> None:
    up.script([HANG], when=lambda request: request.json.get("user") == "patient", repeat=True)
    body = json.dumps(chat_body("hello", user="patient")).encode()
    raw = (HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode() + body
    with Router(policy(up), folder=tmp_path, workers=2) as router, ExitStack() as stack:
        for _ in range(CROWD):
            stack.enter_context(router.raw(raw))
        others_are_served(router)

"""Clients that send or read too slowly, or never stop: bounded memory, nobody else kept waiting."""

from __future__ import annotations

import contextlib
import json
import resource
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


FORM = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-www-form-urlencoded\r\n"
SLOW = {
    "nothing": "",
    "a head": "POST /v1/chat/compl",
    "a chat": HEAD + "Content-Length: 5000\r\n\r\n{",
    "a chunked chat": HEAD + "Transfer-Encoding: chunked\r\n\r\n1000\r\n{",
    "a form": FORM + "Content-Length: 4000\r\n\r\nk",
    "a form that is too large": FORM + "Content-Length: 5000\r\n\r\nk",
    "a body for a URL that takes none": "GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5000\r\n\r\n{",
}
FEW = (301, 301)  # file descriptors, with which a worker serves 59 clients at once
ALLOWED = {"Authorization": "Bearer key"}


@contextmanager
def crowd(router: Router, begun: str, count: int) -> Iterator[None]:
    """So many clients that begin a request and send one byte of it now and then; who is cut off comes again."""
    over = threading.Event()

    def keep_up(share: int) -> None:
        socks = [_begin(router, begun) for _ in range(share)]
        while not over.wait(1):
            for place, sock in enumerate(socks):
                try:
                    sock.send(b"x")
                except OSError:
                    sock.close()
                    socks[place] = _begin(router, begun)
        for sock in socks:
            sock.close()

    threads = [threading.Thread(target=keep_up, args=(count // 4,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(60)


def _begin(router: Router, begun: str) -> socket.socket:
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex(("127.0.0.1", router.port))
    with contextlib.suppress(OSError):  # not yet connected: then it has sent nothing, which is slow too
        sock.send(begun.encode())
    return sock


@pytest.mark.parametrize("begun", SLOW.values(), ids=SLOW)
@pytest.mark.parametrize("keys", ["", "key"], ids=["open", "with keys"])
def test_slow_senders_cannot_take_all_places_of_a_worker(up: Upstream, tmp_path: Path, begun: str, keys: str) -> None:
    """Five times as many as it has places.  Whoever sends at a usual pace is served meanwhile."""
    env = {"LLR_API_KEYS": keys} if keys else {}
    with Router(policy(up), folder=tmp_path, env=env, descriptors=FEW) as router, crowd(router, begun, 300):
        for number in range(20):
            assert router.get("/health", timeout=10).status == 200
            assert router.chat(f"number {number}", headers=ALLOWED, timeout=10).text == f"number {number}"
        body = json.dumps(chat_body("x" * 2_000_000)).encode()
        tries = (router.post("/v1/chat/completions", body, headers=ALLOWED, timeout=20).status for _ in range(3))
        assert 200 in tries  # clients send again what got a 408
        assert "Traceback" not in router.log_text()


@pytest.mark.parametrize("begun", [SLOW["a form"], SLOW["a chat"]], ids=["forms", "chats"])
def test_thousands_of_slow_senders_do_not_keep_health_from_answering(up: Upstream, tmp_path: Path, begun: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    try:
        with Router(policy(up), folder=tmp_path, workers=2) as router, crowd(router, begun, 2400):
            for _ in range(20):
                assert router.get("/health", timeout=10).status == 200
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def answer_to(router: Router, begun: str, every_s: float = 0.0) -> bytes:
    """What comes back to a client that sends on, a byte at a time, or nothing."""
    with router.raw(begun.encode(), timeout=0.2) as sock:
        for _ in range(150):
            try:
                if every_s:
                    sock.send(b"x")
                answer = sock.recv(65536)
                break
            except TimeoutError:
                continue
        sock.settimeout(10)
        while piece := sock.recv(65536):  # until it is closed
            answer += piece
    return answer


@pytest.mark.parametrize("trickling", [False, True])
@pytest.mark.parametrize(
    "begun", [SLOW["a chat"], SLOW["a chunked chat"], SLOW["a form"]], ids=["chat", "chunked", "form"]
)
def test_a_body_that_comes_too_slowly_is_a_408(up: Upstream, tmp_path: Path, begun: str, trickling: bool) -> None:
    root = altered_copy(tmp_path / "copy", HASTY)
    with Router(policy(up), folder=tmp_path, root=root) as router:
        head, _, body = answer_to(router, begun, 0.2 if trickling else 0).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert "too slowly" in json.loads(body)["error"]["message"]
        assert not up.chats


def test_a_stranger_is_asked_for_a_key_before_its_body_is_read(up: Upstream, tmp_path: Path) -> None:
    env = {"LLR_API_KEYS": "key"}
    with Router(policy(up), folder=tmp_path, env=env) as router:
        for begun in (SLOW["a chat"], SLOW["a form that is too large"]):
            assert answer_to(router, begun).startswith(b"HTTP/1.1 401 ")


def test_who_keeps_to_the_slowest_rate_gets_through(up: Upstream, tmp_path: Path) -> None:
    """Longer than a body is waited for that does not come."""
    root = altered_copy(tmp_path / "copy", HASTY)
    body = json.dumps(chat_body("x" * 600_000)).encode()
    head = (HEAD + f"Content-Length: {len(body)}\r\n\r\n").encode()
    with Router(policy(up), folder=tmp_path, root=root) as router, router.raw(head, timeout=30) as sock:
        for place in range(0, len(body), 8192):
            sock.sendall(body[place : place + 8192])
            time.sleep(0.05)
        assert sock.recv(100).startswith(b"HTTP/1.1 200 ")


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

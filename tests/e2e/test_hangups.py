"""Clients that leave, at every stage: the backend's connection is closed within 2 s, and nobody is blamed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.e2e.server import chat_body, wait_until
from tests.e2e.stage import Stage
from tests.fakes.replies import HANG, Step, completion, head, pause_after_head, reply, sse

pytestmark = pytest.mark.e2e

# What the backend does when the client leaves, and whether the client has seen content by then.
SCENES: dict[str, tuple[bool, list[Step], bytes]] = {
    "buffered_silent": (False, [HANG], b""),
    "buffered_headers_only": (False, pause_after_head(reply(200, completion("x")), HANG), b""),
    "buffered_half_a_body": (False, [*reply(200, completion("x"))[:1], b'{"id": ', HANG], b""),
    "buffered_dripping": (False, [head(200, [("Content-Type", "application/json")]), *([b" ", 0.05] * 400), HANG], b""),
    "stream_silent": (True, [HANG], b""),
    "stream_headers_only": (True, pause_after_head(sse("x"), HANG), b""),
    "stream_comments_only": (True, sse(*([b": wait\n\n", 0.05] * 400), HANG), b""),
    "stream_silent_after_content": (True, sse("first", HANG), b"first"),
    "stream_talking": (True, sse(*(["first", 0.05] * 400), HANG), b"first"),
    "stream_flooding": (True, sse("first", *([b":" * 4096] * 20000), finish=False), b"first"),
}


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    backends = {name: {} for name in SCENES}
    with Stage(tmp_path_factory.mktemp("hangups"), backends) as made:
        yield made


@pytest.mark.parametrize("name", SCENES)
def test_the_backend_is_let_go(stage: Stage, name: str):
    streaming, steps, seen = SCENES[name]
    stage.up.reset()
    stage.up.script(steps, path=stage.path(name))
    with stage.router.raw(_request(stage, name, streaming)) as client:
        (request,) = stage.up.wait_requests(1)
        if seen:
            data = b""
            while seen not in data:
                data += (piece := client.recv(65536))
                assert piece, f"closed after {data!r}"
        else:
            time.sleep(0.3)  # the router is waiting by now
        assert request.closed_at is None
        left_at = time.monotonic()
    stage.up.wait_hangup(5, request)
    assert request.closed_at - left_at < 2
    row = _cancelled(stage, name, 1)
    assert (row["ok"], row["error"], row["stream"]) == (0, None, int(streaming))
    assert len(stage.up.chats) == 1, "a call for nobody was repeated"
    assert not stage.spare.chats, "a fallback was tried for nobody"


def _request(stage: Stage, name: str, streaming: bool) -> bytes:
    body = json.dumps(chat_body(stage.prompt(name), stream=streaming)).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: 127.0.0.1:{stage.router.port}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + body


def _cancelled(stage: Stage, name: str, count: int) -> dict:
    sql = "SELECT * FROM metrics WHERE backend = ? AND outcome = 'cancelled' ORDER BY id"
    wait_until(lambda: len(stage.router.rows(sql, name)) >= count, 5, "the row of a cancelled call")
    found = stage.router.rows("SELECT * FROM metrics WHERE backend = ? ORDER BY id", name)
    assert len(found) == count, found
    return found[-1]


def test_leaving_is_not_held_against_the_backend(stage: Stage):
    """More hang-ups than failures that open a circuit, and the backend is still asked first."""
    name = "buffered_silent"
    stage.up.reset()
    before = len(stage.router.rows("SELECT id FROM metrics WHERE backend = ?", name))
    for number in range(8):
        stage.up.script([HANG], path=stage.path(name))
        with stage.router.raw(_request(stage, name, False)):
            stage.up.wait_requests(number + 1)
        stage.up.wait_hangup(3, stage.up.chats[number])
    _cancelled(stage, name, before + 8)
    for _ in range(6):
        answer = stage.ask(name)
        assert answer.headers["X-LLR-Backend"] == name


def test_leaving_before_the_body_is_sent_reaches_no_backend(stage: Stage):
    stage.up.reset()
    whole = _request(stage, "buffered_silent", False)
    for cut_at in (10, whole.index(b"\r\n\r\n") + 4, len(whole) - 20):
        stage.router.raw(whole[:cut_at]).close()
    assert stage.router.get("/health").status == 200
    time.sleep(0.3)
    assert not stage.up.chats and not stage.spare.chats

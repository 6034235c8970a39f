"""Pools before real servers: members share the load, replace each other, keep conversations, and never leak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Router
from tests.fakes.upstream import Upstream

CANARY = "canary-5c1e"
SESSION = {
    "X-Session-Id": f"{CANARY}-1",
    "session-id": f"{CANARY}-2",
    "X-Request-Id": f"{CANARY}-3",
    "traceparent": "00-a",
}


@pytest.fixture
def boxes() -> Iterator[list[Upstream]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Upstream()) for _ in range(3)]


def policy(boxes: list[Upstream], *members: str, pool: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """Boxes on this machine with one place each; `cloud` is the last of them when it is a member."""
    backends: dict[str, Any] = {}
    for name, box in zip(members, boxes, strict=False):
        own = {"type": "openai", "endpoint": f"{box.url}/v1", "model": "m", "apiKeyEnv": "", "local": name != "cloud"}
        backends[name] = own | ({} if name == "cloud" else more)
    rules = {"members": list(members), **(pool or {})}
    return {"backends": backends, "pools": {"gpu": rules}, "routes": [{"default": "gpu"}]}


def test_identifiers_reach_local_backends_only(boxes: list[Upstream], tmp_path: Path) -> None:
    with Router(policy(boxes, "box", "cloud"), folder=tmp_path) as router:
        local = router.chat(model="box", headers=SESSION, prompt_cache_key="k")
        remote = router.chat(model="cloud", headers=SESSION)
        assert [answer.headers["X-Request-Id"] for answer in (local, remote)] == [f"{CANARY}-3"] * 2
        (received,) = boxes[0].chats
        assert {name: received.header(name) for name in SESSION} == SESSION
        assert received.json["prompt_cache_key"] == "k"
        (received,) = boxes[1].chats
        assert CANARY.encode() not in received.head + received.body
        refused = router.chat(model="gpo", headers=SESSION)
        assert (refused.status, refused.headers["X-Request-Id"]) == (404, f"{CANARY}-3")
        with router.stream(model="box", headers=SESSION) as stream:
            assert stream.headers["X-Request-Id"] == f"{CANARY}-3"
            stream.read()
        assert boxes[0].chats[1].header("session-id") == f"{CANARY}-2"

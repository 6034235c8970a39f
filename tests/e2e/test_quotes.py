"""Backends quote what clients sent them.  However long that is, nobody else of the worker waits for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from tests.e2e.server import Router, chat_body
from tests.fakes.replies import error_document, reply, sse
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

MEGABYTE = 1_000_000
UNITS = ("eyJaaaaaaaa-", "sk-aaaaaaaa ", "-eyJ", "a1", "bearer aaaaaaaaa ")
STOPPED_S = 2.0  # an event loop that is busy with one request; finer figures are a benchmark's


def quoted(unit: str) -> str:
    return unit * (MEGABYTE // len(unit))


@pytest.mark.parametrize("surface", ["/v1/chat/completions", "/v1/responses"])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_long_quote_stops_nobody(
    router: Callable[..., Router], upstream: Callable[..., Upstream], surface: str, streamed: bool
) -> None:
    up = upstream(models=["m"])
    rules = {"backends": {"local": {"type": "ollama", "endpoint": up.url}}, "routes": [{"default": "local"}]}
    served = router(rules, workers=1)
    for unit in UNITS:
        text = quoted(unit)
        for status in (404, 422, 429, 503):
            up.script(reply(status, error_document(f'model "{text}" not found')))
        event = {"error": {"message": text, "type": text, "code": text}}
        up.script(sse(event) if streamed else reply(400, text))
    gaps: list[float] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            began = time.monotonic()
            assert served.get("/health").status == 200
            gaps.append(time.monotonic() - began)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for unit in UNITS:
            for _ in range(5):
                body = {**chat_body("x", stream=streamed), "model": "m", "input": "x"}
                answer = served.post(surface, body, timeout=60)
                assert len(answer.body) < 200_000
                assert b"aaaaaaaa" not in answer.body or unit == "a1"
            long_name = served.post(surface, {**chat_body("x"), "input": "x", "model": quoted(unit)})
            assert (long_name.status, long_name.error["param"]) == (400, "model")
    finally:
        over.set()
        watcher.join(30)
    assert len(gaps) > 10 and max(gaps) < STOPPED_S, (len(gaps), sorted(gaps)[-5:])

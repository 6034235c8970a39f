"""The dashboard of a running router: threads, workers and cookies are real here."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import urlencode

import pytest

from tests.e2e.server import Answer, Router, wait_until
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

BROWSER = {"Accept": "text/html"}
FORM = {**BROWSER, "Content-Type": "application/x-www-form-urlencoded"}
KEY = "the-only-key"


def office(up: Upstream) -> dict[str, object]:
    local = {"type": "ollama", "endpoint": up.url, "models": ["llama3.1:8b"], "price": {"input": 0, "output": 0}}
    return {"backends": {"local": local}, "routes": [{"default": "local"}], "savings": {"against": "local"}}


def send(router: Router, headers: dict[str, str], **form: str) -> Answer:
    return router.request("POST", "/", urlencode(form).encode(), headers)


def tile(page: Answer, name: str) -> str:
    found = re.search(rf"<dt>{name}</dt><dd>(.*?)</dd>", page.body.decode())
    assert found, name
    return found[1]


def test_every_worker_shows_the_same(router: Callable[..., Router], upstream: Callable[..., Upstream]) -> None:
    up = upstream(models=["llama3.1:8b"])
    running = router(office(up), workers=2)
    for _ in range(5):
        assert running.chat("hello").status == 200
    running.wait_rows(5)
    for _ in range(8):  # whichever worker answers
        page = running.get("/", BROWSER)
        assert (page.status, tile(page, "Requests")) == (200, "5")
    summary = running.get("/v1/metrics").json
    assert (summary["total"]["requests"], summary["total"]["local_share"]) == (5, 1.0)
    assert b'llr_backend_calls_total{backend="local"} 5.0' in running.get("/metrics").body
    wait_until(lambda: b'<span class="mark good">up</span>' in running.get("/", BROWSER).body, 10, "discovery")
    up.stop()
    assert b"by the route <code>default</code>" in send(running, FORM, prompt="hello", model="auto").body
    assert running.rows() and len(running.rows()) == 5, "a dry run calls nothing"


def test_a_browser_signs_in(router: Callable[..., Router], upstream: Callable[..., Upstream]) -> None:
    running = router(office(upstream()), workers=2, env={"LLR_API_KEYS": KEY})
    assert running.get("/", BROWSER).status == 401
    done = send(running, FORM, key=KEY)
    assert (done.status, done.headers["Location"]) == (303, "/")
    cookie = {"Cookie": done.headers["Set-Cookie"].partition(";")[0]}
    for _ in range(4):  # the mark is known to every worker
        assert running.get("/", {**BROWSER, **cookie}).status == 200
    assert running.get("/v1/models", cookie).status == 401
    page = send(running, {**FORM, **cookie}, prompt="hello", model="auto")
    assert b"by the route" in page.body
    foreign = {**FORM, **cookie, "Origin": "http://evil.example"}
    assert send(running, foreign, prompt="hello", model="auto").status == 403
    assert KEY not in running.log_text() and "hello" not in running.log_text()

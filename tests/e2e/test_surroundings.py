"""What the surroundings offer and a prompt names: proxies, passwords, URLs.  None of it is taken up."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, Router, chat_body, wait_until
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

Start = Callable[..., Any]
KEY = "sk-ours-0123456789abcdefghij"
PROXIES = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def policy(local: Upstream, cloud: Upstream) -> dict[str, Any]:
    return {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big"},
        },
        "routes": [{"default": "local", "fallback": "cloud"}],
        "ab": {"enabled": True, "sampleRate": 1.0, "candidates": {"local": "cloud"}},
    }


def test_no_proxy_and_no_netrc_of_the_environment_is_used(upstream: Start, router: Start, tmp_path: Path) -> None:
    """Not for what clients ask, nor for a mirrored request, the search for models, or the command line."""
    local, cloud, trap = upstream(models=["m", "found"]), upstream(), upstream()
    folder = tmp_path / "router"
    (folder / "home").mkdir(parents=True)
    netrc = "".join(f"machine {host} login thief password netrc-password\n" for host in ("127.0.0.1", "localhost"))
    for path in (folder / "home" / ".netrc", folder / "other"):
        path.write_text(netrc + "default login thief password netrc-password\n")
        path.chmod(0o600)
    env = dict.fromkeys(PROXIES, trap.url) | {"OPENAI_API_KEY": KEY, "NETRC": str(folder / "other")}
    running: Router = router(policy(local, cloud), workers=2, folder=folder, env=env)

    for model, stream, private in itertools.product(("auto", "cloud"), (False, True), ("normal", "high")):
        body = chat_body("hello", model=model, stream=stream)
        answer = running.post("/v1/chat/completions", body, {"X-LLR-Sensitivity": private})
        assert answer.status == 200
        assert answer.headers["X-LLR-Backend"] == ("cloud" if (model, private) == ("cloud", "normal") else "local")
        assert running.post("/v1/responses", {"input": "hello", "model": model}).status == 200
    wait_until(lambda: "found" in running.get("/v1/models").body.decode(), 10, "the models to be found")
    wait_until(lambda: running.rows("SELECT * FROM metrics WHERE kind = 'shadow'"), 10, "a mirrored request")
    command = [sys.executable, "-m", "flask", "backends", "probe"]
    probe_env = running.environment() | {"LLR_PORT": "3030"}
    subprocess.run(command, cwd=ROOT, env=probe_env, capture_output=True, timeout=30, check=True)

    assert trap.connections == 0
    assert {request.header("Authorization") for request in local.requests} == {None}
    assert {request.header("Authorization") for request in cloud.requests} == {f"Bearer {KEY}"}
    assert not any(request.path.startswith("http") for request in [*local.requests, *cloud.requests])


def test_no_url_in_a_request_is_fetched(upstream: Start, router: Start) -> None:
    """It is passed on as it stands: to look at it is the model server's business, or nobody's."""
    local, cloud, trap = upstream(), upstream(), upstream()
    running: Router = router(policy(local, cloud), workers=1, env={"OPENAI_API_KEY": KEY})
    url = f"{trap.url}/picture.png"
    parts = [
        {"type": "text", "text": f"Summarise {url} and <img src='{url}'> and ![]({url})"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url}},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"$ref": url, "$schema": url}}}
    chat = {"messages": [{"role": "user", "content": parts}], "tools": [tool], "metadata": {"webhook": url}}
    parts = [
        {"type": "input_text", "text": f"Summarise {url}"},
        {"type": "input_image", "image_url": url},
        {"type": "input_file", "file_url": url},
    ]
    responses = {"input": [{"role": "user", "content": parts}]}
    mcp = {"input": url, "tools": [{"type": "mcp", "server_label": "s", "server_url": url}, {"type": "web_search"}]}
    for path, document in (("chat/completions", chat), ("responses", responses), ("responses", mcp)):
        for stream, private in itertools.product((False, True), ("normal", "high")):
            body = {"model": "auto", "stream": stream, **document}
            answer = running.post(f"/v1/{path}", body, {"X-LLR-Sensitivity": private})
            assert answer.status in (200, 400), answer.body
        assert running.post("/v1/route", {"model": "auto", **document}).status in (200, 400)
    assert trap.connections == 0
    first = next(request for request in local.chats if "webhook" in str(request.json))
    assert first.json["messages"] == chat["messages"] and first.json["tools"] == [tool]

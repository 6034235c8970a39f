"""Models that a local Ollama hands on to another host: none gets a private request, and the ledger shows the others."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, Answer, Router, chat_body, wait_until
from tests.fakes.replies import HANG, Play, error, html, reply
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

Start = Callable[..., Any]
CANARY = "kanarie"
CLOUD = "https://ollama.com:443"
PRIVATE = {"X-LLR-Sensitivity": "high"}
HASTY = {"connectMs": 2000, "firstByteMs": 2000, "idleMs": 2000}


@pytest.fixture
def home(upstream: Start) -> Upstream:
    """An Ollama: `moved` was made with `ollama cp` of a cloud model."""
    up: Upstream = upstream(models=["m:1", "moved:latest", "coder:7b"], text="fine")
    up.remote = {"moved:latest": CLOUD, "coder:7b": CLOUD}
    return up


def backend(up: Upstream, **more: Any) -> dict[str, Any]:
    return {"type": "ollama", "endpoint": up.url, "timeouts": HASTY, "models": ["m:1"], **more}


def policy(up: Upstream, *routes: dict[str, Any], **backends: dict[str, Any]) -> dict[str, Any]:
    return {"backends": {"home": backend(up), **backends}, "routes": [*routes, {"default": "home"}]}


def ask(router: Router, model: str = "auto", *, private: bool = True, stream: bool = False, text: str = "") -> Answer:
    body = chat_body(f"{CANARY} {text}", model=model, stream=stream)
    return router.post("/v1/chat/completions", body, PRIVATE if private else {})


def discovered(router: Router, name: str = "moved:latest") -> None:
    """Until every worker has seen what the server holds."""
    wait_until(lambda: all(name in router.get("/v1/models").body.decode() for _ in range(8)), 10, "discovery")


PINS = (
    "moved", "moved:latest", "home/moved", "home/moved:latest", "home/MOVED", "home/library/moved",
    "home/moved@sha256:00ff", "home/coder:7b", "home/kimi:cloud",
)  # fmt: skip


@pytest.mark.parametrize("seen", [False, True], ids=["before discovery", "after discovery"])
def test_a_private_request_for_a_model_that_is_handed_on_is_not_sent(home: Upstream, router: Start, seen: bool) -> None:
    if not seen:  # an old list: the server says where a model runs only when it is asked
        names = [{"name": name} for name in home.models]
        home.script(reply(200, {"models": names}), path="/api/tags", repeat=True)
    running: Router = router(policy(home), workers=2)
    discovered(running)
    for pin, stream, surface in itertools.product(PINS, (False, True), ("chat", "responses")):
        if surface == "chat":
            answer = ask(running, pin, stream=stream)
        else:
            document = {"model": pin, "stream": stream, "input": CANARY}
            answer = running.post("/v1/responses", document, PRIVATE)
        assert answer.status in (200, 502, 503), (pin, answer.body)
        assert answer.headers["X-LLR-Model"] == "m:1" if answer.status == 200 else CANARY not in answer.body.decode()
    assert ask(running, "home/m:1").status == 200
    assert home.handed_on == []
    questions = {tuple(request.json) for request in home.requests if request.path == "/api/show"}
    assert questions == {("model",)}, "the name, and nothing else"


def test_by_route_family_fallback_and_budget_it_goes_to_models_that_run_here(home: Upstream, router: Start) -> None:
    code = {"match": {"task": "code"}, "backend": "families", "fallback": ["moved", "home"]}
    image = {"match": {"task": "summarisation"}, "backend": "broken", "fallback": ["moved", "home"]}
    slow = {"match": {"task": "classification"}, "backend": "slow", "fallback": ["moved", "home"], "latencyBudgetMs": 9}
    rules = policy(
        home, code, image, slow,
        moved=backend(home, models=["moved"], p50Ms=1),
        families=backend(home, models=["m:1"], families={"qwen-coder": "coder:7b"}),
        broken=backend(home, endpoint="http://127.0.0.1:9"),
        slow=backend(home, models=["moved"], p50Ms=60000),
    )  # fmt: skip
    running: Router = router({**rules, "ab": {"enabled": True, "sampleRate": 1.0, "candidates": {"home": "moved"}}})
    texts = (
        "Fix this Python function: def f(x): retrun x + 1",
        "Summarise this text in three sentences: " + "word " * 50,
        "Classify this review as positive or negative: I love it",
        "hello",
    )
    for text, _ in itertools.product(texts, range(5)):
        answer = ask(running, text=text)
        assert (answer.status, answer.headers["X-LLR-Model"]) == (200, "m:1"), answer.body
    running.wait_rows(20)
    assert home.handed_on == []


def test_a_model_that_becomes_remote_is_noticed_and_back_again(home: Upstream, router: Start) -> None:
    running: Router = router(policy(home), workers=2)
    assert ask(running).status == 200
    home.remote["m:1"] = CLOUD
    refused = lambda: all(ask(running).status in (502, 503) for _ in range(10))  # noqa: E731
    wait_until(refused, 10, "the answers of the last second to be over in both workers")
    home.handed_on.clear()
    assert refused()
    assert home.handed_on == []
    del home.remote["m:1"]
    # Discovery, every 30 s, or the next question tells it.
    running.sighup()
    wait_until(lambda: all(ask(running).status == 200 for _ in range(6)), 20, "private requests to be served again")


@pytest.mark.parametrize("private, questions", [(False, 0), (True, 1)], ids=["not private", "private"])
def test_how_often_the_server_is_asked(home: Upstream, router: Start, private: bool, questions: int) -> None:
    """Once a second and model for private requests, whatever their number; never for the others."""
    running: Router = router(policy(home), workers=1)
    for name in ("m:1", "home", "auto", "home/m:1") * 5:
        assert ask(running, name, private=private).status == 200
    asked = [request.received_at for request in home.requests if request.path == "/api/show"]
    assert bool(asked) is bool(questions)
    assert all(later - sooner >= 0.9 for sooner, later in itertools.pairwise(asked)), asked


NO_ANSWER: dict[str, Play] = {
    "500": error(500), "405": error(405), "HTML": html(), "garbage": reply(200, b"{"), "silence": [HANG],
}  # fmt: skip


@pytest.mark.parametrize("answer", NO_ANSWER.values(), ids=NO_ANSWER)
def test_a_server_that_does_not_say_gets_no_private_request(
    home: Upstream, upstream: Start, router: Start, answer: Play
) -> None:
    """The next target gets it, and all other requests still go there."""
    home.script(answer, path="/api/show", repeat=True)
    den = upstream(models=["d:1"], text="from den")
    hasty = backend(home, timeouts={**HASTY, "firstByteMs": 300})
    rules = {
        "backends": {"home": hasty, "den": backend(den, models=["d:1"])},
        "routes": [{"default": "home", "fallback": "den"}],
    }
    running: Router = router(rules, workers=1)
    for _ in range(4):
        answered = ask(running)
        assert (answered.status, answered.headers["X-LLR-Backend"]) == (200, "den"), answered.body
        assert answered.headers["X-LLR-Fallback-For"] == "home"
    assert ask(running, private=False).headers["X-LLR-Backend"] == "home"
    assert [CANARY in request.body.decode() for request in home.requests].count(True) == 1
    refused = ask(running, "home")
    assert refused.status == 502 and "did not say where it runs m:1" in refused.error["message"]


@pytest.mark.parametrize("answer", [error(404), reply(200, {"details": {}})], ids=["404", "no such field"])
def test_an_old_server_gets_private_requests(home: Upstream, router: Start, answer: Play) -> None:
    home.script(answer, path="/api/show", repeat=True)
    running: Router = router(policy(home), workers=1)
    assert ask(running).status == 200


def test_the_ledger_the_models_and_the_page_say_what_left(home: Upstream, router: Start) -> None:
    running: Router = router(policy(home), workers=1)
    discovered(running)
    for model in ("moved", "moved:latest", "home/m:1"):
        assert ask(running, f"home/{model}" if "/" not in model else model, private=False).status == 200
    rows = running.wait_rows(3)
    assert [(row["model"], row["destination"]) for row in rows] == [
        ("moved:latest", "ollama.com:443"),
        ("moved:latest", "ollama.com:443"),
        ("m:1", None),
    ]
    wait_until(lambda: running.get("/v1/egress").json["destinations"], 10, "the ledger")
    assert running.get("/v1/egress").json["destinations"]["ollama.com:443"]["calls"] == 2
    assert "ollama.com:443" in flask(running, "egress")
    assert running.get("/v1/metrics").json["total"]["local_share"] == pytest.approx(1 / 3, abs=0.001)
    entries = {entry["id"]: entry.get("remote_host") for entry in running.get("/v1/models").json["data"]}
    assert entries == {
        "auto": None, "home": None, "m:1": None, "moved:latest": "ollama.com:443", "coder:7b": "ollama.com:443",
    }  # fmt: skip
    assert "moved:latest runs at ollama.com:443" in running.get("/").body.decode()
    assert "home: moved:latest runs at ollama.com:443: it is not local" in flask(running, "backends", "list")
    assert "3 models, 2 run at another host" in flask(running, "backends", "probe")
    planned = running.post("/v1/route", chat_body("hello", model="home/moved")).json
    assert (planned["targets"][0]["model"], planned["calls"][0]["local"]) == ("moved:latest", False)
    private = running.post("/v1/route", chat_body("hello", model="home/moved"), PRIVATE).json
    assert (private["targets"][0]["model"], private["calls"][0]["local"]) == ("m:1", True)


def flask(running: Router, *arguments: str) -> str:
    command = [sys.executable, "-m", "flask", *arguments]
    environ = running.environment() | {"LLR_PORT": "3030"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def names(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment in which `public.localhost` resolves to an address that is not there."""
    (tmp_path / "names").mkdir()
    (tmp_path / "names" / "sitecustomize.py").write_text(
        "import socket\n"
        "real = socket.getaddrinfo\n"
        "def fake(host, port, *more, **named):\n"
        "    return real('203.0.113.7' if host == 'public.localhost' else host, port, *more, **named)\n"
        "socket.getaddrinfo = fake\n"
    )
    yield {"PYTHONPATH": str(tmp_path / "names")}


def test_a_loopback_name_that_leads_outside_is_not_local(home: Upstream, router: Start, names: dict[str, str]) -> None:
    away = backend(home, endpoint=f"http://public.localhost:{home.port}", timeouts={**HASTY, "connectMs": 200})
    running: Router = router(policy(home, away=away), workers=1, env=names)
    answer = ask(running, "away")
    assert (answer.status, answer.headers["X-LLR-Backend"]) == (200, "home"), "a pin that may not be goes by the routes"
    listed = json.loads(flask(running, "backends", "list", "--json"))
    assert {row["backend"]: row["local"] for row in listed} == {"home": True, "away": False}

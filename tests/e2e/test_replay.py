"""`flask policy replay` on traffic of every kind: an unchanged policy changes nothing, another one what it should."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.e2e.server import ROOT, Router, chat_body, wait_until
from tests.fakes import replies
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

PROSE = "Tell me a story about a lighthouse keeper"
CODE = "Write a python function that reverses a string"
HARD = "Prove that every continuous function on a compact metric space is uniformly continuous, and derive the lemma."
WEATHER = "What's the weather in Berlin tomorrow?"
IMAGE = [
    {"type": "text", "text": "what is it?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,A"}},
]
PRIVATE = {"X-LLR-Sensitivity": "high"}
KEYS = {"OPENAI_API_KEY": "key-for-tests"}


def policy(local: Any, cloud: Any, native: Any) -> dict[str, Any]:
    """Every stage of a decision has something to do in it."""
    return {
        "backends": {
            "local": {
                "type": "ollama",
                "endpoint": local.url,
                "models": ["m:1", "m:2"],
                "families": {"qwen-coder": "coder:1"},
                "contextWindow": 3000,
                "p50Ms": 5000,
                "price": {"input": 0, "output": 0},
            },
            "found": {"type": "ollama", "endpoint": f"{local.url}/found"},
            "cloud": {
                "type": "openai",
                "endpoint": f"{cloud.url}/v1",
                "model": "c-1",
                "p50Ms": 100,
                "price": {"input": 10, "output": 20},
            },
            "shaky": {
                "type": "openai",
                "endpoint": f"{cloud.url}/shaky/v1",
                "model": "s-1",
                "p50Ms": 900,
                "contextWindow": 2000,
            },
            "native": {"type": "openai", "endpoint": f"{native.url}/v1", "model": "n-1", "responses": "native"},
        },
        "routes": [
            {"match": {"sensitivity": "high", "task": "code"}, "backend": "local"},
            {"match": {"task": "vision"}, "backend": "native", "fallback": "local"},
            {"match": {"tokens": {"min": 500}}, "backend": "shaky", "fallback": "cloud", "latencyBudgetMs": 300},
            {"match": {"difficulty": {"min": 0.5}}, "backend": "cloud", "fallback": "local"},
            {"match": {"task": "code"}, "backend": "local", "fallback": "cloud"},
            {"match": {"task": "web_search", "confidence": {"min": 0.5}}, "backend": "shaky", "fallback": "local"},
            {"default": "local", "fallback": ["found", "cloud"], "latencyBudgetMs": 1000},
        ],
        "sensitivity": {"detect": ["email"]},
        "complexity": {"medium": 0.2, "high": 0.6},
    }


def traffic(router: Router, cloud: Any, native: Any) -> None:
    """Pins, private requests, fallbacks, cool-downs, budget shifts, medians, windows, images, both APIs, streams."""
    cloud.script(replies.error(503), path="/shaky/v1/chat/completions", repeat=True)
    router.chat("word " * 900)  # a hosted primary over its budget, that goes first to be measured
    for _ in range(8):  # over the budget at first; measured in the background, and so found fast
        assert router.chat(PROSE).status == 200
    for text in (CODE, HARD, WEATHER, "write to tim@corp.example", "word " * 900, "word " * 4000):
        router.chat(text)
        router.chat(text, max_tokens=200)
        router.chat(text, headers=PRIVATE)
        with router.stream(text) as stream:
            stream.read()
        router.post("/v1/responses", {"input": text})
    for model in ("local", "cloud", "found", "cloud/any", "m:2", "local/odd", "gpt-4o", "AUTO", "not a name at all"):
        router.chat(PROSE, model=model)
        router.chat(PROSE, model=model, headers=PRIVATE)
    for _ in range(6):  # `shaky` fails until its circuit opens
        router.chat(WEATHER)
    router.post("/v1/chat/completions", chat_body("", messages=[{"role": "user", "content": IMAGE}]))
    kept = {"id": "resp_kept", "object": "response", "status": "completed", "output": []}
    native.script(replies.reply(200, kept), path="/responses", repeat=True)
    first = router.post("/v1/responses", {"input": PROSE, "model": "native"}).json
    router.post("/v1/responses", {"input": "why?", "previous_response_id": first["id"]})
    router.chat(PROSE, headers={"X-LLR-Sensitivity": "high"}, model="cloud")  # refused: leaves no row
    talk(router)
    wait_until(lambda: router.chat(PROSE).headers["X-LLR-Backend"] == "local", 30, "the local median to count")
    cloud.reset()


def talk(router: Router) -> None:
    """Keep a conversation over each API: the short turns of both stay with the task, and both change it."""
    turns = [CODE, "shorter", "and with tests", "Something else entirely: tell me a story about leeks.", "longer"]
    messages: list[dict[str, Any]] = []
    previous: dict[str, Any] = {}
    for turn, is_code in zip(turns, (True, True, True, False, False), strict=True):
        messages.append({"role": "user", "content": turn})
        chat = router.post("/v1/chat/completions", {"model": "auto", "messages": messages})
        response = router.post("/v1/responses", {"model": "auto", "input": turn, **previous})
        for reply in (chat, response):
            assert (reply.headers["X-LLR-Route"] == "task=code") == is_code, turn
        messages.append({"role": "assistant", "content": "Done."})
        previous = {"previous_response_id": response.json["id"]}


def replay(router: Router, rules: dict[str, Any] | None = None, *options: str) -> dict[str, Any]:
    file = router.folder / "new.yaml"
    file.write_text(router.policy_file.read_text() if rules is None else json.dumps(rules), "utf-8")
    command = [sys.executable, "-m", "flask", "policy", "replay", str(file), "--since", "1h", "--json", *options]
    done = subprocess.run(
        command, cwd=ROOT, env=router.environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def count(router: Router, where: str = "1") -> int:
    """Requests that made a call; `where` is about their first one."""
    return len(router.rows(f"SELECT id FROM metrics WHERE NOT shadow AND basis NOT NULL AND {where}"))


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Router, dict[str, Any]]]:
    with ExitStack() as stack:
        local = stack.enter_context(Upstream(models=["m:1", "m:2", "coder:1"]))
        cloud, native = stack.enter_context(Upstream()), stack.enter_context(Upstream())
        rules = policy(local, cloud, native)
        folder = tmp_path_factory.mktemp("replay")
        router = stack.enter_context(Router(rules, folder=folder, workers=2, env=KEYS))
        traffic(router, cloud, native)
        assert router.terminate() == 0
        yield router, rules


def test_the_traffic_was_of_every_kind(house: tuple[Router, dict[str, Any]]) -> None:
    """So that the tests below say something."""
    router, _ = house
    rows = router.rows("SELECT * FROM metrics WHERE NOT shadow")
    assert {row["reason"] for row in rows} == {"route", "pin", "continuation", "fit", "cooling", "spill", "fallback"}
    assert {row["sensitivity"] for row in rows} == {"normal", "high"}
    assert {row["surface"] for row in rows} == {"chat", "responses"}
    assert {row["stream"] for row in rows} == {0, 1}
    assert len({row["route"] for row in rows}) == 9
    assert {"local", "cloud/any", "m:2", "local/odd", "gpt-4o", ""} < {row["asked_model"] for row in rows}
    assert not [row for row in rows if row["asked_model"] and " " in row["asked_model"]], "prose is not kept"
    kept = "".join(row["basis"] for row in rows if row["basis"])
    assert '"ms":' in kept and '"cooling":["shaky"]' in kept and '"out":200' in kept and '"measured":true' in kept
    assert all((row["basis"] is None) == (row["reason"] == "fallback") for row in rows)


def test_an_unchanged_policy_changes_nothing(house: tuple[Router, dict[str, Any]]) -> None:
    router, _ = house
    report = replay(router)
    assert report["requests"] == report["unchanged"] == count(router) > 60
    assert (report["changed"], report["not_replayed"], report["changes"]) == (0, 0, [])
    assert report["decided_under"] == {report["policy"]: report["requests"]}


def test_nor_does_one_that_differs_in_its_text_only(house: tuple[Router, dict[str, Any]]) -> None:
    router, rules = house
    report = replay(router, rules)
    assert report["policy"] not in report["decided_under"]
    assert (report["requests"], report["changed"]) == (count(router), 0)


def test_code_that_would_go_to_the_cloud(house: tuple[Router, dict[str, Any]]) -> None:
    router, rules = house
    rules = copy.deepcopy(rules)
    (route,) = (route for route in rules["routes"] if route.get("match") == {"task": "code"})
    route["backend"], route["fallback"] = "cloud", "local"
    report = replay(router, rules)
    moved = count(router, "route = 'task=code'")
    assert moved > 0
    assert report["changed"] == report["elsewhere"] == report["privacy"]["leaves"] == moved
    (change,) = report["changes"]
    names = ("change", "route_then", "target_then", "route_now", "target_now", "requests")
    assert tuple(change[name] for name in names) == (
        "elsewhere", "task=code", "local/coder:1", "task=code", "cloud/c-1", moved
    )  # fmt: skip
    counted = router.rows("SELECT * FROM metrics WHERE route = 'task=code' AND NOT shadow AND output_tokens NOT NULL")
    cost = sum(row["input_tokens"] * 10 + row["output_tokens"] * 20 for row in counted) / 1_000_000
    assert report["cost_usd"] == {"then": 0, "then_known": moved, "now": pytest.approx(cost), "now_known": len(counted)}
    assert report["privacy"]["comes_home"] == report["privacy"]["private_refused"] == 0


def test_a_model_that_becomes_known_and_a_backend_that_goes(house: tuple[Router, dict[str, Any]]) -> None:
    router, rules = house
    rules = copy.deepcopy(rules)
    rules["backends"]["cloud"]["models"] = ["c-1", "gpt-4o"]
    del rules["backends"]["native"]
    (route,) = (route for route in rules["routes"] if route.get("backend") == "native")
    route["backend"] = "cloud"
    changes = {(change["route_then"], change["route_now"]) for change in replay(router, rules)["changes"]}
    assert changes >= {
        ("default", "pin"),
        ("pin", "default"),
        ("continuation", "previous_response_not_found"),
        ("task=vision", "task=vision"),
    }


def test_as_text_and_one_by_one(house: tuple[Router, dict[str, Any]]) -> None:
    router, _ = house
    backends = {"local": {"type": "ollama", "models": ["m:1"], "contextWindow": 3000}}
    (router.folder / "small.yaml").write_text(json.dumps({"backends": backends, "routes": [{"default": "local"}]}))
    command = [sys.executable, "-m", "flask", "policy", "replay", str(router.folder / "small.yaml"), "--list"]
    done = subprocess.run(command, cwd=ROOT, env=router.environment(), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    (top,) = (number for number, line in enumerate(lines) if " requests since " in line)
    assert any("task=code local/coder:1 -> default local/m:1" in line for line in lines[:top])
    assert any("-> context_length_exceeded none" in line for line in lines[:top])
    assert lines[top].startswith(f"{count(router)} requests since 20")
    assert any(line.startswith("refused ") for line in lines[top:])
    assert lines[-2].startswith("privacy  0 would leave for a backend that is not local, ")


def test_evidence_is_shown_and_not_kept(router: Any, tmp_path: Any) -> None:
    running = router(
        {"backends": {"echo": {"type": "echo"}}, "routes": [{"default": "echo"}]}, folder=tmp_path / "shown"
    )
    answer = running.post("/v1/route", chat_body("Why does my kubectl zanzibar function fail?"))
    assert "(kubectl)" in json.dumps(answer.json["evidence"])
    assert answer.json["evidence"]["runner_up"] in ("general", "web_search", "summarisation", "classification")
    assert running.chat("Why does my kubectl zanzibar function fail?").status == 200
    running.wait_rows(1)
    assert running.terminate() == 0
    kept = b"".join(file.read_bytes() for file in running.folder.rglob("*") if file.is_file())
    assert b"kubectl" not in kept and b"zanzibar" not in kept

"""Decisions by facts at work, before a scripted Ollama: capabilities, windows, cold models, queues and probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, chat_body, wait_until
from tests.fakes.ollama import Model, Ollama
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

LOAD_S, BUDGET_MS = 0.8, 400
HELD = Model("held:latest", load_s=LOAD_S, capabilities=("completion", "tools"))
OTHER = Model("other:latest", capabilities=("completion",))
BUSY = Model("busy:latest", token_s=0.5)
VECTORS = Model("vectors:latest", capabilities=("embedding",))
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
EXPLAIN = {"X-LLR-Explain": "1"}


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with Ollama([HELD, OTHER, BUSY, VECTORS], window=1000) as server:
        yield server


@pytest.fixture
def cloud(upstream: Callable[..., Upstream]) -> Upstream:
    return upstream()


Start = Callable[..., Router]


@pytest.fixture
def start(router: Callable[..., Router], ollama: Ollama, cloud: Upstream) -> Start:
    def started(
        model: str = "held", *, workers: int = 2, fallback: bool = True, budget_ms: int = BUDGET_MS, **own: Any
    ) -> Router:
        gpu = {"type": "ollama", "endpoint": ollama.url, "models": [model], "p50Ms": 50, **own}
        backends = {"gpu": gpu, "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "p50Ms": 60}}
        route: dict[str, Any] = {"default": "gpu"} | ({"fallback": "cloud"} if fallback else {})
        route |= {"latencyBudgetMs": budget_ms} if budget_ms else {}
        return router({"backends": backends, "routes": [route]}, workers=workers, env={"OPENAI_API_KEY": "key"})

    return started


def plan(router: Router, **body: Any) -> Any:
    return router.post("/v1/route", chat_body("hello", **body)).json


def wait_for_load(router: Router, load_ms: bool) -> None:
    """Wait until several answers in a row, of whichever worker, say that the model must be loaded, or need not."""

    def all_say_so() -> bool:
        return all(bool(plan(router, model="gpu")["calls"][0]["expected"]["load_ms"]) is load_ms for _ in range(6))

    wait_until(all_say_so, 20, "all workers to know")


def backend_of(answer: Answer) -> str | None:
    assert answer.status == 200, answer.body
    return answer.headers["X-LLR-Backend"]


def trace(answer: Answer) -> str:
    return answer.headers["X-LLR-Trace"] or ""


# --- capabilities and windows -------------------------------------------------------------------


def test_what_a_model_lacks_goes_to_the_next_target(start: Start, ollama: Ollama, cloud: Upstream) -> None:
    router = start("other", budget_ms=0)
    answer = router.chat("weather?", tools=[TOOL], headers=EXPLAIN)
    assert backend_of(answer) == "cloud"
    assert "capabilities: dropped gpu/other: its model lacks tools" in trace(answer)
    assert cloud.chats[0].json["tools"] == [TOOL]
    assert backend_of(router.chat("weather?", tools=[TOOL], tool_choice="none")) == "gpu"
    body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}]}
    assert backend_of(router.post("/v1/chat/completions", body)) == "cloud"
    assert len(ollama.answers) == 1
    reasons = [(row["backend"], row["reason"], row["fallback_for"]) for row in router.wait_rows(3)]
    assert sorted(reasons) == [("cloud", "capability", None), ("cloud", "capability", None), ("gpu", "route", None)]


@pytest.mark.parametrize("model, lacks", [("other", "tools"), ("vectors", "completion")])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_what_every_model_lacks_is_refused_before_a_call(
    start: Start, ollama: Ollama, model: str, lacks: str, path: str
) -> None:
    router = start(model, fallback=False)
    answer = router.post(path, chat_body("weather?", tools=[TOOL]))
    assert (answer.status, answer.error["code"]) == (400, "unsupported_by_models")
    assert f"gpu/{model} does not support {lacks}" in answer.error["message"]
    pinned = router.post(path, chat_body("weather?", tools=[TOOL], model=f"gpu/{model}"))
    assert (pinned.status, pinned.error["code"]) == (400, "unsupported_by_models")
    assert ollama.answers == ollama.loads == []


def test_a_window_in_force_that_is_too_small(start: Start, ollama: Ollama) -> None:
    router = start("other", workers=1, budget_ms=0)
    router.chat("hello", model="gpu")
    long = "word " * 2500
    wait_until(lambda: "learned window" in str(plan_of(router, long)["trace"]), 10, "the window to be known")
    answer = router.chat(long, headers=EXPLAIN)
    assert backend_of(answer) == "cloud"
    assert "its learned window holds 1000" in trace(answer)
    assert len(ollama.answers) == 1


@pytest.mark.parametrize("fallback", [True, False])
def test_an_old_server_cuts_no_prompt_after_a_load(
    router: Callable[..., Router], cloud: Upstream, fallback: bool
) -> None:
    """Its window is known only when the model is loaded, and it would cut the prompt without an error."""
    with Ollama([OTHER], window=1000, version="0.11.0") as old:
        backends = {
            "gpu": {"type": "ollama", "endpoint": old.url, "models": ["other"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big"},
        }
        route = {"default": "gpu"} | ({"fallback": "cloud"} if fallback else {})
        running = router({"backends": backends, "routes": [route]}, env={"OPENAI_API_KEY": "key"})
        answer = running.chat("word " * 2500)
        if fallback:
            assert backend_of(answer) == "cloud"
            assert answer.headers["X-LLR-Fallback-For"] == "gpu"
        else:
            assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
            assert "its learned window holds 1000" in answer.error["message"]
        assert old.loads == ["other:latest"]
        assert old.answers == []


def plan_of(router: Router, text: str) -> Any:
    return router.post("/v1/route", chat_body(text)).json


# --- loads --------------------------------------------------------------------------------------


def test_a_cold_model_is_passed_over_and_not_loaded_by_a_probe(start: Start, ollama: Ollama) -> None:
    router = start()
    wait_for_load(router, True)
    answer = router.chat(headers=EXPLAIN)
    assert backend_of(answer) == "cloud"
    assert "(not loaded: +2 s), over the budget of 400 ms; cloud/big goes first" in trace(answer)  # by its size
    for _ in range(5):
        assert backend_of(router.chat()) == "cloud"
    rows = router.wait_rows(6)
    assert {(row["kind"], row["reason"]) for row in rows} == {("live", "spill")}
    assert ollama.loads == []
    router.chat(model="gpu")
    wait_for_load(router, False)
    assert backend_of(router.chat()) == "gpu", "another request has loaded it"
    ollama.unload("held:latest")
    wait_for_load(router, True)
    answer = router.chat(headers=EXPLAIN)
    assert "(not loaded: +8" in trace(answer), "as it was measured"
    assert backend_of(answer) == "cloud"
    assert ollama.loads == ["held:latest"]


def test_after_five_cold_loads_a_warm_model_is_not_passed_over(start: Start, ollama: Ollama) -> None:
    router = start()
    for _ in range(5):
        ollama.unload("held:latest")
        wait_for_load(router, True)
        assert backend_of(router.chat(model="gpu")) == "gpu"
        wait_for_load(router, False)
    rows = router.wait_rows(5)
    assert all(row["load_ms"] >= LOAD_S * 900 for row in rows)
    wait_until(lambda: plan(router)["calls"][0]["expected_from"] == "measured", 10, "the median")
    assert [backend_of(router.chat()) for _ in range(6)] == ["gpu"] * 6
    assert all(plan(router)["calls"][0]["expected_ms"] < BUDGET_MS for _ in range(6))


# --- queues -------------------------------------------------------------------------------------


def test_a_long_queue_is_passed_over(start: Start) -> None:
    router = start("busy", budget_ms=0, maxConcurrency=1, maxWaitMs=100, p50Ms=500)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(router.chat, model="gpu")
        wait_until(lambda: plan(router, model="gpu")["calls"][0]["expected"]["ahead"], 10, "the queue")
        others = [pool.submit(router.chat, headers=EXPLAIN) for _ in range(3)]
        answers = [other.result() for other in others]
    assert backend_of(first.result()) == "gpu"
    assert {backend_of(answer) for answer in answers} == {"cloud"}
    assert all("queue: gpu/busy has 1 ahead: +500 ms" in trace(answer) for answer in answers)
    rows = [row for row in router.wait_rows(4) if row["backend"] == "cloud"]
    assert {(row["reason"], row["fallback_for"]) for row in rows} == {("queue", None)}

"""The scripted Ollama does what a real one was seen to do."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.server import wait_until
from tests.fakes.ollama import Model, Ollama

SMALL = Model("small:latest")
LARGE = Model("large:8b", capabilities=("completion", "vision", "thinking"), trained=200)


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with Ollama([SMALL, LARGE], window=100) as server:
        yield server


def call(ollama: Ollama, path: str, body: dict[str, Any] | None = None) -> tuple[int, Any]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(ollama.url + path, data), timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def chat(ollama: Ollama, model: str, words: int = 3, path: str = "/api/chat", **options: Any) -> tuple[int, Any]:
    message = {"role": "user", "content": "word " * words}
    return call(ollama, path, {"model": model, "messages": [message], "stream": False, **options})


def test_it_loads_and_evicts(ollama: Ollama) -> None:
    for model in ("small", "small:latest", "large:8b", "small"):
        assert chat(ollama, model)[0] == 200
    assert ollama.loads == ["small:latest", "large:8b", "small:latest"]
    assert ollama.evictions == ["small:latest", "large:8b"]
    [loaded] = call(ollama, "/api/ps")[1]["models"]
    assert (loaded["name"], loaded["context_length"]) == ("small:latest", 100)


@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_it_cuts_long_prompts_without_a_word(ollama: Ollama, path: str) -> None:
    status, answer = chat(ollama, "small", 150, path)
    assert status == 200
    read = answer.get("prompt_eval_count") or answer["usage"]["prompt_tokens"]
    assert read == 50
    [event] = ollama.answers
    assert event.cut


def test_truncate_false_is_an_honest_400(ollama: Ollama) -> None:
    status, answer = chat(ollama, "small", 150, truncate=False)
    assert status == 400
    error = json.loads(answer["error"])["error"]
    assert (error["type"], error["n_prompt_tokens"], error["n_ctx"]) == ("exceed_context_size_error", 154, 100)


def test_another_num_ctx_loads_anew_and_the_same_does_not(ollama: Ollama) -> None:
    for size in (150, 150, 120):
        assert chat(ollama, "small", options={"num_ctx": size})[0] == 200
    assert ollama.loads == ["small:latest"] * 2
    chat(ollama, "small", path="/v1/chat/completions")
    assert ollama.loads == ["small:latest"] * 3


def test_the_window_is_never_larger_than_the_trained_length(ollama: Ollama) -> None:
    chat(ollama, "large:8b", options={"num_ctx": 10_000})
    assert call(ollama, "/api/ps")[1]["models"][0]["context_length"] == 200


@pytest.mark.parametrize(
    ("model", "more", "lack"),
    [
        ("large:8b", {"tools": [{"function": {"name": "f"}}]}, "tools"),
        ("small", {"think": True}, "thinking"),
        ("small", {"messages": [{"role": "user", "content": "", "images": ["eA=="]}]}, "vision"),
    ],
)
def test_what_a_model_cannot_do_is_refused(ollama: Ollama, model: str, more: dict[str, Any], lack: str) -> None:
    status, answer = chat(ollama, model, **more)
    assert (status, f"does not support {lack}" in answer["error"]) == (400, True)


def test_unknown_models_are_404(ollama: Ollama) -> None:
    assert chat(ollama, "nobody")[0] == 404
    assert call(ollama, "/api/show", {"model": "nobody"})[0] == 404


def test_one_model_answers_in_the_order_of_arrival() -> None:
    with Ollama([Model("one:latest", prefill_s=0.05)]) as ollama, ThreadPoolExecutor(5) as pool:
        chat(ollama, "one")
        jobs = []
        for number in range(5):
            jobs.append(pool.submit(chat, ollama, "one", number + 1))
            wait_until(lambda n=number: len([e for e in ollama.log if e.kind == "wait"]) == n + 2, 5, "the request")
        assert all(job.result()[0] == 200 for job in jobs)
    assert [event.tokens for event in ollama.answers[1:]] == [5, 6, 7, 8, 9]


def test_too_many_that_wait_for_a_load_are_refused() -> None:
    with Ollama([Model("one:latest", load_s=0.5)], most_waiting=1) as ollama, ThreadPoolExecutor(3) as pool:
        statuses = sorted(status for status, _ in pool.map(lambda _: chat(ollama, "one"), range(3)))
    assert statuses[0] == 200
    assert statuses[-1] == 503


def test_generate_loads_and_unloads(ollama: Ollama) -> None:
    assert call(ollama, "/api/generate", {"model": "small", "keep_alive": -1})[1]["done_reason"] == "load"
    assert call(ollama, "/api/generate", {"model": "small", "keep_alive": 0})[1]["done_reason"] == "unload"
    assert (ollama.loads, ollama.evictions) == (["small:latest"], ["small:latest"])

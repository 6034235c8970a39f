"""The router before a scripted Ollama: its own API, the context window, and what stays with the operator."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, Stream, content, wait_until
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import RESET, Step, error, html, reply
from tests.fakes.upstream import Upstream

SMALL = Model("small:latest", capabilities=("completion", "tools", "vision"))
LARGE = Model("large:latest", capabilities=("completion", "tools", "vision", "thinking"))
PLAIN = Model("plain:latest", capabilities=("completion",))
WINDOW, LARGER = 1000, 100_000
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def words(count: int) -> str:
    return "word " * count


def native(ollama: Ollama) -> dict[str, Any]:
    return {"type": "ollama", "endpoint": ollama.url}


def backends(small: Ollama, large: Ollama) -> dict[str, Any]:
    return {
        "small": native(small) | {"models": ["small", "plain"]},
        "large": native(large) | {"models": ["large"]},
    }


@pytest.fixture
def small() -> Iterator[Ollama]:
    with Ollama([SMALL, PLAIN], window=WINDOW) as ollama:
        yield ollama


@pytest.fixture
def large() -> Iterator[Ollama]:
    with Ollama([LARGE], window=LARGER) as ollama:
        yield ollama


@pytest.fixture
def router(small: Ollama, large: Ollama, tmp_path: Path) -> Iterator[Router]:
    routes = [
        {"match": {"sensitivity": "high"}, "backend": "small"},
        {"match": {"task": "web_search"}, "backend": "small"},
        {"default": "small", "fallback": "large"},
    ]
    with Router({"backends": backends(small, large), "routes": routes}, folder=tmp_path) as running:
        yield running


def rows(router: Router, answer: Answer | Stream, count: int = 1) -> list[dict[str, Any]]:
    query, name = "SELECT * FROM metrics WHERE request_id = ? ORDER BY id", answer.headers["X-LLR-Request-Id"]
    return wait_until(lambda: len(made := router.rows(query, name)) >= count and made, 5, "the rows")


def test_a_chat_goes_over_the_native_api(router: Router, small: Ollama) -> None:
    answer = router.chat("hello there", temperature=0.5, keep_alive=0, options={"num_ctx": 5, "top_k": 3})
    assert answer.status == 200
    assert answer.text == "read 6 tokens"
    assert answer.json["usage"] == {"prompt_tokens": 6, "completion_tokens": 3, "total_tokens": 9}
    assert answer.json["id"].startswith("chatcmpl-")
    [event] = small.answers
    assert event.path == "/api/chat"
    assert event.body["truncate"] is False
    assert event.body["options"] == {"temperature": 0.5, "top_k": 3}
    assert "keep_alive" not in event.body
    [row] = rows(router, answer)
    assert (row["input_tokens"], row["output_tokens"], row["finish"]) == (6, 3, "stop")


def test_members_without_a_place_are_named_in_the_trace(router: Router) -> None:
    headers = {"X-LLR-Explain": "1"}
    answer = router.chat("hello", user="u", options={"num_ctx": 5}, headers=headers)
    assert "small does not get user, options.num_ctx" in " ".join(str(value) for _, value in answer.headers.items())


def test_every_stream_is_counted(router: Router) -> None:
    with router.stream("hello there") as stream:
        events = stream.events()
    assert content(events) == "read 6 tokens"
    assert events[-1] == "[DONE]"
    assert not any("usage" in event for event in events[:-1])  # the client did not ask
    [row] = rows(router, stream)
    assert (row["input_tokens"], row["output_tokens"], row["stream"]) == (6, 3, 1)


@pytest.mark.parametrize("stream", [False, True])
def test_tools(router: Router, stream: bool) -> None:
    answer = router.chat("call weather", tools=[TOOL], stream=stream)
    choice = (answer.events[0] if stream else answer.json)["choices"][0]
    [call] = choice["delta" if stream else "message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == ("weather", {"city": "Rome"})


def test_responses(router: Router, small: Ollama) -> None:
    answer = router.post("/v1/responses", {"input": "hello there", "instructions": "be brief"})
    assert answer.status == 200
    assert answer.json["output"][-1]["content"][0]["text"] == "read 12 tokens"
    with router.stream(path="/v1/responses", json={"input": "hello", "stream": True}) as stream:
        last = [event for event in stream.events() if event != "[DONE]"][-1]
    assert last["type"] == "response.completed"
    assert {event.path for event in small.answers} == {"/api/chat"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long_goes_to_the_larger_window(router: Router, small: Ollama, stream: bool) -> None:
    answer = router.chat(words(2 * WINDOW), stream=stream)
    assert answer.status == 200
    assert answer.headers["X-LLR-Backend"] == "large"
    assert not small.answers
    failed, answered = rows(router, answer, 2)
    assert (failed["outcome"], failed["error"], answered["outcome"]) == ("error", "too_long", "ok")
    assert router.chat("hello").headers["X-LLR-Backend"] == "small"  # no circuit opened


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_with_no_larger_window_it_is_a_400_with_the_counts(router: Router, path: str, stream: bool) -> None:
    text = words(2 * WINDOW)
    body: dict[str, Any] = {"model": "small/small", "stream": stream}
    body |= {"input": text} if path.endswith("responses") else {"messages": [{"role": "user", "content": text}]}
    answer = router.post(path, body)
    assert answer.status == 400
    error = answer.json["error"]
    assert (error["code"], error["type"]) == ("context_length_exceeded", "invalid_request_error")
    assert "2004" in error["message"]
    assert "1000" in error["message"]


def test_a_private_one_is_told_in_our_words(router: Router) -> None:
    answer = router.chat(words(2 * WINDOW), headers={"X-LLR-Sensitivity": "high"})
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert "It has 2004 tokens, and 1000 fit" in answer.error["message"]


@pytest.mark.parametrize(
    "request_body",
    [{"tools": [TOOL]}, {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, IMAGE]}]}],
)
def test_what_a_model_cannot_do_is_a_400_that_says_so(router: Router, request_body: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": "hello"}]
    answer = router.post("/v1/chat/completions", {"model": "small/plain", "messages": messages, **request_body})
    assert (answer.status, answer.error["code"]) == (400, "unsupported_by_models")
    assert "does not support" in answer.error["message"]


def test_a_wish_for_reasoning_is_left_out_for_a_model_without(router: Router, small: Ollama) -> None:
    assert router.chat("hello", reasoning_effort="high").status == 200
    assert "think" not in small.answers[-1].body


def prompt(number: int, numbers: random.Random) -> tuple[str, dict[str, Any]]:
    """Return the path and the body of one of many requests, of 0.5 to 3 times the window, in every form."""
    text, stream = words(int(WINDOW * numbers.uniform(0.5, 3))), number % 2 == 0
    body: dict[str, Any] = {"model": "small/small" if number % 3 == 0 else "auto", "stream": stream}
    if number % 4 == 0:
        parts = [{"type": "input_text", "text": text}]
        if number % 12 == 0:
            parts.append({"type": "input_image", "image_url": IMAGE["image_url"]["url"]})
        tools = [{"type": "function", **TOOL["function"]}] if number % 8 == 0 else []
        return "/v1/responses", body | {"input": [{"role": "user", "content": parts}], "tools": tools}
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    if number % 7 == 0:
        messages = [{"role": "user", "content": [{"type": "text", "text": text}, IMAGE]}]
    elif number % 11 == 0:  # a long conversation: a server that cuts would drop its oldest turns
        turns = [{"role": "user", "content": text[: len(text) // 10]}, {"role": "assistant", "content": "yes"}]
        messages = [*turns * 10, {"role": "user", "content": "and now?"}]
    return "/v1/chat/completions", body | {"messages": messages} | ({"tools": [TOOL]} if number % 5 == 0 else {})


def test_no_answer_is_ever_cut(router: Router, small: Ollama, large: Ollama) -> None:
    numbers = random.Random(14)
    requests = [prompt(number, numbers) for number in range(1000)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: router.post(*request), requests))
    for (_, body), answer in zip(requests, answers, strict=True):
        pinned = body["model"] != "auto"
        assert answer.status == 200 or (answer.status == 400 and pinned), answer.body[:300]
        if answer.status == 400:
            assert answer.json["error"]["code"] == "context_length_exceeded"
    assert 100 < sum(answer.status == 400 for answer in answers) < 333
    served = (*small.answers, *large.answers)
    assert len(served) == sum(answer.status == 200 for answer in answers)
    assert not any(event.cut for event in served)
    assert {event.path for event in served} == {"/api/chat"}
    assert large.answers
    assert len(small.loads) == len(large.loads) == 1


BY_URL = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


@pytest.mark.parametrize("stream", [False, True])
def test_an_image_by_url_goes_to_a_server_that_loads_it(tmp_path: Path, small: Ollama, stream: bool) -> None:
    with Upstream(models=["m"], text="seen") as other:
        policy = {
            "backends": {
                "small": native(small) | {"models": ["small"]},
                "other": {"type": "vllm", "endpoint": other.url, "models": ["m"]},
            },
            "routes": [{"default": "small", "fallback": "other"}],
        }
        body = {"messages": [{"role": "user", "content": [{"type": "text", "text": "look"}, BY_URL]}], "stream": stream}
        with Router(policy, folder=tmp_path) as router:
            for _ in range(4):  # more than failures that open a circuit
                answer = router.post("/v1/chat/completions", body)
                assert answer.status == 200
                assert answer.headers["X-LLR-Backend"] == "other"
            failed, _ = rows(router, answer, 2)
            assert (failed["backend"], failed["outcome"], failed["error"]) == ("small", "error", "untranslatable")
            alone = router.post("/v1/chat/completions", body | {"model": "small"})
            assert (alone.status, alone.error["code"]) == (400, "unsupported_by_models")
            assert "does not support images by URL: send them as data: URLs" in alone.error["message"]
            plan = router.post("/v1/route", body).json
            assert [call["backend"] for call in plan["calls"]] == ["other"]
            assert [(left["backend"], "images by URL" in left["why"]) for left in plan["never"]] == [("small", True)]
            private = router.post("/v1/chat/completions", body, {"X-LLR-Sensitivity": "high"})
            assert private.headers["X-LLR-Backend"] == "other"
    assert not small.answers


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_value_that_ollama_cannot_read_is_a_400_by_name(
    router: Router, small: Ollama, stream: bool, private: bool
) -> None:
    headers = {"X-LLR-Sensitivity": "high"} if private else {}
    for members, param in (
        ({"temperature": "hot"}, "temperature"),
        ({"max_completion_tokens": True}, "max_completion_tokens"),
        ({"options": {"top_k": "x"}}, "options.top_k"),
        ({"stop": 5}, "stop"),
        ({"seed": 1e30}, "seed"),
    ):
        answer = router.chat("hello", headers=headers, stream=stream, **members)
        assert (answer.status, answer.error["param"]) == (400, param)
        assert param in answer.error["message"]
    assert not small.answers
    assert router.chat("hello").headers["X-LLR-Backend"] == "small"


@pytest.mark.parametrize("version", ["0.12.5", "0.5", "not told"])
def test_an_old_server_is_asked_as_before(tmp_path: Path, version: str) -> None:
    with Ollama([SMALL], version=version) as ollama:
        policy = {
            "backends": {"local": native(ollama)},
            "routes": [{"default": "local"}],
        }
        with Router(policy, folder=tmp_path) as router:
            assert router.chat("hello").status == 200
    assert ollama.answers[0].path == "/v1/chat/completions"


def test_a_disconnect_frees_the_model(tmp_path: Path) -> None:
    with Ollama([Model("slow:latest", token_s=0.5)]) as ollama:
        policy = {
            "backends": {"local": native(ollama)},
            "routes": [{"default": "local"}],
        }
        with Router(policy, folder=tmp_path) as router, router.stream("hello") as stream:
            stream.until(b"read")
            stream.close()
            wait_until(lambda: any(event.kind == "leave" for event in ollama.log), 10, "the disconnect")


def test_requests_of_all_kinds_load_a_model_once(router: Router, small: Ollama) -> None:
    numbers = random.Random(4)
    for number in range(100):
        path, body = prompt(number, numbers)
        more = {"temperature": numbers.random(), "max_tokens": number, "options": {"num_ctx": number, "num_batch": 8}}
        answer = router.post(path, body | (more if "chat" in path else {"temperature": 1}))
        assert answer.status in (200, 400)
    assert small.loads == ["small:latest"]


def test_the_operators_window_loads_each_model_once(tmp_path: Path) -> None:
    models = [Model("a:latest", trained=50_000), Model("b:latest", trained=50_000)]
    with Ollama(models, most_loaded=2) as ollama:
        local = {
            "type": "ollama",
            "endpoint": ollama.url,
            "numCtx": {"library/A": 20_000, "*": 9000},  # another name of the same model
            "keepAlive": "10m",
        }
        policy = {"backends": {"local": local | {"think": False}}, "routes": [{"default": "local"}]}
        numbers, names = random.Random(3), ("a", "b", "a:latest", "local/A")
        with Router(policy, folder=tmp_path) as router:
            for number in range(100):
                options = {"num_ctx": numbers.choice([1, 5000, 70_000]), "num_gpu": number % 2}
                body: dict[str, Any] = {"options": options, "keep_alive": number % 3, "reasoning_effort": "high"}
                assert router.chat("hello", model=numbers.choice(names), stream=number % 2 == 0, **body).status == 200
    assert sorted(ollama.loads) == ["a:latest", "b:latest"]
    windows = {event.model: event.body for event in ollama.log if event.kind == "load"}
    assert windows == {"a:latest": {"num_ctx": 20_000}, "b:latest": {"num_ctx": 9000}}
    assert {event.body["keep_alive"] for event in ollama.answers} == {"600s"}


def test_with_api_openai_it_is_asked_as_before(tmp_path: Path) -> None:
    with Ollama([SMALL]) as ollama:
        local = native(ollama) | {"api": "openai"}
        with Router({"backends": {"local": local}, "routes": [{"default": "local"}]}, folder=tmp_path) as router:
            assert router.chat("hello").status == 200
    assert ollama.answers[0].path == "/v1/chat/completions"


# --- servers that are not what they claim to be --------------------------------------------------

NEW_VERSION = reply(200, {"version": "0.33.0"})


def one(upstream: Upstream) -> dict[str, Any]:
    local = {"type": "ollama", "endpoint": upstream.url, "models": ["m"]}
    return {"backends": {"local": local}, "routes": [{"default": "local"}]}


def asked(upstream: Upstream) -> list[str]:
    """Return the URLs of chats, in order."""
    return [request.path for request in upstream.requests if request.path.endswith(("/chat", "/completions"))]


@pytest.mark.parametrize(
    "missing",
    [
        reply(404, b"404 page not found", content_type="text/plain"),
        reply(404, {"detail": "Not Found"}),
        reply(405, {"error": "Method Not Allowed"}),
        html(404),
    ],
    ids=["gin", "fastapi", "method", "html"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_server_without_the_path_is_asked_over_v1(tmp_path: Path, missing: list[Step], stream: bool) -> None:
    with Upstream(models=["m"]) as upstream:
        upstream.script(NEW_VERSION, path="/api/version", repeat=True)
        upstream.script(missing, path="/api/chat", repeat=True)
        with Router(one(upstream), folder=tmp_path) as router:
            assert router.chat("hello", stream=stream, headers={"X-Session-Id": "s1"}).status == 200
            assert upstream.chats[-1].header("X-Session-Id") == "s1"
            assert router.chat("hello", max_completion_tokens=5).status == 200
            assert router.log_text().count("has no /api/chat") == 1
        assert asked(upstream) == ["/api/chat", "/v1/chat/completions", "/v1/chat/completions"]
        assert upstream.chats[-1].json["max_tokens"] == 5


def test_a_model_that_is_missing_is_no_missing_path(router: Router, small: Ollama) -> None:
    answer = router.chat("hello", model="small/nope")
    assert answer.status == 404
    assert "nope" in answer.error["message"]
    assert router.chat("hello").status == 200
    assert {event.path for event in small.answers} == {"/api/chat"}


@pytest.mark.parametrize("trouble", [[RESET], error(500), error(503), html(200)], ids=["reset", "500", "503", "html"])
def test_a_server_that_cannot_tell_its_version_is_asked_again(tmp_path: Path, trouble: list[Step]) -> None:
    with Upstream(models=["m"], native=True) as upstream:
        upstream.script(*[trouble] * 4, path="/api/version")
        with Router(one(upstream), folder=tmp_path) as router:
            wait_until(lambda: router.chat("hello").status == 200 and upstream.chats[-1].native, 10, "the native API")


def test_a_server_that_starts_late_is_asked_over_its_own_api(tmp_path: Path) -> None:
    upstream = Upstream(models=["m"], native=True)
    upstream.start()
    upstream.stop()
    with Router(one(upstream), folder=tmp_path) as router:
        assert router.chat("hello").status == 502
        with upstream:
            wait_until(lambda: router.chat("hello").status == 200, 20, "the server")
            assert all(request.native for request in upstream.chats)

"""Odd replies of the first target: an answer that is held and kept reaches the client as one that is not judged."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, wait_until
from tests.fakes.replies import HANG, RESET, completion, delta, drip, error, event, gzipped, html, logprobs, reply, sse
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

TIMEOUTS = {"connectMs": 2000, "firstByteMs": 5000, "idleMs": 1500}
# What differs between two requests: ids and times that the router makes.
_OWN = re.compile(rb'"(?:id|call_id|item_id|created|created_at|completed_at)":\s*(?:"[^"]*"|[\d.]+)')
LONG = "word " * 400_000


def with_logprobs(document: dict[str, Any], *values: float) -> dict[str, Any]:
    document["choices"][0]["logprobs"] = {"content": logprobs(values)}
    return document


def fragment(index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = None) -> Any:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    members = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return delta(tool_calls=[{**members, "type": "function", "function": function}])


def other_choice(text: str) -> dict[str, Any]:
    document = delta(text)
    document["choices"][0]["index"] = 1
    return document


END = (delta(finish="stop"), b"data: [DONE]\n\n")
USAGE = {**delta(), "choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2, "total_tokens": 6}}
PATHS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
Scored = Callable[..., dict[str, Any]]


def called(*fragments: dict[str, Any]) -> list[Any]:
    """A stream that calls tools."""
    return sse(*fragments, delta(finish="tool_calls"), END[1], finish=False)


def ended(*pieces: Any, finish: str) -> list[Any]:
    return sse(*pieces, delta(finish=finish), END[1], finish=False)


def whole(message: dict[str, Any], *more: dict[str, Any], **members: Any) -> list[Any]:
    choices = [{"index": 0, "message": {"role": "assistant", **message}, "finish_reason": "stop"}, *more]
    return reply(200, completion("") | {"choices": choices} | members)


def streams(scored: Scored) -> dict[str, list[Any]]:
    huge = event(delta(LONG))
    function = {"name": "f", "arguments": "{}"}
    return {
        "usual": sse("hel", "lo"),
        "in single bytes": drip(sse("hé", "llo", scored(delta(" you"), -1.0))),
        "log-probabilities": sse(scored(delta("hel"), -0.5), scored(delta("lo"), -1.0, -2.0)),
        "usage after the end": sse("hello", END[0], USAGE, END[1], finish=False),
        "usage in each chunk": sse({**delta("hel"), "usage": USAGE["usage"]}, "lo"),
        "empty deltas": sse(delta(""), delta(), delta(role="assistant"), "hello", {**delta(), "choices": []}),
        "comments and other fields": sse(b": hi\n\n", b"event: x\nid: 1\n", "hello", b"retry: 9\n\n", b"\n\n"),
        "lines that end in CRLF": sse(event(delta("hello")).replace(b"\n", b"\r\n"), *END, finish=False),
        "no [DONE]": sse("hello", END[0], finish=False),
        "no mark after the last event": sse("hello", event(END[0]).rstrip(), finish=False),
        "two choices": sse("hel", other_choice("other"), "lo", other_choice(" one")),
        "a refusal": sse(delta(refusal="I can"), delta(refusal="not")),
        "reasoning": sse(delta(reasoning_content="hm"), delta(reasoning="hm"), "hello"),
        "a call in pieces": called(
            fragment(0, "c1", "f", ""), fragment(0, None, None, "{"), fragment(0, None, None, "}")
        ),
        "a call in single bytes": drip(called(fragment(0, "c1", "f", '{"a":'), fragment(0, None, None, "1}"))),
        "calls without ids": called(fragment(None, None, "f", '{"a":1}'), fragment(None, None, "g", "{}")),
        "calls with one index": called(fragment(0, "c1", "f", '{"a":1}'), fragment(0, "c2", "g", '{"a":2}')),
        "calls with one id": called(fragment(0, "c1", "f", '{"a":1}'), fragment(1, "c1", "f", '{"a":2}')),
        "arguments as an object": called(fragment(0, "c1", "f", {"a": 1})),
        "text, then a call": called(delta("hello"), fragment(0, "c1", "f", "{}")),
        "a huge piece": sse(LONG, "end"),
        "a huge event in small pieces": sse(*[huge[at : at + 65536] for at in range(0, len(huge), 65536)]),
        "too long to be held": sse(LONG, LONG, LONG, "end"),
        "cut by length": ended("hel", finish="length"),
        "filtered": ended(finish="content_filter"),
        "a finish of another server": ended("hello", finish="eos"),
        "no JSON": sse("hel", b"data: {oops\n\n", "lo"),
        "a whole reply": whole({"content": "hello"}),
        "a whole reply with a call": whole({"content": "", "tool_calls": [{"id": "c1", "function": function}]}),
        "a gzipped whole reply": gzipped(completion("hello")),
        "a whole reply with log-probabilities": reply(200, scored(completion("hello"), -1.0)),
    }


def wholes(scored: Scored) -> dict[str, list[Any]]:
    other = {"index": 1, "message": {"role": "assistant", "content": "other"}, "finish_reason": "stop"}
    return {
        "usual": whole({"content": "hello"}),
        "spaced": reply(200, json.dumps(completion("hello"), indent=1)),
        "in single bytes": drip(whole({"content": "hello"})),
        "log-probabilities": reply(200, scored(completion("hello"), -1.0, -2.0)),
        "two choices": whole({"content": "hello"}, other),
        "no content": whole({"content": None}),
        "no end": reply(200, {"choices": [{"message": {"role": "assistant", "content": "hello"}}]}),
        "a call without an id": whole({"content": "", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}),
        "calls that are none": whole({"content": "x", "tool_calls": [7, None, "x"]}),
        "parts": whole({"content": [{"type": "text", "text": "hello"}, 7]}),
        "huge": whole({"content": LONG * 3}),
        "a stream": sse("hel", "lo"),
        "no choices": reply(200, {"choices": []}),
        "no JSON": reply(200, "oops"),
    }


BROKEN: dict[str, list[Any]] = {
    "cut in the middle": sse("hel", 0.05, "lo", finish=False),
    "reset in the middle": sse("hel", 0.05, "lo", RESET, finish=False),
    "reset within an event": sse("hel", 0.05, event(delta("lo"))[:-20], RESET, finish=False),
    "an error in mid-stream": sse("hel", 0.05, {"error": {"message": "out of memory"}}, finish=False),
    "an error event": sse("hel", 0.05, b'event: error\ndata: {"message": "died"}\n\n', finish=False),
    "an error of older llama.cpp": sse("hel", 0.05, b'error: {"code":500,"message":"died"}\n\n', finish=False),
    "a failed finish": sse("hel", 0.05, delta(finish="error"), END[1], finish=False),
    "silence": sse("hel", 0.05, HANG, finish=False),
}
FAILURES: dict[str, list[Any]] = {
    "an error before the first event": sse({"error": {"message": "no"}}, finish=False),
    "a page": html(),
    "nothing": sse(finish=False),
    "a refusal": error(400, "bad schema"),
    "a server error": error(503),
}
LONG_STREAMS = ("a huge piece", "a huge event in small pieces", "too long to be held")
# An Ollama sends no such thing.
NOT_OLLAMA = (
    *("no mark after the last event", "calls with one index", "arguments as an object", "no JSON"),
    *("calls that are none", "a call without an id", "parts"),
)
STREAMS, WHOLES = streams(with_logprobs), wholes(with_logprobs)
PLAIN_STREAMS, PLAIN_WHOLES = (table(lambda document, *_: document) for table in (streams, wholes))


class Stage:
    def __init__(self, folder: Path, kind: str, most_tokens: int, up: Upstream, frontier: Upstream) -> None:
        local = {"type": kind, "endpoint": up.url, "models": ["m"], "timeouts": TIMEOUTS}
        hosted = {
            "type": "openai",
            "endpoint": f"{frontier.url}/v1",
            "models": ["big"],
            "apiKeyEnv": "",
            "timeouts": TIMEOUTS,
        }
        verify = {"by": ["confidence"], "doubt": 1, "maxHoldMs": 60000, "maxHoldTokens": most_tokens, "dailyShare": 1}
        routes = [{"default": "local", "fallback": "frontier", "verify": verify}]
        self.most_tokens = most_tokens
        self.up = up
        self.frontier = frontier
        self.router = Router(
            {"backends": {"local": local, "frontier": hosted}, "routes": routes}, folder=folder, workers=1
        )

    def ask(self, model: str, script: list[Any], path: str, **more: Any) -> Answer:
        self.up.reset()
        assert self.router.chat(model="local").status == 200  # failures in a row would open the circuit
        self.up.reset()
        self.up.script(script)
        if path == "/v1/messages":
            messages = [{"role": "user", "content": "hello"}]
            return self.router.post(path, {"model": model, "max_tokens": 1000, "messages": messages, **more})
        if path == "/v1/responses":
            return self.router.post(path, {"model": model, "input": "hello", "store": False, **more})
        return self.router.post(path, {"model": model, "messages": [{"role": "user", "content": "hello"}], **more})


@pytest.fixture(scope="module", params=[("llamacpp", 100_000), ("llamacpp", 1), ("ollama", 100_000)], ids=str)
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A server whose answers are held up to so many tokens."""
    kind, most_tokens = request.param
    with (
        Upstream(models=["m"], loaded=["m"], native=kind == "ollama") as up,
        Upstream(models=["big"], text="of the frontier") as frontier,
    ):
        running = Stage(tmp_path_factory.mktemp(kind), kind, most_tokens, up, frontier)
        with running.router:
            yield running


def compared(stage: Stage, script: list[Any], plain: list[Any], path: str, **more: Any) -> tuple[Answer, Answer]:
    """The response that is judged, and the one that is not, because it names its backend."""
    first = stage.ask("auto", script, path, **more)
    assert "logprobs" in (stage.up.chats[0].native or stage.up.chats[0].json)
    second = stage.ask("local", plain, path, **more)
    assert "logprobs" not in (stage.up.chats[0].native or stage.up.chats[0].json)
    return first, second


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", STREAMS)
def test_an_odd_stream(stage: Stage, name: str, path: str) -> None:
    if (stage.up.native and name in NOT_OLLAMA) or (stage.most_tokens == 1 and path != PATHS[0]):
        return
    judged, plain = compared(stage, STREAMS[name], PLAIN_STREAMS[name], path, stream=True)
    assert judged.headers["X-LLR-Verified"] in ("kept", "released")
    if stage.most_tokens > 1:
        assert (judged.headers["X-LLR-Verified"] == "released") == (name in LONG_STREAMS)
    elif name in ("usual", "log-probabilities", "two choices", "in single bytes"):
        assert judged.headers["X-LLR-Verified"] == "released"
    assert plain.headers["X-LLR-Verified"] is None
    assert judged.status == plain.status == 200
    assert _OWN.sub(b"", judged.body) == _OWN.sub(b"", plain.body)
    request_id = judged.headers["X-LLR-Request-Id"]
    (row,) = wait_until(lambda: stage.router.rows("SELECT * FROM metrics WHERE request_id = ?", request_id), 10, "row")
    (other,) = wait_until(
        lambda: stage.router.rows("SELECT * FROM metrics WHERE request_id = ?", plain.headers["X-LLR-Request-Id"]),
        10,
        "row",
    )
    for column in ("outcome", "error", "finish", "answer_chars", "input_tokens", "output_tokens"):
        assert row[column] == other[column], column


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", PLAIN_STREAMS)
def test_an_odd_stream_of_the_stronger_target(stage: Stage, name: str, path: str) -> None:
    """Its answer is sent as it comes, in place of one that broke off."""
    if stage.most_tokens == 1 or stage.up.native:
        return  # nothing is escalated; nothing depends on the first server
    answers = []
    for model in ("auto", "frontier"):
        stage.frontier.reset()
        stage.frontier.script(PLAIN_STREAMS[name])
        answers.append(stage.ask(model, BROKEN["cut in the middle"], path, stream=True))
    judged, plain = answers
    assert judged.headers["X-LLR-Verified"] == "escalated structure"
    assert _OWN.sub(b"", judged.body) == _OWN.sub(b"", plain.body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", WHOLES)
def test_an_odd_whole_reply(stage: Stage, name: str, path: str) -> None:
    if (stage.up.native and name in NOT_OLLAMA) or stage.most_tokens == 1:
        return
    judged, plain = compared(stage, WHOLES[name], PLAIN_WHOLES[name], path)
    if judged.headers["X-LLR-Backend"] == "frontier":
        assert name in ("no choices", "no JSON", "a stream")
        return
    assert judged.status == plain.status
    assert _OWN.sub(b"", judged.body) == _OWN.sub(b"", plain.body)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_breaks(stage: Stage, name: str, path: str) -> None:
    if stage.most_tokens == 1:
        return  # it is released before it breaks
    answer = stage.ask("auto", BROKEN[name], path, stream=True)
    assert (answer.status, answer.headers["X-LLR-Verified"]) == (200, "escalated structure")
    assert b"frontier" in answer.body and b"hel" not in answer.body


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", FAILURES)
def test_a_first_target_that_fails(stage: Stage, name: str, path: str) -> None:
    for stream in (True, False):
        first = stage.ask("auto", FAILURES[name], path, stream=stream)
        assert first.headers["X-LLR-Verified"] is None
        assert first.status == (400 if name == "a refusal" else 200)
        assert (b"frontier" in first.body) == (name != "a refusal")

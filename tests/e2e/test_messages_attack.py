"""Odd bodies of Messages clients, odd replies for them, and odd replies of servers that speak this API."""

from __future__ import annotations

import collections
import json
import random
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, wait_until
from tests.fakes import replies
from tests.fakes.replies import completion, delta, reply, sse
from tests.fakes.upstream import Upstream
from tests.wire.messages.grammar import check
from tests.wire.messages.test_backend import MESSAGE
from tests.wire.messages.test_grammar import GOOD, written

pytestmark = pytest.mark.e2e

TEXT = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
INNER = [{"type": "text", "text": "r"}, {"type": "image", "source": {"type": "url", "url": "http://127.0.0.1/a.png"}}]
BODY: dict[str, Any] = {
    "model": "auto",
    "max_tokens": 50,
    "messages": [
        {
            "role": "user",
            "content": [
                TEXT,
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                {"type": "document", "title": "t", "source": {"type": "content", "content": [TEXT]}},
                {"type": "search_result", "title": "t", "source": "s", "content": [TEXT]},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "abc"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": INNER, "is_error": True}]},
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "and?"},
    ],
    "system": [TEXT],
    "tools": [{"name": "f", "input_schema": {"type": "object"}}, {"type": "web_search_20250305", "name": "web_search"}],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "stop_sequences": ["X"],
    "temperature": 0.5,
    "stream": False,
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "metadata": {"user_id": "canary"},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
}
ODD: tuple[Any, ...] = (
    *(None, True, 0, -1, 1.5, 10**400, "", "x", "\ud800", "\0", [], {}, [None], [[]], [{}], {"type": []}, {"type": {}}),
    *({"type": "text", "text": 5}, [{"type": "unknown", "x": 1}], [{"type": "tool_result"}], {"type": "url", "url": 7}),
    *({"type": "base64", "data": []}, {"type": "file", "file_id": "f"}, [{"type": ["x"]}], [{"type": "tool_use"}]),
)
RAW = (
    *(b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"max_tokens":1e999,"messages":[{"role":"user","content":"x"}]}'),
    b'{"max_tokens":5,"messages":[{"role":"user","content":' + b"[" * 5000 + b"]" * 5000 + b"}]}",
    b'{"max_tokens":' + b"9" * 5000 + b',"messages":[{"role":"user","content":"x"}]}',
    json.dumps({"max_tokens": 5, "messages": [{"role": "user", "content": [TEXT] * 30_000}]}).encode(),
    json.dumps({"max_tokens": 5, "messages": [{"role": "user", "content": "a b " * 500_000}]}).encode(),
)
ASK = {"model": "box", "max_tokens": 900, "messages": [{"role": "user", "content": "hello"}]}


class Stage:
    def __init__(self, folder: Path, local: Upstream, cloud: Upstream) -> None:
        self.local, self.cloud = local, cloud
        backends = {
            "box": {"type": "llamacpp", "endpoint": local.url, "models": ["m"]},
            "claude": {"type": "anthropic", "endpoint": cloud.url, "models": ["c"], "apiKeyEnv": ""},
        }
        self.router = Router({"backends": backends, "routes": [{"default": "box"}]}, folder=folder)

    def of_cloud(self, script: list[Any], path: str, **body: Any) -> Answer:
        """Return the response to a request that the server of the Messages API answers with a script.  Its good answers
        keep its circuit closed."""
        for play in (reply(200, MESSAGE), script):
            self.cloud.reset()
            self.cloud.script(play, path="/messages")
            answer = self.router.post(path, {"model": "claude", **body})
        return answer

    def of_local(self, script: list[Any], **body: Any) -> Answer:
        self.local.reset()
        assert self.router.chat(model="box").status == 200
        self.local.reset()
        self.local.script(script)
        return self.router.post("/v1/messages", {**ASK, **body})


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Upstream(models=["m"]) as local, Upstream(models=["c"]) as cloud:
        running = Stage(tmp_path_factory.mktemp("router"), local, cloud)
        with running.router:
            yield running


def paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a document."""
    if path:
        yield path
    keys = document if isinstance(document, dict) else range(len(document)) if isinstance(document, list) else ()
    for key in keys:
        yield from paths(document[key], (*path, key))


def spoiled(document: Any, dice: random.Random) -> Any:
    """Return a copy of a document where values were replaced or removed."""
    document = deepcopy(document)
    for _ in range(dice.choice((1, 1, 2, 3))):
        *way, last = dice.choice(list(paths(document)) or [("",)])
        parent = document
        for key in way:
            parent = parent[key]
        if dice.random() < 0.2 and last != "":
            del parent[last]
        elif last != "":
            parent[last] = deepcopy(dice.choice(ODD))
    return document


def is_error(answer: Answer) -> bool:
    """Check the shape of an error."""
    document = answer.json
    assert document["type"] == "error" and set(document["error"]) == {"type", "message"}, answer.body
    assert answer.headers["request-id"] == document["request_id"]
    return answer.status == 400 and document["error"]["type"] == "invalid_request_error"


# --- bodies -------------------------------------------------------------------------------------


def test_odd_bodies(stage):
    dice = random.Random(5)
    stage.local.reset()
    bodies = [*RAW, *(json.dumps(spoiled(BODY, dice)).encode() for _ in range(300))]
    statuses = collections.Counter()
    for place, body in enumerate(bodies):
        path = "/v1/messages?beta=true" if place % 3 else "/v1/messages/count_tokens"
        headers = {"X-LLR-Sensitivity": "high"} if place % 4 == 0 else {}
        answer = stage.router.post(path, body, headers)
        assert answer.status == 200 or is_error(answer), (body[:3000], answer.body)
        if answer.headers["Content-Type"].startswith("text/event-stream"):
            check(answer.body)
        statuses[answer.status] += 1
    assert set(statuses) == {200, 400} and min(statuses.values()) > 50, statuses
    assert not any(b"canary" in request.body for request in stage.local.requests)


# --- replies of chat servers --------------------------------------------------------------------


def fragment(dice: random.Random) -> dict[str, Any]:
    function = {
        "name": dice.choice(("f", "g", "", None)),
        "arguments": dice.choice(("", '{"a":', "1}", "{}", "null", "[1]", None, "x", {"a": 1}, 5, [])),
    }
    call = {"index": dice.choice((0, 1, 2, None, "0", -1, [])), "id": dice.choice(("a", "b", "", None, 5, []))}
    return delta(None, tool_calls=[{**call, "type": "function", "function": function}])


def odd_chunk(dice: random.Random) -> Any:
    return dice.choice(
        (
            *(fragment(dice), fragment(dice), fragment(dice), delta("text "), delta(None, reasoning_content="hm ")),
            *(delta(None, reasoning="hm"), delta(None, refusal="no "), delta([TEXT]), delta({"x": 1}), delta("\ud83d")),
            *(delta(None, tool_calls=dice.choice((None, {}, "x", [None], [{}], [{"index": 0, "function": None}]))),),
            *({"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{"index": 1, "delta": TEXT}]}),
            {"usage": {"prompt_tokens": dice.choice((1, -1, 1e300, "x", 10**400)), "completion_tokens": []}},
            *(b": comment\n\n", b"event: ping\ndata: {}\n\n", b"data: \n\n", b"data: no\n\n", b"data: [1]\n\n"),
            *({"error": dice.choice(("s", {"message": "m", "code": 5}, None, 5))}, delta(finish=dice.choice(ODD[:8]))),
        )
    )


def test_odd_streams_of_chat_servers(stage):
    """The limit ends them, so that calls may be open."""
    dice = random.Random(7)
    kinds = collections.Counter()
    for _ in range(120):
        chunks = [odd_chunk(dice) for _ in range(dice.randint(1, 8))]
        script = sse(*chunks, delta(finish="length"), replies.DONE, finish=False)
        thinking = {"thinking": {"type": "adaptive"}} if dice.random() < 0.5 else {}
        answer = stage.of_local(script, stream=True, **thinking)
        if answer.status != 200:  # the first event is an error
            assert answer.status == 502 and not is_error(answer), answer.body
            continue
        events, message = check(answer.body)
        kinds.update(block["type"] for block in message.get("content", ()))
        kinds[events[-1]["type"]] += 1
    assert set(kinds) == {"text", "thinking", "tool_use", "message_stop", "error"}, kinds


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("arguments", ["null", "[1]", '"x"', "ls -l", "", "  ", "5"])
def test_arguments_that_are_no_object(stage, stream, arguments):
    """A client gets the same arguments in a stream as in a whole reply, and they are an object."""
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    whole = stage.of_local(reply(200, completion("", tool_calls=[call]))).json
    if stream:
        script = sse(delta(None, tool_calls=[call]))
        _, message = check(stage.of_local(script, stream=True).body)
        assert message["content"] == whole["content"]
    assert whole["stop_reason"] == "tool_use" and isinstance(whole["content"][0]["input"], dict)


# --- replies of servers of this API -------------------------------------------------------------

WAYS = {
    "/v1/messages": {"max_tokens": 900, "messages": ASK["messages"]},
    "/v1/chat/completions": {"messages": ASK["messages"]},
    "/v1/responses": {"input": "hello"},
}


@pytest.mark.parametrize("path", WAYS)
def test_odd_replies_of_servers_of_this_api(stage, path):
    dice = random.Random(11)
    for _ in range(40):
        events = [event for event in spoiled(GOOD, dice) if isinstance(event, dict)]
        raw = b"".join(f"event: x\ndata: {json.dumps(event)}\n\n".encode() for event in events)
        cut = raw if dice.random() < 0.7 else raw[: dice.randint(0, len(raw))]
        document = spoiled(MESSAGE, dice)
        for script, stream in (
            (sse(cut, finish=False), True),
            (reply(200, document), False),
            (reply(200, document), True),
        ):
            answer = stage.of_cloud(script, path, **WAYS[path], stream=stream)
            assert answer.status in (200, 502), (events, document, answer.body)
            if path != "/v1/messages" and answer.status == 200 and stream:
                assert answer.events
    assert "unexpected" not in stage.router.log_text()


@pytest.mark.parametrize("path", WAYS)
@pytest.mark.parametrize(
    "script",
    [
        replies.html(),
        replies.html(502),
        reply(200, b""),
        reply(200, b"[]"),
        replies.bad_chunk_size(),
        sse(finish=False),
        sse(written([{"type": "ping"}]), finish=False),
        sse(written([{"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}]), finish=False),
        [replies.RESET],
    ],
    ids=["page", "page 502", "nothing", "list", "chunk", "no event", "ping", "error", "reset"],
)
def test_no_reply_at_all(stage, script, path):
    for stream in (False, True):
        answer = stage.of_cloud(script, path, **WAYS[path], stream=stream)
        assert answer.status in (502, 529), answer.body
        assert answer.json["error"]["message"]


def test_a_preflight_of_a_browser(stage):
    asked = "x-api-key,anthropic-version,anthropic-beta,content-type"
    headers = {"Origin": "http://localhost:3000", "Access-Control-Request-Method": "POST"}
    answer = stage.router.request("OPTIONS", "/v1/messages", None, {**headers, "Access-Control-Request-Headers": asked})
    assert (answer.status, answer.headers["Access-Control-Allow-Headers"]) == (200, asked)
    wait_until(stage.router.answers, 5, "/health")

"""Backends that speak the Messages API, from every surface."""

from __future__ import annotations

import json

import anthropic
import pytest

from tests.e2e.server import content
from tests.fakes import replies
from tests.wire.messages.grammar import check
from tests.wire.messages.test_backend import MESSAGE
from tests.wire.messages.test_grammar import GOOD, written

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": "Tell me a story about a lighthouse keeper"}]
BILLING = "x-anthropic-billing-header: cc_version=1;"
TEXT = {**MESSAGE, "content": [{"type": "text", "text": "once"}], "stop_reason": "end_turn"}


def policy(cloud, local) -> dict:
    return {
        "backends": {
            "claude": {"type": "anthropic", "endpoint": cloud.url, "models": ["claude-opus-5-5"], "maxTokens": 77},
            "box": {"type": "llamacpp", "endpoint": local.url, "messages": "native"},
        },
        "routes": [
            {"match": {"task": "code"}, "backend": "box"},
            {"default": "claude", "fallback": ["box"]},
        ],
    }


@pytest.fixture
def house(upstream, router):
    cloud, local = upstream(), upstream()
    running = router(policy(cloud, local), env={"ANTHROPIC_API_KEY": "key-for-tests"})
    return cloud, local, running


def asked(upstream):
    return [request for request in upstream.requests if request.path.endswith(("/messages", "/chat/completions"))]


def stream(*events) -> list:
    return replies.sse(written(list(events or GOOD)), finish=False)


def test_a_messages_client_gets_every_byte(house):
    cloud, _, running = house
    cloud.script(replies.reply(200, TEXT), path="/messages")
    cloud.script(stream(), path="/messages")
    body = {"model": "auto", "max_tokens": 9, "messages": ASK, "metadata": {"user_id": "u"}, "brand_new": 1}
    headers = {"anthropic-version": "2024-01-01", "anthropic-beta": "a-1,b-2", "x-api-key": "of the client"}
    whole = running.post("/v1/messages?beta=true", body, headers)
    assert whole.json == TEXT
    streamed = running.post("/v1/messages?beta=true", {**body, "stream": True}, headers)
    assert streamed.body == written(GOOD)
    for request in asked(cloud):
        assert request.json == {**body, "model": "claude-opus-5-5"} | (
            {"stream": True} if request.json.get("stream") else {}
        )
        sent = [request.header(name) for name in ("x-api-key", "anthropic-version", "anthropic-beta", "authorization")]
        assert sent == ["key-for-tests", "2024-01-01", "a-1,b-2", None]
    rows = running.wait_rows(2)
    assert [(row["input_tokens"], row["output_tokens"], row["finish"]) for row in rows] == [
        (13, 2, "stop"),
        (3, 2, "tool_calls"),
    ]


def test_a_chat_client(house):
    cloud, _, running = house
    cloud.script(replies.reply(200, TEXT), path="/messages")
    cloud.script(stream(), path="/messages")
    assert running.chat("Tell me a story").text == "once"
    assert asked(cloud)[0].json["max_tokens"] == 77 and asked(cloud)[0].header("anthropic-version") == "2023-06-01"
    answer = running.chat("Tell me a story", stream=True)
    assert content(answer.events) == "hi" and answer.events[-1] == "[DONE]"


def test_a_responses_client(house):
    cloud, _, running = house
    cloud.script(replies.reply(200, TEXT), path="/messages")
    cloud.script(stream(), path="/messages")
    assert running.post("/v1/responses", {"input": "Tell me a story"}).json["output_text"] == "once"
    events = running.post("/v1/responses", {"input": "Tell me a story", "stream": True}).events
    final = next(event["response"] for event in events if event != "[DONE]" and event["type"] == "response.completed")
    assert [item["type"] for item in final["output"]] == ["message", "function_call"]
    assert final["usage"]["input_tokens"] == 3


def test_a_local_server_that_speaks_it_gets_no_billing_line(house):
    _, local, running = house
    local.script(replies.reply(200, TEXT), path="/messages")
    body = {
        "max_tokens": 9,
        "system": [{"type": "text", "text": BILLING}, {"type": "text", "text": "S"}],
        "messages": [{"role": "user", "content": "Write a Python function that reverses a list"}],
        "metadata": {"user_id": "canary"},
    }
    assert running.post("/v1/messages", body).json == TEXT
    (request,) = asked(local)
    assert request.path == "/v1/messages" and b"canary" not in request.body and b"billing" not in request.body
    chat = running.chat("Write a Python function that reverses a list")  # other clients still use chat
    assert chat.status == 200 and asked(local)[-1].path == "/v1/chat/completions"


@pytest.mark.parametrize("status", [529, 500, 429])
def test_failures_go_on_to_the_next_target(house, status):
    cloud, local, running = house
    cloud.script(
        replies.reply(status, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}),
        path="/messages",
    )
    local.script(replies.reply(200, TEXT), path="/messages")
    answer = running.post("/v1/messages", {"max_tokens": 9, "messages": ASK})
    assert answer.json == TEXT and answer.headers["X-LLR-Backend"] == "box"


def test_a_mistake_that_only_the_vendor_notices(house):
    cloud, _, running = house
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "temperature: too hot"}}
    cloud.script(replies.reply(400, error), path="/messages", repeat=True)
    client = anthropic.Anthropic(base_url=running.url, api_key="any", max_retries=0)
    with client, pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model="auto", max_tokens=9, messages=ASK)
    assert caught.value.body["error"] == error["error"]
    assert running.chat("Tell me a story").error["message"] == "temperature: too hot"


def test_an_error_in_mid_stream(house):
    cloud, _, running = house
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    cloud.script(replies.sse(written(GOOD[:3]), 0.3, written([error]), finish=False), path="/messages", repeat=True)
    answer = running.post("/v1/messages", {"max_tokens": 9, "messages": ASK, "stream": True})
    events, _ = check(answer.body)
    assert events[-1] == error
    chat = running.chat("Tell me a story", stream=True)
    assert b"Overloaded" in chat.body and b"[DONE]" not in chat.body
    assert {row["outcome"] for row in running.wait_rows(2)} == {"error"}


def test_a_prompt_that_is_too_long(house):
    cloud, local, running = house
    message = "prompt is too long: 250000 tokens > 200000 maximum"
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    cloud.script(replies.reply(400, error), path="/messages")
    chat_error = {
        "error": {
            "code": 400,
            "message": "request (9000 tokens) exceeds the available context size (4096 tokens)",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9000,
            "n_ctx": 4096,
        }
    }
    local.script(replies.reply(400, chat_error), path="/messages")
    answer = running.post("/v1/messages", {"max_tokens": 9, "messages": ASK})
    assert answer.status == 400 and answer.json["error"]["message"] == message


def test_private_requests_never_reach_it(house):
    cloud, local, running = house
    local.script(replies.error(500), path="/messages", repeat=True)
    answer = running.post("/v1/messages", {"max_tokens": 9, "messages": ASK}, {"X-LLR-Sensitivity": "high"})
    assert answer.status >= 500 and not asked(cloud)


def test_the_explanation_reads_all_bodies(house):
    _, _, running = house
    body = {"model": "auto", "max_tokens": 9, "system": "S", "messages": ASK}
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        explained = running.post("/v1/route", body, headers).json
        assert json.dumps(explained).count("claude-opus-5-5") and explained["route"] == "default"

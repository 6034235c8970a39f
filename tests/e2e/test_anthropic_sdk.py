"""The official anthropic Python SDK drives the running router, before chat backends."""

from __future__ import annotations

import json

import anthropic
import pytest

from tests.e2e.server import wait_until
from tests.e2e.test_streams import two
from tests.fakes import replies
from tests.wire.messages.grammar import check

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": "Tell me a story about a lighthouse keeper"}]
TOOLS = [
    {
        "name": "get_weather",
        "description": "Gives the weather of a city.",
        "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]
FUNCTION = {"name": "get_weather", "arguments": '{"city": "Oslo"}'}
CALLS = [{"index": 0, "id": "call_1", "type": "function", "function": FUNCTION}]


@pytest.fixture(params=[False, True], ids=["v1", "native"])
def house(request, upstream, router):
    local, cloud = upstream(native=request.param), upstream()
    running = router(two(local, cloud), workers=2, env={"OPENAI_API_KEY": "key-for-tests"})
    with anthropic.Anthropic(base_url=running.url, api_key="anything", max_retries=0) as client:
        yield local, cloud, running, client


def chats(upstream):
    """The requests for a reply; the router also asks servers for their models."""
    return [request for request in upstream.requests if request.path.endswith("/chat/completions")]


def ask(client, **members):
    return client.messages.create(**{"model": "auto", "max_tokens": 100, "messages": ASK} | members)


def test_buffered(house):
    local, _, running, client = house
    local.script(replies.reply(200, replies.completion("once upon a time")))
    message = ask(client, system="Be brief.", stop_sequences=["END"], extra_body={"temperature": 0.5})
    assert message.content[0].text == "once upon a time" and message.stop_reason == "end_turn"
    assert message.usage.input_tokens == 5 and message.type == "message" and message.id.startswith("msg_")
    sent = chats(local)[-1].json
    assert sent["messages"][0] == {"role": "system", "content": "Be brief."} and sent["stop"] == ["END"]
    (row,) = running.wait_rows(1)
    assert (row["surface"], row["outcome"], row["input_tokens"]) == ("messages", "ok", 5)


def test_streaming(house):
    local, _, _, client = house
    local.script(replies.sse("once ", "upon"))
    with client.messages.stream(model="auto", max_tokens=100, messages=ASK) as stream:
        assert list(stream.text_stream) == ["once ", "upon"]
        message = stream.get_final_message()
    assert message.content[0].text == "once upon" and message.stop_reason == "end_turn"


def test_a_round_of_tools(house):
    local, _, _, client = house
    local.script(
        replies.reply(200, replies.completion("", tool_calls=CALLS)),
        replies.reply(200, replies.completion("It rains.")),
    )
    first = ask(client, tools=TOOLS)
    (call,) = [block for block in first.content if block.type == "tool_use"]
    assert (first.stop_reason, call.name, call.input) == ("tool_use", "get_weather", {"city": "Oslo"})
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
    turns = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = ask(client, tools=TOOLS, messages=turns)
    assert second.content[0].text == "It rains."
    roles = [message["role"] for message in chats(local)[-1].json["messages"]]
    assert roles == ["user", "assistant", "tool"]


def test_a_streamed_call(house):
    local, _, _, client = house
    local.script(
        replies.sse(replies.delta(tool_calls=CALLS), replies.delta(finish="tool_calls"), replies.DONE, finish=False)
    )
    with client.messages.stream(model="auto", max_tokens=100, messages=ASK, tools=TOOLS) as stream:
        message = stream.get_final_message()
    assert message.content[0].input == {"city": "Oslo"} and message.stop_reason == "tool_use"


def test_counted_tokens(house):
    local, _, _, client = house
    few = client.messages.count_tokens(model="auto", messages=ASK).input_tokens
    many = client.messages.count_tokens(model="auto", messages=ASK, tools=TOOLS, system="word " * 400).input_tokens
    assert 5 <= few <= 20 and many > few + 400
    assert not chats(local)


def test_the_list_of_models(house):
    _, _, _, client = house
    models = list(client.models.list())
    assert models[0].id == "auto" and models[0].type == "model"
    assert client.models.retrieve("auto").display_name == "auto"


def test_errors_have_the_shape_of_the_api(house):
    local, cloud, running, client = house
    with pytest.raises(anthropic.BadRequestError) as caught:
        ask(client, messages=[])
    assert caught.value.body["error"]["type"] == "invalid_request_error" and caught.value.request_id
    assert caught.value.body["request_id"] == caught.value.request_id
    with pytest.raises(anthropic.NotFoundError):
        ask(client, model="atuo")
    for upstream in (local, cloud):
        upstream.script(replies.error(500), repeat=True)
    with pytest.raises(anthropic.InternalServerError) as caught:
        ask(client)
    assert caught.value.body["error"]["type"] == "api_error"
    wrong_method, unknown = running.get("/v1/messages"), running.post("/v1/messages/batches", {})
    for answer, status, kind in (
        (wrong_method, 405, "invalid_request_error"),
        (unknown, 404, "not_found_error"),
    ):
        assert (answer.status, answer.json["error"]["type"], answer.json["type"]) == (status, kind, "error")


def test_a_stream_that_breaks(house):
    local, _, running, _ = house
    local.script(replies.sse("once ", replies.CLOSE, finish=False))
    answer = running.post("/v1/messages?beta=true", {"max_tokens": 9, "stream": True, "messages": ASK})
    events, _ = check(answer.body)
    assert events[-1]["type"] == "error" and answer.headers["Content-Type"].startswith("text/event-stream")


def test_a_disconnect_ends_the_call(house):
    local, _, running, client = house
    local.script(replies.sse("once ", replies.HANG, finish=False))
    with client.messages.stream(model="auto", max_tokens=100, messages=ASK) as stream:
        next(iter(stream.text_stream))
    wait_until(lambda: chats(local)[-1].hung_up, 5, "the end of the call")
    assert running.wait_rows(1)[0]["outcome"] == "cancelled"


def test_private_requests_stay(house):
    local, cloud, _, client = house
    local.script(replies.error(500), repeat=True)
    with pytest.raises(anthropic.InternalServerError):
        ask(client, messages=[{"role": "user", "content": "canary"}], extra_headers={"X-LLR-Sensitivity": "high"})
    assert not chats(cloud)


def test_a_ping_while_the_backend_is_silent(house):
    local, _, running, _ = house
    gate = replies.Gate()
    local.script(replies.pause_after_head(replies.sse("once"), gate))
    body = {"max_tokens": 9, "stream": True, "messages": ASK}
    with running.stream(path="/v1/messages", json=body) as stream:
        first = stream.until(b"\n\n")
        gate.open()
        check(first + stream.read())
    assert first.startswith(b"event: ping\n")


def test_keys(upstream, router):
    local, cloud = upstream(), upstream()
    env = {"OPENAI_API_KEY": "key-for-tests", "LLR_API_KEYS": "first,second"}
    running = router(two(local, cloud), env=env)
    body = {"max_tokens": 9, "messages": ASK}

    def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = running.post("/v1/messages", body, headers=named)
        if answer.status == 401:
            assert answer.json["error"]["type"] == "authentication_error"
        return answer.status

    assert status(x_api_key="first") == status(Authorization="Bearer second") == 200
    assert status(x_api_key="first", Authorization="Bearer first") == 200
    assert status(x_api_key="first", Authorization="Bearer unknown") == 200
    assert status(x_api_key="first", Authorization="Bearer second") == 401
    assert status() == status(x_api_key="third") == 401
    chat = running.post("/v1/chat/completions", {"messages": ASK}, headers={"x-api-key": "first"})
    assert chat.status == 200 and json.loads(chat.body)["choices"]

"""The official openai Python SDK drives the running router."""

from __future__ import annotations

import asyncio
import json

import openai
import pytest
from openai._streaming import SSEDecoder
from pydantic import BaseModel

from app.wire.sse import KEEP_ALIVE
from tests.e2e.test_streams import two
from tests.fakes import replies

pytestmark = pytest.mark.e2e

ASK = [{"role": "user", "content": "Tell me a story about a lighthouse keeper"}]


@pytest.fixture(params=[False, True], ids=["v1", "native"])
def native(request):
    return request.param


only_v1 = pytest.mark.parametrize("native", [False], ids=["v1"])  # Ollama sends its own calls whole


@pytest.fixture
def house(upstream, router, native):
    local, cloud = upstream(native=native), upstream()
    running = router(two(local, cloud), workers=2, env={"OPENAI_API_KEY": "key-for-tests"})
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything", max_retries=0) as client:
        yield local, cloud, running, client


def test_chat_buffered_and_streaming(house):
    local, _, _, client = house
    local.script(replies.reply(200, replies.completion("once upon a time")), replies.sse("once ", "upon"))
    answer = client.chat.completions.create(model="auto", messages=ASK)
    assert answer.choices[0].message.content == "once upon a time"
    chunks = list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "once upon"


def test_responses_buffered_and_streaming(house):
    local, _, _, client = house
    local.script(replies.reply(200, replies.completion("once upon a time")), replies.sse("once ", "upon"))
    answer = client.responses.create(model="auto", input="a story, please")
    assert answer.output_text == "once upon a time" and answer.usage.total_tokens > 0
    with client.responses.stream(model="auto", input="a story, please") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert deltas == ["once ", "upon"] and final.output_text == "once upon"


def test_async(house):
    local, _, running, _ = house
    local.script(replies.reply(200, replies.completion("yes")), replies.sse("on", "ce"))

    async def both() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key="x", max_retries=0) as client:
            whole = await client.responses.create(model="auto", input="well?")
            stream = await client.chat.completions.create(model="auto", messages=ASK, stream=True)
            text = [chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]
            return whole.output_text, "".join(text)

    assert asyncio.run(both()) == ("yes", "once")


class Point(BaseModel):
    x: int
    y: int


def test_parse_with_a_schema(house):
    local, _, _, client = house
    local.script(replies.reply(200, replies.completion(json.dumps({"x": 1, "y": 2}))), repeat=True)
    assert client.responses.parse(model="auto", input="where?", text_format=Point).output_parsed == Point(x=1, y=2)
    sent = local.chats[-1].json["response_format"]
    assert (sent["type"], sent["json_schema"]["schema"]["required"]) == ("json_schema", ["x", "y"])
    if not local.native:  # Ollama reads the schema alone
        assert (sent["json_schema"]["name"], sent["json_schema"]["strict"]) == ("Point", True)
    chat = client.chat.completions.parse(model="auto", messages=ASK, response_format=Point)
    assert chat.choices[0].message.parsed == Point(x=1, y=2)


def test_images_arrive_as_chat_parts(house):
    local, _, _, client = house
    image = "data:image/png;base64,aGVsbG8="
    parts = [{"type": "input_text", "text": "what is this?"}, {"type": "input_image", "image_url": image}]
    client.responses.create(model="auto", input=[{"role": "user", "content": parts}])
    assert local.chats[-1].json["messages"][-1]["content"] == [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": image}},
    ]


def test_models_and_errors(house):
    local, cloud, _, client = house
    listed = [model.id for model in client.models.list()]
    assert listed[:3] == ["auto", "local", "cloud"] and {"m:1", "big"} <= set(listed)
    assert client.models.retrieve("m:1").owned_by == "local"
    with pytest.raises(openai.NotFoundError) as unknown:
        client.models.retrieve("none:such")
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="auto", messages=[])
    assert bad.value.param == "messages"
    local.script(replies.rate_limited(7))
    cloud.script(replies.rate_limited(9))
    with pytest.raises(openai.RateLimitError) as limited:
        client.chat.completions.create(model="auto", messages=ASK)
    assert limited.value.response.headers["Retry-After"] == "7"


def test_a_stream_that_breaks_raises(house):
    local, _, _, client = house
    local.script(replies.sse("begun", replies.CLOSE, finish=False), replies.sse("begun", replies.CLOSE, finish=False))
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="auto", messages=ASK, stream=True))
    with pytest.raises(openai.APIError):
        list(client.responses.create(model="auto", input="hello", stream=True))


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}]


def fragments(*made):
    return [replies.delta(tool_calls=[fragment]) for fragment in made]


BROKEN = {
    "a placeholder": fragments(
        {"index": 0, "id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}},
        {"index": 0, "function": {"arguments": '{"at": "sea"}'}},
    ),
    "a name in pieces": fragments(
        {"index": 0, "id": "c", "type": "function", "function": {"name": "get_", "arguments": ""}},
        {"index": 0, "function": {"name": "weather", "arguments": '{"at": '}},
        {"index": 0, "function": {"arguments": '"sea"}'}},
    ),
    "neither index nor id": fragments(
        {"type": "function", "function": {"name": "get_weather", "arguments": '{"at": "sea"}'}}
    ),
    "an object, an id in every fragment": fragments(
        {"index": 3, "id": "c", "function": {"name": "get_weather", "arguments": {"at": "sea"}}},
        {"index": 3, "id": "c", "function": {"arguments": ""}},
    ),
}


@only_v1
@pytest.mark.parametrize("name", BROKEN)
def test_broken_tool_calls(house, name):
    local, _, _, client = house
    end = replies.delta(finish="tool_calls")
    for _ in range(2):
        local.script(replies.sse(*BROKEN[name], end, replies.DONE, finish=False))
    with client.chat.completions.stream(model="auto", messages=ASK, tools=TOOLS) as stream:
        (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == ("get_weather", {"at": "sea"})
    assert call.id
    flat = [{"type": "function", **TOOLS[0]["function"]}]
    with client.responses.stream(model="auto", input="weather?", tools=flat) as stream:
        (item,) = stream.get_final_response().output
    assert (item.name, json.loads(item.arguments)) == ("get_weather", {"at": "sea"})


@only_v1
def test_broken_tool_calls_of_a_whole_answer(house):
    local, _, _, client = house
    calls = [{"function": {"name": "get_weather", "arguments": {"at": place}}} for place in ("sea", "home")]
    whole = replies.reply(200, replies.completion("", tool_calls=calls))
    local.script(whole, whole)
    made = client.chat.completions.create(model="auto", messages=ASK, tools=TOOLS).choices[0].message.tool_calls
    assert [json.loads(call.function.arguments)["at"] for call in made] == ["sea", "home"]
    assert made[0].id != made[1].id
    chunks = client.chat.completions.create(model="auto", messages=ASK, tools=TOOLS, stream=True)
    streamed = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    assert [(call.index, json.loads(call.function.arguments)["at"]) for call in streamed] == [(0, "sea"), (1, "home")]


def test_keep_alive_comments_are_no_events():
    """The router's comment among events with ids, read by the SDK's own decoder."""
    raw = b"".join((KEEP_ALIVE, b"id: 1\ndata: {}\n\n", KEEP_ALIVE, KEEP_ALIVE, b"id: 2\ndata: {}\n\n", KEEP_ALIVE))
    events = list(SSEDecoder().iter_bytes(iter([raw])))
    assert [(event.id, event.data) for event in events] == [("1", "{}"), ("2", "{}")]

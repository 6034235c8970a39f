"""The OpenAI SDK reads what the translator writes, through its own client and helpers; the network is a function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from app.types import Dialect
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse
from app.wire.responses.stream import translate
from tests.wire.streams import answer, body, call, calls, delta, response_of, stream, text


class Point(BaseModel):
    x: int
    y: int


def client(backend: Callable[[dict[str, Any]], Any]) -> openai.OpenAI:
    """A client whose requests are translated for `backend`: chat body in, chat answer or chunks out."""

    def serve(sent: httpx2.Request) -> httpx2.Response:
        asked = parse(json.loads(sent.content))
        said = backend(json.loads(ResponsesBody(asked).encode("m", Dialect(), stream=asked.stream)))
        if isinstance(said, dict):
            return httpx2.Response(200, json=response_of(said, asked))
        raw = b"".join(translate([body(said)], stream(asked)))
        return httpx2.Response(200, content=raw, headers={"Content-Type": "text/event-stream"})

    http = httpx2.Client(transport=httpx2.MockTransport(serve))
    return openai.OpenAI(api_key="none", base_url="http://router/v1", http_client=http, max_retries=0)


def test_create() -> None:
    response = client(
        lambda _: answer(content="Hi", usage={"prompt_tokens": 1, "completion_tokens": 2})
    ).responses.create(model="auto", input="hello")
    assert response.output_text == "Hi"
    assert response.usage is not None
    assert response.usage.total_tokens == 3


def test_parse_with_a_schema() -> None:
    def backend(chat: dict[str, Any]) -> Any:
        schema = chat["response_format"]["json_schema"]
        assert (schema["name"], schema["strict"]) == ("Point", True)
        return answer(content='{"x": 1, "y": 2}')

    parsed = client(backend).responses.parse(model="auto", input="where?", text_format=Point)
    assert parsed.output_parsed == Point(x=1, y=2)


def test_tool_loop() -> None:
    """The SDK's items are sent back as they came."""

    def backend(chat: dict[str, Any]) -> Any:
        if chat["messages"][-1]["role"] == "tool":
            assert [message["role"] for message in chat["messages"]] == ["user", "assistant", "tool"]
            assert chat["messages"][1]["reasoning_content"] == "look it up"
            return answer(content=f"It is {chat['messages'][-1]['content']}.")
        return answer("tool_calls", reasoning="look it up", tool_calls=[call(None, "c1", "weather", '{"q":"Bern"}')])

    tools: Any = [{"type": "function", "name": "weather", "parameters": {"type": "object"}, "strict": False}]
    sdk = client(backend)
    history: Any = [{"role": "user", "content": "weather?"}]
    first = sdk.responses.create(model="auto", input=history, tools=tools)
    history += first.output
    for item in first.output:
        if item.type == "function_call":
            history.append({"type": "function_call_output", "call_id": item.call_id, "output": "sunny"})
    assert sdk.responses.create(model="auto", input=history, tools=tools).output_text == "It is sunny."


CHUNKS = [
    delta(role="assistant", content=""),
    delta(reasoning="hm"),
    *text("Hel", "lo"),
    delta(refusal="no"),
    calls(call(0, "c", "f", '{"a"'), call(1, "d", "g", '{"b"')),
    calls(call(0, None, None, ":1}"), call(1, None, None, ":2}")),
    *text("!"),
    delta("stop"),
]


def test_stream_helper() -> None:
    """It indexes output and content by the events, so a delta without its `added` would crash it."""
    with client(lambda _: CHUNKS).responses.stream(model="auto", input="hello") as events:
        seen = [event.type for event in events]
        final = events.get_final_response()
    assert seen[0] == "response.created"
    assert seen[-1] == "response.completed"
    assert final.output_text == "Hello!"
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call", "function_call", "message"]


def test_stream_helper_with_a_schema() -> None:
    chunks = [*text('{"x": 1,', '"y": 2}'), delta("stop")]
    with client(lambda _: chunks).responses.stream(model="auto", input="where?", text_format=Point) as events:
        assert events.get_final_response().output_parsed == Point(x=1, y=2)


def test_raw_stream() -> None:
    with client(lambda _: CHUNKS).responses.create(model="auto", input="hello", stream=True) as events:
        pieces = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert pieces == ["Hel", "lo", "!"]


def test_an_error_in_the_stream_raises() -> None:
    chunks = [*text("Hel"), {"error": {"message": "gpu fell over", "code": "oom"}}]
    events = client(lambda _: chunks).responses.create(model="auto", input="hello", stream=True)
    with pytest.raises(openai.APIError, match="gpu fell over") as caught:
        list(events)
    assert caught.value.code == "oom"

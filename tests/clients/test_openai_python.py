"""The openai Python SDK's agent loops: tools, reasoning, conversations.  `make test` has the newest SDK,
`make test-clients` also runs this with the last 1.x.  Plain requests: tests/e2e/test_openai_sdk.py."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.clients.backend import call, fragments, said, streamed
from tests.clients.conftest import House
from tests.documents import Document
from tests.fakes import replies

pytestmark = pytest.mark.e2e

WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
DEGREES = {"Bern": "4 °C", "Rome": "19 °C"}
TWO_CALLS = [call("call_b", "weather", {"city": "Bern"}), call("call_r", "weather", {"city": "Rome"}, 1)]
CALLED = [
    {"id": "call_b", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}},
    {"id": "call_r", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
]
ANSWERED = [
    {"role": "tool", "tool_call_id": "call_b", "content": "4 °C"},
    {"role": "tool", "tool_call_id": "call_r", "content": "19 °C"},
]
QUESTION = {"role": "user", "content": "Bern or Rome?"}


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "native"])
def ollama_native(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def client(house: House) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=house.base_url, api_key="any", max_retries=0) as client:
        yield client


def results(response: Any) -> list[dict[str, Any]]:
    """What an agent answers to the calls of a response."""
    return [
        {
            "type": "function_call_output",
            "call_id": item.call_id,
            "output": DEGREES[json.loads(item.arguments)["city"]],
        }
        for item in response.output
        if item.type == "function_call"
    ]


def whole(client: openai.OpenAI, **request: Any) -> Any:
    return client.responses.create(model="auto", **request)


def by_stream(client: openai.OpenAI, **request: Any) -> Any:
    with client.responses.stream(model="auto", **request) as stream:
        for _ in stream:
            pass
        return stream.get_final_response()


def by_raw_events(client: openai.OpenAI, **request: Any) -> Any:
    """As agents without the helper do: items from `output_item.done` only."""
    done = []
    for event in client.responses.create(model="auto", stream=True, **request):
        if event.type == "response.output_item.done":
            done.append(event.item)
        last = event
    assert (last.type, last.response.output) == ("response.completed", done)
    return last.response


@pytest.mark.parametrize("ask", [whole, by_stream, by_raw_events])
def test_a_tool_loop_that_sends_its_whole_history(house: House, client: openai.OpenAI, ask: Callable[..., Any]):
    if ask is whole:
        house.local.script(said("Looking.", *TWO_CALLS, reasoning="Two cities."), said("Rome, 19 °C."))
    else:
        cut = fragments("call_b", "weather", '{"ci', 'ty": "Bern"}')
        cut += fragments("call_r", "weather", '{"city"', ': "Rome"}', index=1)
        first = streamed({"reasoning": "Two "}, {"reasoning": "cities."}, "Look", "ing.", *cut)
        house.local.script(first, streamed("Rome, ", "19 °C."))
    history: list[Any] = [QUESTION]
    response = ask(client, input=history, tools=[WEATHER])
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    assert response.output[0].summary[0].text == "Two cities."
    history += response.output  # the SDK's objects go back as they came
    history += results(response)
    assert ask(client, input=history, tools=[WEATHER]).output_text == "Rome, 19 °C."
    spoken = {"role": "assistant", "content": "Looking.", "reasoning": "Two cities.", "tool_calls": CALLED}
    assert house.told == [QUESTION, spoken, *ANSWERED]
    assert [tool["function"]["name"] for tool in house.sent[-1]["tools"]] == ["weather"]


@pytest.mark.parametrize("ask", [whole, by_stream])
def test_a_tool_loop_by_previous_response_id(house: House, client: openai.OpenAI, ask: Callable[..., Any]):
    house.local.script(*([said("", *TWO_CALLS), said("Rome.")] if ask is whole else []))
    house.local.script(*([streamed({"tool_calls": TWO_CALLS}), streamed("Rome.")] if ask is by_stream else []))
    first = ask(client, input="Bern or Rome?", tools=[WEATHER])
    assert [item.type for item in first.output] == ["function_call", "function_call"]
    elsewhere = client.with_options(base_url=house.other_url)
    last = ask(elsewhere, input=results(first), tools=[WEATHER], previous_response_id=first.id)
    assert (last.output_text, last.previous_response_id) == ("Rome.", first.id)
    assert house.told == [QUESTION, {"role": "assistant", "content": "", "tool_calls": CALLED}, *ANSWERED]
    kept = client.responses.retrieve(last.id)
    assert (kept.output_text, kept.previous_response_id) == ("Rome.", first.id)


def test_arguments_stream_bit_by_bit(house: House, client: openai.OpenAI):
    house.local.script(streamed(*fragments("call_b", "weather", '{"ci', 'ty": "Be', 'rn"}')))
    with client.responses.stream(model="auto", input="?", tools=[WEATHER]) as stream:
        seen = [event for event in stream if event.type.startswith("response.function_call_arguments")]
    bits = ['{"city": "Bern"}'] if house.local.native else ['{"ci', 'ty": "Be', 'rn"}']  # Ollama sends calls whole
    assert [event.delta for event in seen[:-1]] == bits
    assert [event.snapshot for event in seen[:-1]] == ["".join(bits[:end]) for end in range(1, len(bits) + 1)]
    assert (seen[-1].name, seen[-1].arguments) == ("weather", '{"city": "Bern"}')


class City(BaseModel):
    """The weather in a city."""

    city: str


class Trip(BaseModel):
    where: City
    days: int = Field(ge=1)


@pytest.mark.parametrize("stream", [False, True])
def test_parsed_tool_arguments_and_parsed_text(house: House, client: openai.OpenAI, stream: bool):
    trip = {"where": {"city": "Rome"}, "days": 2}
    calls = [call("c", "City", {"city": "Bern"})]
    answer = streamed(json.dumps(trip), {"tool_calls": calls}) if stream else said(json.dumps(trip), *calls)
    house.local.script(answer)
    asked: Any = {"model": "auto", "input": "?", "text_format": Trip, "tools": [openai.pydantic_function_tool(City)]}
    if stream:
        with client.responses.stream(**asked) as events:
            response = events.get_final_response()
    else:
        response = client.responses.parse(**asked)
    assert response.output_parsed == Trip(where=City(city="Rome"), days=2)
    assert response.output[-1].parsed_arguments == City(city="Bern")
    form = house.sent[-1]["response_format"]["json_schema"]
    assert form["schema"]["required"] == ["where", "days"]
    if not house.local.native:  # Ollama reads the schema alone
        assert (form["name"], form["strict"]) == ("Trip", True)


PATCH = "*** Begin Patch\n*** Update File: a.py\n-\tprint('ä')\n*** End Patch\n"
APPLY = {
    "type": "custom",
    "name": "apply_patch",
    "description": "Edits files.",
    "format": {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"},
}


@pytest.mark.parametrize("stream", [False, True])
def test_custom_tools_take_raw_text(house: House, client: openai.OpenAI, stream: bool):
    wrapped = json.dumps({"input": PATCH})
    if stream:
        house.local.script(streamed(*fragments("c", "apply_patch", *[wrapped[at : at + 5] for at in range(0, 99, 5)])))
        events = list(client.responses.create(model="auto", input="Fix it.", tools=[APPLY], stream=True))
        deltas = [event.delta for event in events if event.type == "response.custom_tool_call_input.delta"]
        assert "".join(deltas) == PATCH and (len(deltas) > 5 or house.local.native)
        response = events[-1].response
    else:
        house.local.script(said("", call("c", "apply_patch", wrapped)))
        response = client.responses.create(model="auto", input="Fix it.", tools=[APPLY])
    [made] = response.output
    assert (made.type, made.name, made.input) == ("custom_tool_call", "apply_patch", PATCH)
    [offered] = house.sent[-1]["tools"]
    assert offered["function"]["parameters"]["required"] == ["input"]
    assert "start: /.+/" in offered["function"]["description"]
    outcome = {"type": "custom_tool_call_output", "call_id": made.call_id, "output": "Done!"}
    client.responses.create(model="auto", input=[outcome], tools=[APPLY], previous_response_id=response.id)
    [asked, turn, result] = house.told
    assert asked == {"role": "user", "content": "Fix it."}
    assert json.loads(turn["tool_calls"][0]["function"]["arguments"]) == {"input": PATCH}
    assert result == {"role": "tool", "tool_call_id": "c", "content": "Done!"}


@pytest.mark.parametrize("stream", [False, True])
def test_reasoning_comes_back_from_its_sealed_form_alone(house: House, client: openai.OpenAI, stream: bool):
    calls = [call("call_b", "weather", {"city": "Bern"})]
    told = {"reasoning": "Bern first."}
    house.local.script(streamed(told, {"tool_calls": calls}) if stream else said("", *calls, **told))
    ask = by_stream if stream else whole
    asked = {"tools": [WEATHER], "store": False, "include": ["reasoning.encrypted_content"]}
    first = ask(client, input=[QUESTION], **asked)
    reasoning, made = first.output
    assert reasoning.encrypted_content and "Bern" not in reasoning.encrypted_content
    sealed = {
        "type": "reasoning",
        "id": reasoning.id,
        "summary": [],
        "encrypted_content": reasoning.encrypted_content,
    }
    whole(client, input=[QUESTION, sealed, made, *results(first)], **asked)
    assert house.told[1]["reasoning"] == "Bern first."
    assert "encrypted_content" not in whole(client, input="?", store=False).model_dump_json(exclude_unset=True)


def test_forced_and_allowed_tools(house: House, client: openai.OpenAI):
    other = {**WEATHER, "name": "clock"}
    whole(client, input="?", tools=[WEATHER, other], tool_choice={"type": "function", "name": "clock"})
    forced = {"type": "function", "function": {"name": "clock"}}
    assert house.sent[-1].get("tool_choice") == (None if house.local.native else forced)  # Ollama supports no choice
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "clock"}]}
    response = whole(client, input="?", tools=[WEATHER, other], tool_choice=allowed, parallel_tool_calls=False)
    assert [tool["function"]["name"] for tool in house.sent[-1]["tools"]] == ["clock"]
    if not house.local.native:
        assert (house.sent[-1]["tool_choice"], house.sent[-1]["parallel_tool_calls"]) == ("required", False)
    assert [tool.name for tool in response.tools] == ["weather", "clock"] and response.tool_choice.mode == "required"


def test_an_image_from_a_tool_reaches_the_model(house: House, client: openai.OpenAI):
    house.local.script(said("", call("c", "weather", {"city": "Bern"})))
    first = whole(client, input="?", tools=[WEATHER])
    image = {"type": "input_image", "image_url": "data:image/png;base64,aGVsbG8=", "detail": "auto"}
    shown = {"type": "function_call_output", "call_id": "c", "output": [image]}
    whole(client, input=[shown], tools=[WEATHER], previous_response_id=first.id)
    *_, tool, user = house.told
    assert (tool["role"], user["role"], user["content"][-1]["type"]) == ("tool", "user", "image_url")


def test_async_streams_and_a_stream_that_is_left(house: House):
    house.local.script(
        streamed({"tool_calls": TWO_CALLS}), streamed("Rome."), replies.sse("once ", replies.HANG, finish=False)
    )

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=house.base_url, api_key="any", max_retries=0) as client:
            async with client.responses.stream(model="auto", input="Bern or Rome?", tools=[WEATHER]) as stream:
                first = await stream.get_final_response()
            more = {"input": results(first), "previous_response_id": first.id}
            last = [event async for event in await client.responses.create(model="auto", stream=True, **more)]
            async with client.responses.stream(model="auto", input="a story") as stream:
                async for event in stream:
                    if event.type == "response.output_text.delta":
                        break  # leaving the block hangs up
            return last[-1].response.output_text

    assert asyncio.run(run()) == "Rome."
    house.local.wait_hangup()


@pytest.mark.parametrize("stream", [False, True])
def test_errors_become_the_exceptions_they_mean(house: House, client: openai.OpenAI, stream: bool):
    wrong = replies.error(400, "too long", type="invalid_request_error", code="context_length_exceeded")
    house.local.script(wrong)
    house.cloud.script(wrong)
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="auto", input="?", stream=stream)
    assert (refused.value.code, refused.value.status_code) == ("context_length_exceeded", 400)
    with pytest.raises(openai.BadRequestError) as unknown:
        client.responses.create(model="auto", input="?", previous_response_id="resp_none", stream=stream)
    assert unknown.value.code == "previous_response_not_found"
    house.local.script(replies.error(500, "oom"))
    house.cloud.script(replies.error(500, "oom"))
    with pytest.raises(openai.InternalServerError):
        client.responses.create(model="auto", input="?", stream=stream)


def test_the_example_on_the_page_of_clients(house: House):
    block = Document.read("docs/clients.md").blocks("python")[0]
    text = block.text.replace("http://127.0.0.1:3030/v1", house.base_url)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("And another.\n", "")  # the backend repeats what it was asked
    assert [message["content"] for message in house.told] == ["Name a city.", "Name a city.", "And another."]


def test_a_cut_by_the_token_limit_is_incomplete(house: House, client: openai.OpenAI):
    house.local.script(streamed("half", finish="length"))
    last = [*client.responses.create(model="auto", input="?", max_output_tokens=16, stream=True)][-1]
    response = last.response
    assert last.type == "response.incomplete"
    assert (response.status, response.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (response.output_text, house.sent[-1]["max_tokens"]) == ("half", 16)


@pytest.mark.skipif(find_spec("openai.lib.responses_tool_runner") is None, reason="the tool runner came with openai 3")
@pytest.mark.parametrize("options", [{}, {"stream": True}, {"stream": True, "eager": True}], ids=str)
def test_the_sdks_own_tool_runner(house: House, client: openai.OpenAI, options: dict[str, Any]):
    """It checks every item and event before it runs anything."""
    from openai.lib.responses_tool_runner import RegisteredFunction, ResponsesToolRunner  # noqa: PLC0415

    if options:
        house.local.script(streamed({"reasoning": "Hm."}, "Looking.", {"tool_calls": TWO_CALLS}), streamed("Rome."))
    else:
        house.local.script(said("Looking.", *TWO_CALLS, reasoning="Hm."), said("Rome."))
    weather = RegisteredFunction(WEATHER, lambda arguments: DEGREES[arguments["city"]])
    runner = ResponsesToolRunner(functions=[weather])
    request = {"model": "auto", "input": "Bern or Rome?"}
    assert runner.run(client, request, max_steps=3, **options).output_text == "Rome."
    spoken = {"role": "assistant", "content": "Looking.", "reasoning": "Hm.", "tool_calls": CALLED}
    assert house.told == [QUESTION, spoken, *ANSWERED]

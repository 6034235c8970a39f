"""Responses request to chat body: wire page section 1."""

from __future__ import annotations

from typing import Any

import pytest

from app.errors import RequestError
from app.types import Body, Dialect
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse
from tests.wire.streams import answer, chat, request, response_of

PLAIN = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}

# (what is sent, what the chat body has beside model and messages, what is echoed)
FIELDS: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ("temperature", {"temperature": 0}, {"temperature": 0}, {"temperature": 0}),
    ("temperature absent", {}, {}, {"temperature": 1.0}),
    ("top_p", {"top_p": 0.5}, {"top_p": 0.5}, {"top_p": 0.5}),
    ("top_p absent", {}, {}, {"top_p": 1.0}),
    ("presence_penalty", {"presence_penalty": 1}, {"presence_penalty": 1}, {"presence_penalty": 1}),
    ("presence_penalty absent", {}, {}, {"presence_penalty": 0}),
    ("frequency_penalty", {"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}, {"frequency_penalty": -0.5}),
    ("frequency_penalty absent", {}, {}, {"frequency_penalty": 0}),
    ("max_output_tokens", {"max_output_tokens": 9}, {"max_tokens": 9}, {"max_output_tokens": 9}),
    ("max_output_tokens absent", {}, {}, {"max_output_tokens": None}),
    (
        "verbosity is for OpenAI only",
        {"text": {"verbosity": "low"}},
        {},
        {"text": {"format": {"type": "text"}, "verbosity": "low"}},
    ),
    (
        "effort",
        {"reasoning": {"effort": "low"}},
        {"reasoning_effort": "low"},
        {"reasoning": {"effort": "low", "summary": None}},
    ),
    ("summary", {"reasoning": {"summary": "auto"}}, {}, {"reasoning": {"effort": None, "summary": "auto"}}),
    ("reasoning absent", {}, {}, {"reasoning": {"effort": None, "summary": None}}),
    ("logprobs", {"include": ["message.output_text.logprobs"]}, {"logprobs": True}, {}),
    (
        "top_logprobs with logprobs",
        {"include": ["message.output_text.logprobs"], "top_logprobs": 3},
        {"logprobs": True, "top_logprobs": 3},
        {"top_logprobs": 3},
    ),
    ("top_logprobs alone", {"top_logprobs": 3}, {}, {"top_logprobs": 3}),
    ("top_logprobs absent", {}, {}, {"top_logprobs": 0}),
    ("encrypted reasoning", {"include": ["reasoning.encrypted_content"]}, {}, {}),
    ("other includes", {"include": ["file_search_call.results"]}, {}, {}),
    ("truncation", {"truncation": "auto"}, {}, {"truncation": "auto"}),
    ("truncation absent", {}, {}, {"truncation": "disabled"}),
    ("metadata", {"metadata": {"a": "b"}}, {}, {"metadata": {"a": "b"}}),
    ("metadata absent", {}, {}, {"metadata": {}}),
    ("store", {"store": False}, {}, {"store": False}),
    ("store absent", {}, {}, {"store": True}),
    ("previous_response_id", {"previous_response_id": "resp_0"}, {}, {"previous_response_id": "resp_0"}),
    ("previous_response_id absent", {}, {}, {"previous_response_id": None}),
    ("max_tool_calls", {"max_tool_calls": 2}, {}, {"max_tool_calls": 2}),
    ("max_tool_calls absent", {}, {}, {"max_tool_calls": None}),
    ("safety_identifier", {"safety_identifier": "u"}, {}, {"safety_identifier": "u"}),
    ("safety_identifier absent", {}, {}, {"safety_identifier": None}),
    ("prompt_cache_key", {"prompt_cache_key": "k"}, {}, {"prompt_cache_key": "k"}),
    ("prompt_cache_key absent", {}, {}, {"prompt_cache_key": None}),
    ("service_tier", {"service_tier": "flex"}, {}, {"service_tier": "flex"}),
    ("service_tier absent", {}, {}, {"service_tier": "default"}),
    ("background false", {"background": False}, {}, {"background": False}),
    ("background absent", {}, {}, {"background": False}),
    ("instructions absent", {}, {}, {"instructions": None}),
    ("text absent", {}, {}, {"text": {"format": {"type": "text"}}}),
    ("format text", {"text": {"format": {"type": "text"}}}, {}, {"text": {"format": {"type": "text"}}}),
    (
        "format json_object",
        {"text": {"format": {"type": "json_object"}}},
        {"response_format": {"type": "json_object"}},
        {"text": {"format": {"type": "json_object"}}},
    ),
    (
        "format json_schema",
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "p",
                    "description": "d",
                    "schema": {"type": "object"},
                    "strict": True,
                }
            }
        },
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "p", "description": "d", "schema": {"type": "object"}, "strict": True},
            }
        },
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "p",
                    "description": "d",
                    "schema": {"type": "object"},
                    "strict": True,
                }
            }
        },
    ),
    (
        "format json_schema, short",
        {"text": {"format": {"type": "json_schema", "name": "p", "schema": {}}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "p", "schema": {}}}},
        {"text": {"format": {"type": "json_schema", "name": "p", "description": None, "schema": {}, "strict": None}}},
    ),
    ("stream_options", {"stream_options": {"include_obfuscation": False}}, {}, {}),
    ("client_metadata", {"client_metadata": {"a": 1}}, {}, {}),
    ("conversation null", {"conversation": None}, {}, {}),
    ("prompt null", {"prompt": None}, {}, {}),
    ("user", {"user": "me"}, {}, {}),
    ("unknown field", {"flux_capacitor": {"on": True}}, {}, {}),
    ("tools absent", {}, {}, {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True}),
]


@pytest.mark.parametrize(("sent", "in_chat", "echoed"), [row[1:] for row in FIELDS], ids=[row[0] for row in FIELDS])
def test_field(sent: dict[str, Any], in_chat: dict[str, Any], echoed: dict[str, Any]) -> None:
    assert chat(**sent) == PLAIN | in_chat
    response = response_of(answer(content="hi"), request(**sent))
    assert {name: response[name] for name in echoed} == echoed


NULLABLE = """
model stream store background instructions previous_response_id tools tool_choice parallel_tool_calls text reasoning
include temperature top_p presence_penalty frequency_penalty max_output_tokens top_logprobs truncation metadata
max_tool_calls safety_identifier prompt_cache_key service_tier stream_options user
"""


def test_null_means_absent() -> None:
    """Never forwarded, the default echoed, alone and all together."""
    plain = response_of(answer(content="hi"))
    every = NULLABLE.split()
    for names in [*[[name] for name in every], every]:
        nulls = dict.fromkeys(names)
        assert chat(**nulls) == PLAIN, names
        assert response_of(answer(content="hi"), request(**nulls)) == plain, names
    assert chat(text={"format": None, "verbosity": None}, reasoning={"effort": None, "summary": None}) == PLAIN


def test_model_is_the_target_s() -> None:
    body: Body = ResponsesBody(request(model=" auto "))
    assert body.chat["model"] == "auto"
    assert b'"model":"qwen3:8b"' in body.encode("qwen3:8b", Dialect(), stream=False)
    assert request(model=" auto ").model == "auto"
    assert request(model=None).model == ""


def test_chat_view_is_what_a_plain_server_gets() -> None:
    asked = request(input=[{"role": "developer", "content": "short"}], tools=[{"type": "function", "name": "f"}])
    assert ResponsesBody(asked).chat == chat(
        input=[{"role": "developer", "content": "short"}], tools=[{"type": "function", "name": "f"}]
    ) | {"model": "auto"}


def test_string_input_is_one_user_message_and_is_not_echoed() -> None:
    assert chat()["messages"] == [{"role": "user", "content": "hello"}]
    assert "input" not in response_of(answer(content="hi"))


def test_instructions_are_a_system_message_in_front() -> None:
    assert chat(instructions="Be kind.")["messages"][0] == {"role": "system", "content": "Be kind."}
    assert chat(instructions="")["messages"] == PLAIN["messages"]
    assert response_of(answer(content="hi"), request(instructions="Be kind."))["instructions"] == "Be kind."


def test_stream_asks_for_usage() -> None:
    assert chat(streamed=True) == PLAIN | {"stream": True, "stream_options": {"include_usage": True}}
    assert "stream" not in chat(streamed=False)
    assert (request(stream=True).stream, request().stream) == (True, False)


def test_input_may_be_left_out_of_a_continuation() -> None:
    asked = parse({"model": "auto", "previous_response_id": "resp_0"})
    history = [{"type": "message", "role": "user", "content": "before"}]
    assert ResponsesBody(asked, history).chat["messages"] == [{"role": "user", "content": "before"}]


@pytest.mark.parametrize(
    ("dialect", "sent", "expected"),
    [
        (Dialect(max_tokens_field="max_completion_tokens"), {"max_output_tokens": 5}, {"max_completion_tokens": 5}),
        (Dialect(verbosity=True), {"text": {"verbosity": "low"}}, {"verbosity": "low"}),
        (Dialect(verbosity=True), {}, {}),
        (
            Dialect(json_schema=False),
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
            {"response_format": {"type": "json_object", "schema": {"type": "object"}}},
        ),
        (
            Dialect(efforts={"minimal": "low", "xhigh": "high"}),
            {"reasoning": {"effort": "minimal"}},
            {"reasoning_effort": "low"},
        ),
        (Dialect(efforts={"minimal": "low"}), {"reasoning": {"effort": "medium"}}, {"reasoning_effort": "medium"}),
    ],
)
def test_dialect(dialect: Dialect, sent: dict[str, Any], expected: dict[str, Any]) -> None:
    assert chat(dialect=dialect, **sent) == PLAIN | expected


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": {"role": "user"}}, "input"),
    ({"input": ["hello"]}, "input"),
    ({"input": [None]}, "input"),
    ({"input": []}, "input"),
    ({"input": [{}]}, "input"),
    ({"input": [{"role": "user", "content": 5}]}, "input"),
    ({"input": [{"role": "user", "content": {"type": "input_text", "text": "x"}}]}, "input"),
    ({"input": [{"role": "user"}]}, "input"),
    ({"input": [{"role": "user", "content": ["x"]}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_hologram", "data": "x"}]}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "file_1"}]}]}, "input"),
    ({"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]}]}, "input"),
    ({"input": [{"role": "wizard", "content": "x"}]}, "input"),
    ({"input": [{"type": "message", "content": "x"}]}, "input"),
    ({"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]}, "input"),
    ({"input": [{"type": "function_call", "call_id": "c", "arguments": "{}"}]}, "input"),
    ({"input": [{"type": "function_call_output", "output": "x"}]}, "input"),
    ({"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]}, "input"),
    ({"input": [{"type": "item_reference"}]}, "input"),
    ({"model": 5}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"store": 1}, "store"),
    ({"background": True}, "background"),
    *[({name: value}, name) for name in ("conversation", "prompt") for value in ("conv_1", {"id": "p"}, {}, "", False)],
    ({"instructions": ["x"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"top_p": []}, "top_p"),
    ({"presence_penalty": "x"}, "presence_penalty"),
    ({"frequency_penalty": "x"}, "frequency_penalty"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1.5}, "max_output_tokens"),
    ({"max_output_tokens": True}, "max_output_tokens"),
    ({"top_logprobs": -1}, "top_logprobs"),
    ({"include": "x"}, "include"),
    ({"metadata": []}, "metadata"),
    ({"truncation": 1}, "truncation"),
    ({"text": "x"}, "text"),
    ({"text": {"format": "json"}}, "text.format"),
    ({"text": {"format": {"type": "xml"}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format"),
    ({"text": {"format": {"type": "json_schema", "name": "p"}}}, "text.format"),
    ({"text": {"verbosity": 1}}, "text.verbosity"),
    ({"reasoning": "high"}, "reasoning"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"tools": {}}, "tools"),
    ({"tools": ["f"]}, "tools"),
    ({"tools": [{"name": "f"}]}, "tools"),
    ({"tools": [{"type": "function"}]}, "tools"),
    ({"tools": [{"type": "custom", "name": ""}]}, "tools"),
    *[({"tools": [{"type": "function", "name": "f", "parameters": odd}]}, "tools") for odd in ("{}", 5, [], [{}])],
    *[({"tools": [{"type": "function", "name": "f", "description": odd}]}, "tools") for odd in (5, [], {}, True)],
    *[
        ({"input": [{"type": kind, "call_id": "c", "name": "f", "namespace": odd}]}, "input")
        for kind in ("function_call", "custom_tool_call")
        for odd in ([], {}, 5, True, ["n"])
    ],
    ({"tools": [{"type": "namespace", "name": "n"}]}, "tools"),
    ({"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "function"}]}]}, "tools"),
    ({"tool_choice": "maybe"}, "tool_choice"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {"name": "f"}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "tools": "f"}}, "tool_choice"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "maybe", "tools": []}}, "tool_choice"),
    ({"tool_choice": {"type": "function", "name": "g"}, "tools": [{"type": "function", "name": "f"}]}, "tool_choice"),
    ({"parallel_tool_calls": "x"}, "parallel_tool_calls"),
]


@pytest.mark.parametrize(("sent", "param"), WRONG, ids=[str(sent)[:60] for sent, _ in WRONG])
def test_wrong_field_is_named(sent: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        chat(**sent)
    assert (caught.value.status, caught.value.type, caught.value.param) == (400, "invalid_request_error", param)


@pytest.mark.parametrize("previous", [{}, {"previous_response_id": None}])
def test_input_is_required(previous: dict[str, Any]) -> None:
    with pytest.raises(RequestError) as caught:
        parse({"model": "auto"} | previous)
    assert caught.value.param == "input"


def test_body_is_utf8_whatever_the_text() -> None:
    asked = ResponsesBody(request(input="né \U0001f600 \ud83d"))
    encoded = asked.encode("m", Dialect(), stream=False)
    assert "né \U0001f600 \\ud83d".encode() in encoded


def test_a_request_as_codex_sends_it() -> None:
    """The client notes of the wire page: section 12."""

    def message(role: str, text: str) -> dict[str, Any]:
        return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}

    tools = [
        {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}},
        {"type": "namespace", "name": "agents", "description": "d", "tools": [{"type": "function", "name": "spawn"}]},
        {"type": "web_search", "external_web_access": False},
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
        {"type": "tool_search", "execution": "client"},
    ]
    body = chat(
        streamed=True,
        stream=True,
        store=False,
        include=["reasoning.encrypted_content"],
        reasoning={"summary": "auto"},
        tools=tools,
        tool_choice="auto",
        parallel_tool_calls=True,
        prompt_cache_key="0199",
        client_metadata={"x": "y"},
        input=[message("developer", "a"), message("developer", "b"), message("user", "c"), message("user", "d")],
    )
    assert set(body) == {
        "model",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "stream",
        "stream_options",
    }
    assert [(sent["role"], sent["content"]) for sent in body["messages"]] == [
        ("system", "a\n\nb"),
        ("user", "c"),
        ("user", "d"),
    ]
    assert [tool["function"]["name"] for tool in body["tools"]] == ["exec_command", "apply_patch", "agents__spawn"]


@pytest.mark.parametrize("items, parts, fine", [(20_000, 0, True), (20_001, 0, False), (2, 19_999, False)])
def test_the_number_of_items_and_parts_is_bounded(items: int, parts: int, fine: bool) -> None:
    given = [{"role": "user", "content": "x"}] * (items - 1) + [{"role": "user", "content": [{}] * parts}]
    if fine:
        assert len(parse({"input": given}).input) == items
    else:
        with pytest.raises(RequestError, match="more than 20000") as caught:
            parse({"input": given})
        assert caught.value.param == "input"

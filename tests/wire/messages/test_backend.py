"""A backend speaks the Messages API: chat requests are written for it, and its replies read."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from app.errors import CapabilityMissing, StreamInterrupted, Untranslatable
from app.types import Dialect, JsonDict, Wire
from app.wire import WIRES, sse, translator
from app.wire.chat import request as chat_request
from app.wire.messages.from_chat import dropped_members, write_body
from app.wire.reasoning import seal_reasoning
from app.wire.translator import ReplyContext
from tests.wire.messages.grammar import check
from tests.wire.messages.test_grammar import GOOD, written
from tests.wire.messages.test_request import body_of, result, text, user

ASK = {"role": "user", "content": "Why?"}
PNG = "data:image/png;base64,iVBORw0KGgo="
MESSAGES = WIRES[Wire.MESSAGES]


def body_for(*messages: JsonDict, **members: object) -> JsonDict:
    return write_body({"messages": list(messages or [ASK]), **members}, "claude", 8192, stream=False)


def context(body: object = None) -> ReplyContext:
    numbers = itertools.count(1)
    parsed = body or chat_request.of_text("hello")
    return ReplyContext(body=parsed, model="claude", new_id=lambda name: f"{name}_{next(numbers)}", clock=lambda: 5.0)


def test_the_smallest_request():
    assert body_for() == {
        "model": "claude",
        "max_tokens": 8192,
        "messages": [{"role": "user", "content": [text("Why?")]}],
    }


def test_members():
    body = body_for(
        max_tokens=5,
        max_completion_tokens=7,
        temperature=1.5,
        top_p=0.5,
        stop=["END", " "],
        response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}},
    )
    assert {name: body[name] for name in ("max_tokens", "temperature", "top_p", "stop_sequences", "output_config")} == {
        "max_tokens": 7,
        "temperature": 1.0,
        "top_p": 0.5,
        "stop_sequences": ["END"],
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    }
    assert dropped_members({"messages": [], "logprobs": True, "seed": None, "user": "x"}) == ("logprobs", "user")


def test_a_round_of_tools():
    call = {"id": "call:1", "type": "function", "function": {"name": "ls", "arguments": '{"path": "."}'}}
    body = body_for(
        {"role": "system", "content": "S"},
        {"role": "developer", "content": [text("D")]},
        {"role": "user", "content": [text("look"), {"type": "image_url", "image_url": {"url": PNG}}]},
        {"role": "assistant", "content": "", "tool_calls": [call, {**call, "id": "call:2"}]},
        {"role": "tool", "tool_call_id": "call:1", "content": "ok"},
        {"role": "tool", "tool_call_id": "call:2", "content": ""},
        {"role": "user", "content": "and?"},
    )
    use = {"type": "tool_use", "name": "ls", "input": {"path": "."}}
    assert body["system"] == "S\n\nD"
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                text("look"),
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
            ],
        },
        {"role": "assistant", "content": [{**use, "id": "call_1"}, {**use, "id": "call_2"}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [text("ok")]},
                {"type": "tool_result", "tool_use_id": "call_2", "content": []},
                text("and?"),
            ],
        },
    ]


TOOL = {"type": "function", "function": {"name": "ls", "description": "Lists.", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("members", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none"}, {"type": "none"}),
        ({"tool_choice": {"type": "function", "function": {"name": "ls"}}}, {"type": "tool", "name": "ls"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"parallel_tool_calls": False, "tool_choice": "required"},
            {"type": "any", "disable_parallel_tool_use": True},
        ),
    ],
)
def test_tools(members, choice):
    body = body_for(tools=[TOOL], **members)
    assert body["tools"] == [{"name": "ls", "input_schema": {"type": "object"}, "description": "Lists."}]
    assert body.get("tool_choice") == choice
    assert "tool_choice" not in body_for(**members)


def test_content_without_a_form():
    with pytest.raises(CapabilityMissing):
        body_for({"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}]})
    with pytest.raises(Untranslatable):
        body_for({"role": "system", "content": "S"})


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "Eq=="},
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "c1", "name": "ls", "input": {"a": 1}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "cache_read_input_tokens": 10, "output_tokens": 2},
}
USAGE = {
    "prompt_tokens": 13,
    "completion_tokens": 2,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 10},
}
TO_CHAT = translator(Wire.CHAT, Wire.MESSAGES)


def test_a_whole_message_for_a_chat_client():
    chat = json.loads(TO_CHAT.reply(b"", MESSAGE, context()))
    (choice,) = chat["choices"]
    assert choice["finish_reason"] == "tool_calls" and chat["usage"] == USAGE
    assert choice["message"]["content"] == "hi" and choice["message"]["reasoning_content"] == "hm"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "ls", "arguments": '{"a": 1}'}


def chunks_of(raw: bytes) -> list[JsonDict]:
    assert raw.endswith(sse.DONE)
    return [json.loads(block.removeprefix(b"data: ")) for block in raw.split(b"\n\n")[:-2]]


@pytest.mark.parametrize("wants_usage", [False, True])
def test_a_stream_for_a_chat_client(wants_usage):
    body = chat_request.parse(
        json.dumps({"messages": [ASK], "stream": True, "stream_options": {"include_usage": wants_usage}}).encode()
    )
    raw = written(GOOD)
    expected = b"".join(TO_CHAT.stream([raw], context(body)))
    chunks = chunks_of(expected)
    assert [bool(chunk.get("usage")) for chunk in chunks].count(True) == wants_usage
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk["choices"]]
    assert deltas[0] == {"role": "assistant", "content": ""} and deltas[1] == {"content": "hi"}
    arguments = [delta["tool_calls"][0]["function"]["arguments"] for delta in deltas if "tool_calls" in delta]
    assert arguments == ["", '{"a":', "1}"]
    dice = random.Random(3)
    for _ in range(20):
        cuts = sorted(dice.sample(range(1, len(raw)), 15))
        pieces = [raw[start:end] for start, end in itertools.pairwise([0, *cuts, len(raw)])]
        assert b"".join(TO_CHAT.stream(pieces, context(body))) == expected


@pytest.mark.parametrize("index", [[], {}, None, "0", True, 10**400])
def test_the_index_of_a_block_may_be_anything(index):
    """The piece of an unknown call is left out, for the client and for the judgement."""
    events = [{**event, "index": index} if event["type"] == "content_block_delta" else event for event in GOOD]
    chunks = chunks_of(b"".join(TO_CHAT.stream([written(events)], context())))
    assert [chunk["choices"][0]["delta"].get("content") for chunk in chunks if chunk["choices"]][1] == "hi"
    collector = WIRES[Wire.MESSAGES].collect()
    collector.feed(written(events))
    (called,) = collector.answer.message["tool_calls"]
    assert called["function"] == {"name": "ls", "arguments": ""}


def test_a_stream_that_breaks_for_a_chat_client():
    def broken():
        yield written(GOOD[:3])
        raise StreamInterrupted("gone")

    raw = b"".join(TO_CHAT.stream(broken(), context()))
    assert b'"message":"gone"' in raw and b"[DONE]" not in raw


def test_a_whole_message_as_a_stream():
    chat = chunks_of(b"".join(TO_CHAT.reply_as_stream(MESSAGE, context())))
    assert chat[0]["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    same = translator(Wire.MESSAGES, Wire.MESSAGES)
    usage = {**MESSAGE["usage"], "cache_creation_input_tokens": 0}
    _, message = check(b"".join(same.reply_as_stream({**MESSAGE, "usage": usage}, context())))
    assert message == {**MESSAGE, "usage": usage}


def test_the_watch():
    watch = MESSAGES.watch()
    for at in range(0, len(raw := written(GOOD)), 7):
        watch.feed(raw[at : at + 7])
    watch.end()
    assert watch.has_end and watch.ended_well and watch.has_event and watch.closing == b""
    assert (watch.input_tokens, watch.output_tokens) == (3, 2)
    assert (watch.facts.chars, watch.facts.finish) == (len('hi{"a":1}'), "tool_calls")
    broken = MESSAGES.watch()
    broken.feed(written([*GOOD[:3], {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}]))
    assert broken.error is not None and broken.error_visible and not broken.ended_well
    early = MESSAGES.watch()
    early.feed(written(GOOD[:4]))
    early.end()
    assert not early.ended_well


def test_whole_replies_are_measured():
    reading = MESSAGES.read(MESSAGE)
    assert (reading.input_tokens, reading.output_tokens, reading.facts.finish) == (13, 2, "tool_calls")
    assert MESSAGES.read({"id": "x"}).lack == "content"


def test_the_answer():
    collector = MESSAGES.collect()
    for at in range(0, len(raw := written(GOOD)), 11):
        collector.feed(raw[at : at + 11])
    expected = MESSAGES.answer({**MESSAGE, "content": MESSAGE["content"][1:]})
    assert collector.has_tool_call and collector.answer.message["content"] == "hi"
    assert collector.answer.finish == expected.finish == "tool_calls"
    for answer in (collector.answer, expected):
        assert json.loads(answer.message["tool_calls"][0]["function"]["arguments"]) == {"a": 1}


BILLING = "x-anthropic-billing-header: cc_version=1;"


def passed_on(vendor: bool, **members: object) -> JsonDict:
    same = translator(Wire.MESSAGES, Wire.MESSAGES)
    raw = same.request(body_of(**members), "claude", Dialect(is_anthropic=vendor), stream=bool(members.get("stream")))
    return json.loads(raw)


def test_equal_forms_pass_the_body_on():
    odd = {"brand_new": {"a": 1}, "thinking": {"type": "adaptive"}, "top_k": 3}
    assert passed_on(True, **odd) == {**body_of(**odd).received.document, "model": "claude"}


def test_only_the_vendor_gets_the_user_and_the_line_for_billing():
    members = {"metadata": {"user_id": "canary"}, "system": [text(BILLING), text("S")]}
    vendor, other = passed_on(True, **members), passed_on(False, **members)
    assert vendor["metadata"] == {"user_id": "canary"} and vendor["system"] == members["system"]
    assert other["metadata"] is None and other["system"] == "S"


def test_the_vendor_gets_no_thinking_of_other_models():
    ours = {"type": "thinking", "thinking": "", "signature": seal_reasoning("hm")}
    theirs = {"type": "thinking", "thinking": "", "signature": "Eq=="}
    turns = [user("a"), {"role": "assistant", "content": [theirs, ours, text("b")]}, user(result("t"))]
    assert passed_on(True, messages=turns)["messages"][1]["content"] == [theirs, text("b")]
    assert passed_on(False, messages=turns)["messages"] == turns

"""The length of an answer and why it ended: the same for a whole answer and for its stream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.wire.chat import reply as chat_reply
from app.wire.chat.stream import StreamWatch
from app.wire.reply_facts import ReplyFacts
from app.wire.responses import reply as responses_reply
from app.wire.responses.stream import ResponsesWatch
from app.wire.sse import event

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": "\\n"}'}}
MESSAGES: dict[str, tuple[dict[str, Any], str | None, ReplyFacts]] = {
    "text": ({"content": "hello"}, "stop", ReplyFacts(5, "stop")),
    "text with escapes and letters of other scripts": ({"content": 'a\n"\\ü€😀'}, "stop", ReplyFacts(7, "stop")),
    "nothing": ({"content": ""}, "stop", ReplyFacts(0, "stop")),
    "null beside a call": ({"content": None, "tool_calls": [CALL]}, "tool_calls", ReplyFacts(11, "tool_calls")),
    "parts": ({"content": [{"type": "text", "text": "abc"}]}, "stop", ReplyFacts(3, "stop")),
    "cut": ({"content": "abc"}, "length", ReplyFacts(3, "length")),
    "a capital reason": ({"content": "abc"}, "MAX_TOKENS", ReplyFacts(3, "max_tokens")),
    "a refusal": ({"content": None, "refusal": "no"}, "stop", ReplyFacts(2, "refusal")),
    "an empty refusal is none": ({"content": "abc", "refusal": ""}, "stop", ReplyFacts(3, "stop")),
    "filtered": ({"content": ""}, "content_filter", ReplyFacts(0, "content_filter")),
    "thoughts alone": ({"content": "", "reasoning_content": "hmm"}, "length", ReplyFacts(0, "length")),
    "no reason": ({"content": "abc"}, None, ReplyFacts(3, None)),
    "an empty reason": ({"content": "abc"}, "", ReplyFacts(3, None)),
    "a text that looks like members": (
        {"content": '"content":"x","finish_reason":"y"'},
        "stop",
        ReplyFacts(33, "stop"),
    ),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_a_whole_answer(name: str) -> None:
    message, reason, facts = MESSAGES[name]
    assert chat_reply.read_reply({"choices": [{"message": message, "finish_reason": reason}]}).facts == facts


@pytest.mark.parametrize("spaces", [(",", ":"), (", ", ": "), (" , ", " : ")], ids=["tight", "usual", "wide"])
@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("name", MESSAGES)
def test_its_stream(name: str, spaces: tuple[str, str], ascii_only: bool) -> None:
    message, reason, facts = MESSAGES[name]
    watch = StreamWatch()
    for choice in ({"delta": message, "finish_reason": None}, {"delta": {}, "finish_reason": reason}):
        text = json.dumps({"choices": [choice]}, separators=spaces, ensure_ascii=ascii_only)
        text = text.replace("\\ud83d\\ude00", "\\u263a")  # two escapes of one character count as two
        watch.feed(b"data: " + text.encode() + b"\n\n")
    assert watch.facts == facts


def test_a_refusal_that_has_begun_is_not_yet_an_end() -> None:
    watch = StreamWatch()
    watch.feed(b'data: {"choices":[{"delta":{"refusal":"I can"},"finish_reason":null}]}\n\n')
    assert watch.facts == ReplyFacts(5, None)


NO_ANSWERS: tuple[dict[str, Any], ...] = (
    {},
    {"choices": 3},
    {"choices": [None, {"message": 4}, {"message": {"content": 5, "tool_calls": [6, {"function": 7}]}}]},
    {"choices": [{"message": {"content": [1, {"text": 2}], "refusal": [], "function_call": "f"}, "finish_reason": {}}]},
)


@pytest.mark.parametrize("document", NO_ANSWERS)
def test_what_is_no_answer_has_no_length(document: dict[str, Any]) -> None:
    assert chat_reply.read_reply(document).facts == ReplyFacts(0, None)


TEXT = {"type": "message", "content": [{"type": "output_text", "text": "abcd"}]}
RESPONSES: dict[str, tuple[dict[str, Any], ReplyFacts]] = {
    "text": ({"status": "completed", "output": [TEXT]}, ReplyFacts(4, "stop")),
    "a call": (
        {"status": "completed", "output": [{"type": "function_call", "arguments": "{}"}]},
        ReplyFacts(2, "tool_calls"),
    ),
    "a custom call": (
        {"status": "completed", "output": [{"type": "custom_tool_call", "input": "ls"}]},
        ReplyFacts(2, "tool_calls"),
    ),
    "thoughts alone": (
        {"status": "completed", "output": [{"type": "reasoning", "content": [{"text": "hmm"}]}]},
        ReplyFacts(0, "stop"),
    ),
    "cut": (
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": [TEXT]},
        ReplyFacts(4, "max_output_tokens"),
    ),
    "a refusal": (
        {"status": "completed", "output": [{"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}]},
        ReplyFacts(2, "refusal"),
    ),
    "nothing that fits": ({"status": 3, "output": [None, {"type": "message", "content": "x"}]}, ReplyFacts(0, None)),
}  # fmt: skip


@pytest.mark.parametrize("name", RESPONSES)
def test_a_response_and_its_stream(name: str) -> None:
    response, facts = RESPONSES[name]
    assert responses_reply.read_reply(response).facts == facts
    watch = ResponsesWatch()
    watch.feed(event({"type": "response.output_text.delta", "delta": "x"}, "response.output_text.delta"))
    watch.feed(event({"type": "response.completed", "response": response}, "response.completed"))
    assert watch.facts == facts

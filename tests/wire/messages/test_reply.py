"""Chat replies become messages: whole, and as streams whose grammar is checked."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from app.errors import BackendProtocol, StreamInterrupted
from app.types import JsonDict
from app.wire import sse
from app.wire.messages.translator import MessagesToChat
from app.wire.reasoning import seal_reasoning
from app.wire.translator import ReplyContext
from tests.wire.messages.grammar import check
from tests.wire.messages.test_request import TOOL, body_of

WIRE = MessagesToChat()
USAGE = {"prompt_tokens": 30, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 10}}
OUR_USAGE = {
    "input_tokens": 20,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 10,
    "output_tokens": 7,
}


def context(**members: object) -> ReplyContext:
    numbers = itertools.count(1)
    body = body_of(tools=[TOOL, {**TOOL, "name": "cat"}], **members)
    return ReplyContext(
        body=body,
        model="small",
        new_id=lambda prefix: f"{prefix}_{next(numbers)}",
        clock=lambda: 0.0,
        reply_id="msg_1",
        input_tokens=25,
    )


def whole(message: JsonDict, finish: object = "stop", members: JsonDict | None = None, **choice: object) -> JsonDict:
    document = {"choices": [{"index": 0, "message": message, "finish_reason": finish, **choice}], "usage": USAGE}
    return json.loads(WIRE.reply(b"", document, context(**(members or {}))))


def chunks(*deltas: JsonDict, finish: str | None = "stop", usage: bool = True, done: bool = True) -> bytes:
    events = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    if finish:
        events.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    if usage:
        events.append({"choices": [], "usage": USAGE})
    return b"".join(map(sse.event, events)) + (sse.DONE if done else b"")


def streamed(raw: bytes, **members: object) -> JsonDict:
    return check(b"".join(WIRE.stream([raw], context(**members))))[1]


def call(index: int, name: str = "", arguments: str = "", call_id: str = "") -> JsonDict:
    function = ({"name": name} if name else {}) | {"arguments": arguments}
    return {"tool_calls": [{"index": index, **({"id": call_id} if call_id else {}), "function": function}]}


THINKS = {"thinking": {"type": "adaptive"}}
HIDES = {"thinking": {"type": "adaptive", "display": "omitted"}}
LS = {"type": "tool_use", "id": "c1", "name": "ls", "input": {"path": "."}}
CAT = {"type": "tool_use", "id": "c2", "name": "cat", "input": {}}


def test_a_text():
    message = whole({"role": "assistant", "content": "Blue."})
    assert message == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "small",
        "content": [{"type": "text", "text": "Blue."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": OUR_USAGE,
    }
    assert streamed(chunks({"role": "assistant", "content": ""}, {"content": "Bl"}, {"content": "ue."})) == message


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("eos", "end_turn")],
)
def test_stop_reasons(finish, stop):
    assert whole({"content": "x"}, finish)["stop_reason"] == stop
    assert streamed(chunks({"content": "x"}, finish=finish))["stop_reason"] == stop


def test_a_stop_sequence_that_the_server_names():
    members = {"stop_sequences": ["END"]}
    message = whole({"content": "x"}, "stop", members, stop_reason="END")
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "END")
    assert whole({"content": "x"}, "stop", members, stop_reason=151645)["stop_reason"] == "end_turn"


def test_a_refusal():
    message = whole({"content": None, "refusal": "No."})
    assert message["content"] == [{"type": "text", "text": "No."}] and message["stop_reason"] == "refusal"
    assert streamed(chunks({"refusal": "No."}))["stop_reason"] == "refusal"


def test_thinking_is_shown_to_those_who_ask_for_it():
    reply = {"reasoning_content": "hm", "content": "Blue."}
    block = {"type": "thinking", "thinking": "hm", "signature": seal_reasoning("hm")}
    for members, first in ((THINKS, [block]), (HIDES, [{**block, "thinking": ""}]), ({}, [])):
        assert whole(reply, members=members)["content"] == [*first, {"type": "text", "text": "Blue."}]
        assert streamed(chunks(*({name: text} for name, text in reply.items())), **members)["content"][:-1] == first


def test_calls_one_after_the_other():
    deltas = [
        {"content": "I look."},
        call(0, "ls", call_id="c1"),
        call(0, arguments='{"path"'),
        call(0, arguments=': "."}'),
        call(1, "cat", "{}", "c2"),
    ]
    message = streamed(chunks(*deltas, finish="tool_calls"))
    assert message["content"] == [{"type": "text", "text": "I look."}, LS, CAT]
    assert message["stop_reason"] == "tool_use"


def test_calls_whose_pieces_alternate():
    deltas = [
        call(0, "ls", '{"path', "c1"),
        call(1, "cat", "{", "c2"),
        call(0, arguments='": "'),
        call(1, arguments="}"),
        call(0, arguments='."}'),
    ]
    assert streamed(chunks(*deltas, finish="tool_calls"))["content"] == [LS, CAT]


def test_a_text_after_a_call():
    deltas = [call(0, "ls", '{"path": "."}', "c1"), {"content": "Done."}]
    assert streamed(chunks(*deltas))["content"] == [LS, {"type": "text", "text": "Done."}]


@pytest.mark.parametrize("arguments", [{"path": "."}, '{"path": "."}'])
def test_a_whole_call_without_id_and_with_the_finish_reason_stop(arguments):
    message = whole({"content": "", "tool_calls": [{"function": {"name": "ls", "arguments": arguments}}]})
    assert message["content"] == [{**LS, "id": "toolu_1"}] and message["stop_reason"] == "tool_use"


NO_OBJECTS = [
    ("[1]", {"value": [1]}),
    (' "a" ', {"value": "a"}),
    ("5", {"value": 5}),
    ("ls -l", {"raw": "ls -l"}),
    ("\u00e4", {"raw": "\u00e4"}),
    ("null", {}),
    (" null ", {}),
    ("", {}),
    ("  ", {}),
]


@pytest.mark.parametrize(("arguments", "value"), [("{'a", {"raw": "{'a"}), *NO_OBJECTS])
def test_arguments_that_are_no_object(arguments, value):
    message = whole({"tool_calls": [{"id": "c1", "function": {"name": "ls", "arguments": arguments}}]})
    assert message["content"][0]["input"] == value


@pytest.mark.parametrize(("arguments", "value"), [*NO_OBJECTS, (' {"a": 1} ', {"a": 1})])
def test_arguments_that_are_no_object_in_a_stream(arguments, value):
    """The call before it is still open, so that the pieces wait; then the call alone."""
    pieces = [call(1, arguments=letter) for letter in arguments]
    one, two = streamed(chunks(call(0, "cat", "{", "c0"), call(1, "ls", "", "c1"), *pieces, call(0, arguments="}")))[
        "content"
    ]
    assert (one["input"], two["input"]) == ({}, value)
    alone = streamed(chunks(call(0, "ls", "", "c1"), *(call(0, arguments=letter) for letter in arguments)))
    assert alone["content"][0]["input"] == value


def test_a_call_that_was_cut():
    message = streamed(chunks(call(0, "ls", '{"path": ".', "c1"), finish="length"))
    assert message["stop_reason"] == "max_tokens" and message["content"][0]["input"] == '{"path": ".'


def test_an_empty_reply():
    assert whole({"content": None})["content"] == []
    assert streamed(chunks())["content"] == []


def test_usage_is_the_estimate_until_the_server_tells():
    events, message = check(b"".join(WIRE.stream([chunks({"content": "x"})], context())))
    assert events[0]["message"]["usage"]["input_tokens"] == 25 and message["usage"] == OUR_USAGE
    _, unknown = check(b"".join(WIRE.stream([chunks({"content": "x"}, usage=False)], context())))
    assert (unknown["usage"]["input_tokens"], unknown["usage"]["output_tokens"]) == (25, 0)


@pytest.mark.parametrize("finish", [None, "stop"])
@pytest.mark.parametrize("done", [False, True])
def test_ends_of_streams(finish, done):
    events, _ = check(b"".join(WIRE.stream([chunks({"content": "x"}, finish=finish, done=done)], context())))
    assert events[-1]["type"] == ("message_stop" if finish or done else "error")


def test_a_stream_that_breaks_ends_with_an_error():
    def broken():
        yield chunks({"content": "x"}, finish=None, usage=False, done=False)
        raise StreamInterrupted("the backend's stream broke: reset")

    events, _ = check(b"".join(WIRE.stream(broken(), context())))
    assert events[-1]["error"] == {"type": "api_error", "message": "the backend's stream broke: reset"}


@pytest.mark.parametrize(
    "raw",
    [
        sse.event({"error": {"message": "out of memory"}}),
        b"event: error\ndata: out of memory\n\n",
        chunks({"content": "x"}, finish="error", done=False),
        chunks(call(0, "", '{"a": 1}'), finish="tool_calls"),
    ],
)
def test_failures_within_a_stream(raw):
    events, _ = check(b"".join(WIRE.stream([raw], context())))
    assert events[-1]["type"] == "error"


def test_comments_of_the_backend_become_pings():
    raw = b"".join(WIRE.stream([b": busy\n\n", chunks({"content": "x"})], context()))
    assert raw.count(b"event: ping") == 1
    check(raw)


def test_a_whole_reply_to_a_stream():
    document = {"choices": [{"message": {"content": "Blue."}, "finish_reason": "stop"}], "usage": USAGE}
    _, message = check(b"".join(WIRE.reply_as_stream(document, context())))
    assert message["content"] == [{"type": "text", "text": "Blue."}] and message["usage"] == OUR_USAGE
    events, _ = check(b"".join(WIRE.reply_as_stream({"choices": []}, context())))
    assert events[-1]["type"] == "error"


@pytest.mark.parametrize("document", [{}, {"choices": []}, {"choices": [{"finish_reason": "error", "message": {}}]}])
def test_whole_replies_that_cannot_be_used(document):
    with pytest.raises(BackendProtocol):
        WIRE.reply(b"", document, context())


def test_pieces_may_end_anywhere():
    deltas = [
        {"reasoning_content": "hm "},
        {"content": "ä"},
        {"content": "€"},
        call(0, "ls", '{"path', "c1"),
        call(1, "cat", "{}", "c2"),
        call(0, arguments='": "."}'),
    ]
    raw = chunks(*deltas, finish="tool_calls")
    expected = check(b"".join(WIRE.stream([raw], context(**THINKS))))[1]
    dice = random.Random(7)
    for _ in range(50):
        cuts = sorted(dice.sample(range(1, len(raw)), 20))
        pieces = [raw[start:end] for start, end in itertools.pairwise([0, *cuts, len(raw)])]
        assert check(b"".join(WIRE.stream(pieces, context(**THINKS))))[1] == expected

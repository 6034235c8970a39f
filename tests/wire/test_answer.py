"""The answer in a reply: the same for a whole reply and for its stream, in every wire form, cut anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from app.types import Wire
from app.wire import WIRES, sse
from app.wire.answer import MOST_BYTES, Answer, Collector, logprobs_in
from app.wire.responses.stream import EventStream, translate
from tests.wire.streams import NOW, body, call, calls, delta, ids, request, text

PLAIN = {"role": "assistant", "content": "hello"}


def fed(wire: Wire, pieces: Iterable[bytes]) -> Collector:
    collector = WIRES[wire].collect()
    for piece in pieces:
        collector.feed(piece)
    return collector


def in_pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def logprobs(*values: object) -> list[dict[str, Any]]:
    return [{"token": "x", "logprob": value, "bytes": [120], "top_logprobs": []} for value in values]


def lines(*documents: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def line(done: str | None = None, *, entries: Any = None, **message: Any) -> dict[str, Any]:
    document: dict[str, Any] = {"model": "m", "message": {"role": "assistant", **message}, "done": done is not None}
    document |= {"done_reason": done} if done is not None else {}
    return document | ({"logprobs": entries} if entries is not None else {})


CHAT: dict[str, tuple[list[dict[str, Any] | bytes], Answer]] = {
    "text": ([*text("hel", "lo"), delta("stop")], Answer(PLAIN, "stop")),
    "the end beside the last text": ([*text("hel"), delta("stop", content="lo")], Answer(PLAIN, "stop")),
    "the role first": (
        [delta(role="assistant", content=""), *text("hello"), delta("stop")],
        Answer(PLAIN, "stop"),
    ),
    "no text": ([delta("stop")], Answer({"role": "assistant", "content": ""}, "stop")),
    "no end": ([*text("hel", "lo")], Answer(PLAIN)),
    "cut": ([*text("hello"), delta("length")], Answer(PLAIN, "length")),
    "cut, in other words": ([*text("hello"), delta("MAX_TOKENS")], Answer(PLAIN, "length")),
    "filtered, in other words": ([*text("hello"), delta("SAFETY")], Answer(PLAIN, "content_filter")),
    "a word of its own": ([*text("hello"), delta("eos")], Answer(PLAIN, "eos")),
    "letters of other scripts": (
        [*text("ü€", '"\\\n', "😀"), delta("stop")],
        Answer({"role": "assistant", "content": 'ü€"\\\n😀'}, "stop"),
    ),
    "reasoning": (
        [delta(reasoning_content="h"), delta(reasoning_content="m"), *text("hello"), delta("stop")],
        Answer(PLAIN | {"reasoning_content": "hm"}, "stop"),
    ),
    "reasoning under the other name": (
        [delta(reasoning="hm", content=""), *text("hello"), delta("stop")],
        Answer(PLAIN | {"reasoning_content": "hm"}, "stop"),
    ),
    "a refusal": (
        [delta(refusal="I can"), delta(refusal="not"), delta("stop")],
        Answer({"role": "assistant", "content": "", "refusal": "I cannot"}, "stop"),
    ),
    "a call in pieces": (
        [
            calls(call(0, "c1", "f", "")),
            calls(call(0, arguments='{"a"')),
            calls(call(0, arguments=": 1}")),
            delta("tool_calls"),
        ],
        Answer({"role": "assistant", "content": None, "tool_calls": [tool_call("c1", "f", '{"a": 1}')]}, "tool_calls"),
    ),
    "two calls after text": (
        [
            *text("hello"),
            calls(call(0, "c1", "f", "{}")),
            calls(call(1, "c2", "g", '{"b":')),
            calls(call(1, arguments="2}")),
        ],
        Answer(PLAIN | {"tool_calls": [tool_call("c1", "f", "{}"), tool_call("c2", "g", '{"b":2}')]}),
    ),
    "two whole calls in one delta": (
        [calls(call(0, "c1", "f", "{}"), call(1, "c2", "g", "{}"), finish="tool_calls")],
        Answer(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [tool_call("c1", "f", "{}"), tool_call("c2", "g", "{}")],
            },
            "tool_calls",
        ),
    ),
    "calls without an index": (
        [calls(call(None, "c1", "f", "{}")), calls(call(None, "c2", "g", "{}"))],
        Answer(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [tool_call("c1", "f", "{}"), tool_call("c2", "g", "{}")],
            }
        ),
    ),
    "a call without an id": (
        [calls(call(0, None, "f", '{"a": 1}'))],
        Answer({"role": "assistant", "content": None, "tool_calls": [tool_call("", "f", '{"a": 1}')]}),
    ),
    "arguments as an object": (
        [calls(call(0, "c1", "f", {"a": "ü"}))],
        Answer({"role": "assistant", "content": None, "tool_calls": [tool_call("c1", "f", '{"a": "ü"}')]}),
    ),
    "the older form of calls": (
        [
            delta(function_call={"name": "f", "arguments": ""}),
            delta("function_call", function_call={"arguments": "{}"}),
        ],
        Answer({"role": "assistant", "content": None, "tool_calls": [tool_call("", "f", "{}")]}, "function_call"),
    ),
    "a call of a custom tool": (
        [
            delta(tool_calls=[{"index": 0, "id": "c1", "type": "custom", "custom": {"name": "sh", "input": ""}}]),
            delta(tool_calls=[{"index": 0, "custom": {"input": "l"}}]),
            delta(tool_calls=[{"index": 0, "custom": {"input": "s"}}]),
        ],
        Answer(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}],
            }
        ),
    ),
    "log-probabilities": (
        [
            delta(content="hel", logprobs=logprobs(-0.5)),
            delta(content="lo", logprobs=logprobs(-1.5, 0)),
            delta("stop"),
        ],
        Answer(PLAIN, "stop", (-0.5, -1.5, 0.0)),
    ),
    "usage after the end": (
        [*text("hello"), delta("stop"), {"choices": [], "usage": {"completion_tokens": 3}}],
        Answer(PLAIN, "stop"),
    ),
    "two choices": (
        [
            *text("hel"),
            {"choices": [{"index": 1, "delta": {"content": "other"}, "finish_reason": "length"}]},
            {"choices": [{"index": 1, "delta": {"content": "!"}}, {"index": 0, "delta": {"content": "lo"}}]},
            delta("stop"),
        ],
        Answer(PLAIN, "stop"),
    ),
    "comments, other fields and events that are no JSON": (
        [b": keep-alive\n\n", b"id: 1\nretry: 5\n\n", b"data: {\n\n", b"data: 7\n\n", *text("hello"), b"event: x\n\n"],
        Answer(PLAIN),
    ),
    "an error in mid-stream": ([*text("hello"), {"error": {"message": "out of memory"}}], Answer(PLAIN)),
    "lines that end in CRLF": (
        [b'data: {"choices":[{"delta":{"content":"hello"},"finish_reason":"stop"}]}\r\n\r\n'],
        Answer(PLAIN, "stop"),
    ),
    "a message instead of a delta": (
        [{"choices": [{"message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}]}],
        Answer(PLAIN, "stop"),
    ),
    "a picture": (
        [delta(images=[{"type": "image_url"}])],
        Answer({"role": "assistant", "content": "", "images": [{"type": "image_url"}]}),
    ),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("done", [True, False])
@pytest.mark.parametrize("name", CHAT)
def test_a_stream_of_chat_events(name: str, done: bool, size: int) -> None:
    chunks, answer = CHAT[name]
    collector = fed(Wire.CHAT, in_pieces(body(chunks, done), size))
    assert collector.answer == collector.answer == answer
    assert collector.has_tool_call == ("tool_calls" in answer.message)
    assert not collector.is_full


@pytest.mark.parametrize("name", CHAT)
def test_the_last_event_needs_no_end_mark(name: str) -> None:
    chunks, answer = CHAT[name]
    assert fed(Wire.CHAT, [body(chunks, done=False).rstrip(b"\r\n")]).answer == answer


@pytest.mark.parametrize("name", CHAT)
def test_a_whole_chat_reply(name: str) -> None:
    answer = CHAT[name][1]
    choice = {"index": 0, "message": answer.message, "finish_reason": answer.finish}
    choice["logprobs"] = {"content": logprobs(*answer.logprobs)} if answer.logprobs else None
    other = {"index": 1, "message": {"content": "other", "tool_calls": [tool_call("x", "x", "{}")]}}
    assert WIRES[Wire.CHAT].answer({"choices": [other, choice]}) == answer


OLLAMA: dict[str, tuple[list[dict[str, Any]], Answer]] = {
    "text": ([line(content="hel"), line(content="lo"), line("stop", content="")], Answer(PLAIN, "stop")),
    "no end": ([line(content="hel"), line(content="lo")], Answer(PLAIN)),
    "cut": ([line(content="hello"), line("length", content="")], Answer(PLAIN, "length")),
    "thinking": (
        [line(content="", thinking="h"), line(thinking="m"), line(content="hello"), line("stop", content="")],
        Answer(PLAIN | {"reasoning_content": "hm"}, "stop"),
    ),
    "calls in several lines": (
        [
            line(content="", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}]),
            line(content="", tool_calls=[{"id": "c2", "function": {"index": 0, "name": "f", "arguments": {}}}]),
            line("stop", content=""),
        ],
        Answer(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [tool_call("", "f", '{"a": 1}'), tool_call("c2", "f", "{}")],
            },
            "tool_calls",
        ),
    ),
    "log-probabilities": (
        [
            line(content="hel", entries=logprobs(-0.25)),
            line(content="lo", entries=logprobs(-1)),
            line("stop", content="", entries=logprobs(-2.5)),
        ],
        Answer(PLAIN, "stop", (-0.25, -1.0, -2.5)),
    ),
    "an error in mid-stream": ([line(content="hello"), {"error": "the model runner has stopped"}], Answer(PLAIN)),
}


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("name", OLLAMA)
def test_a_stream_of_lines(name: str, size: int) -> None:
    documents, answer = OLLAMA[name]
    raw = lines(*documents)
    for sent in (raw, raw.rstrip(b"\n")):
        collector = fed(Wire.OLLAMA, in_pieces(sent, size))
        assert collector.answer == collector.answer == answer
        assert collector.has_tool_call == ("tool_calls" in answer.message)


def test_a_whole_reply_of_ollama() -> None:
    calling = line("stop", content="", tool_calls=[{"function": {"name": "f", "arguments": {"a": 1}}}] * 2)
    answer = WIRES[Wire.OLLAMA].answer(calling)
    assert answer.message["tool_calls"] == [tool_call("", "f", '{"a": 1}')] * 2
    assert answer.finish == "tool_calls"
    said = WIRES[Wire.OLLAMA].answer(line("stop", content="hello", thinking="hm", entries=logprobs(-1, -2)))
    assert said == Answer(PLAIN | {"reasoning_content": "hm"}, "stop", (-1.0, -2.0))


# Chat streams that Responses events have a form for; a failed one has no answer.
AS_RESPONSES = [
    name
    for name in CHAT
    if name
    not in (
        "no end",
        "two calls after text",
        "a call without an id",
        "calls without an index",
        "arguments as an object",
        "the older form of calls",
        "a call of a custom tool",
        "an error in mid-stream",
        "a picture",
        "a word of its own",
        "comments, other fields and events that are no JSON",
        "log-probabilities",
        "a message instead of a delta",
        "lines that end in CRLF",
    )
]


def as_responses(chunks: list[dict[str, Any] | bytes]) -> bytes:
    """The Responses events for a chat stream."""
    stream = EventStream(
        request(include=["message.output_text.logprobs"]),
        response_id="resp_1",
        created_at=NOW,
        model="m",
        new_id=ids(),
        clock=lambda: NOW,
    )
    return b"".join(translate([body(chunks)], stream))


@pytest.mark.parametrize("size", [1, 7, 100_000])
@pytest.mark.parametrize("name", AS_RESPONSES)
def test_a_stream_of_responses_events(name: str, size: int) -> None:
    chunks, answer = CHAT[name]
    raw = as_responses(chunks)
    collector = fed(Wire.RESPONSES, in_pieces(raw, size))
    assert collector.answer == answer
    assert collector.has_tool_call == ("tool_calls" in answer.message)
    # Without its last event, the others tell the answer, but not its end.
    cut = fed(Wire.RESPONSES, in_pieces(raw[: raw.rindex(b"event: response.")], size))
    assert cut.answer.message == answer.message
    assert (cut.chars, cut.has_tool_call) == (collector.chars, collector.has_tool_call)


def test_a_whole_response() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "h"}], "content": [{"text": "m"}]},
        {"type": "web_search_call", "id": "ws_1", "status": "completed"},
        {"type": "message", "content": [{"type": "output_text", "text": "hel", "logprobs": logprobs(-1)}]},
        {"type": "message", "content": [{"type": "output_text", "text": "lo", "logprobs": logprobs(-2)}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "f", "arguments": "{}"},
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c2", "name": "sh", "input": "ls"},
    ]
    answer = WIRES[Wire.RESPONSES].answer({"status": "completed", "output": output})
    custom = {"id": "c2", "type": "custom", "custom": {"name": "sh", "input": "ls"}}
    message = PLAIN | {"reasoning_content": "hm", "tool_calls": [tool_call("c1", "f", "{}"), custom]}
    assert answer == Answer(message, "tool_calls", (-1.0, -2.0))
    refusal = {"type": "message", "content": [{"type": "refusal", "refusal": "no"}]}
    said = WIRES[Wire.RESPONSES].answer({"status": "completed", "output": [refusal]})
    assert said == Answer({"role": "assistant", "content": "", "refusal": "no"}, "stop")
    cut = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": output[2:4]}
    assert WIRES[Wire.RESPONSES].answer(cut) == Answer(PLAIN, "length", (-1.0, -2.0))
    assert WIRES[Wire.RESPONSES].answer({"status": "failed"}) == Answer({"role": "assistant", "content": ""})


@pytest.mark.parametrize(
    ("entries", "values"),
    [
        (logprobs(-1, -2.5, 0), [-1.0, -2.5, 0.0]),
        (logprobs(float("-inf"), -1e300, -9999), [-9999.0, -9999.0, -9999.0]),
        (logprobs(0.001), [0.0]),
        (logprobs(-(10**400), 10**400), [-9999.0, 0.0]),
        (logprobs(None, "-1", True, [], {}, float("nan"), -3), [-3.0]),
        ([None, 7, "x", {}, {"logprob": -1}], [-1.0]),
        (None, []),
        ({"logprob": -1}, []),
        ("-1", []),
    ],
)
def test_log_probabilities_of_any_form(entries: object, values: list[float]) -> None:
    assert logprobs_in(entries) == values


ODD: list[Any] = [None, True, 7, 1.5, "x", [], {}, [None], [7], ["x"], [[]], [{}], {"x": 1}, {"content": 7}]


def odd_documents() -> list[dict[str, Any]]:
    deep: Any = 1
    for _ in range(500):
        deep = {"a": deep}
    functions = [{"tool_calls": [{"function": value, "index": value, "id": value, "custom": value}]} for value in ODD]
    arguments = [{"tool_calls": {"function": {"name": "f", "arguments": value}}} for value in (*ODD, deep)]
    members = [{name: value} for name in ("content", "refusal", "reasoning", "tool_calls", "thinking") for value in ODD]
    messages = [*ODD, *functions, *arguments, *members]
    choices = [{"index": 0, "delta": value} for value in messages] + [{"message": value} for value in messages]
    choices += [{"index": value, "finish_reason": value, "logprobs": value} for value in ODD]
    documents: list[dict[str, Any]] = [{"choices": [choice]} for choice in choices]
    documents += [
        {name: value} for name in ("choices", "message", "output", "logprobs", "done_reason") for value in ODD
    ]
    documents += [{"message": value, "done": True} for value in messages]
    kinds = ("output_text.delta", "function_call_arguments.delta", "custom_tool_call_input.delta", "output_item.added")
    kinds += ("completed", "incomplete", "failed")
    names = ("delta", "item", "response", "output_index", "logprobs")
    documents += [{"type": f"response.{kind}", **dict.fromkeys(names, value)} for kind in kinds for value in ODD]
    items = [
        {"type": kind, **dict.fromkeys(("content", "summary", "name", "arguments", "input", "call_id"), value)}
        for kind in ("message", "reasoning", "function_call", "custom_tool_call")
        for value in ODD
    ]
    documents += [{"output": [item]} for item in items]
    documents += [{"type": "response.completed", "response": {"output": [item]}} for item in items]
    return documents


@pytest.mark.parametrize("wire", Wire)
def test_odd_replies_raise_nothing(wire: Wire) -> None:
    form, documents = WIRES[wire], odd_documents()
    for document in documents:
        form.answer(document)
    whole = b"".join(map(sse.event, documents))
    together = fed(wire, [whole, lines(*documents), bytes(range(256)), b"data: " + b"[" * 5000 + b"\n\n", b"\n"])
    assert together.answer.message["role"] == "assistant"


@pytest.mark.parametrize("wire", Wire)
def test_a_stream_without_end_is_held_up_to_a_bound(wire: Wire) -> None:
    piece = body(text("x" * 1000), done=False) if wire is Wire.CHAT else lines(line(content="x" * 1000))
    if wire is Wire.RESPONSES:
        piece = sse.event({"type": "response.output_text.delta", "delta": "x" * 1000})
    if wire is Wire.MESSAGES:
        delta = {"type": "text_delta", "text": "x" * 1000}
        piece = sse.event({"type": "content_block_delta", "index": 0, "delta": delta})
    collector = fed(wire, [piece] * (MOST_BYTES // len(piece)))
    assert not collector.is_full
    read = collector.chars
    assert read > MOST_BYTES * 0.8
    for _ in range(10):
        collector.feed(piece)
    assert collector.is_full
    assert collector.chars == read == len(collector.answer.message["content"])


def test_tokens_are_estimated() -> None:
    assert fed(Wire.CHAT, [body(text(*["a "] * 50))]).tokens == 50  # one for each delta
    assert fed(Wire.CHAT, [body(text("a" * 400))]).tokens == 100  # a server that sends many at once
    assert fed(Wire.CHAT, [body([delta(content="a", logprobs=logprobs(*[-1] * 7))])]).tokens == 7
    assert fed(Wire.OLLAMA, [lines(*[line(thinking="字")] * 9)]).tokens == 9

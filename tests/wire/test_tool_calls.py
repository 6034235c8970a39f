"""Broken tool calls: repaired in one place, for Responses clients and chat clients.  What is sound passes unchanged."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.lib.streaming._deltas import accumulate_delta
from openai.types.chat import ChatCompletion

from app.errors import StreamInterrupted
from app.wire import sse
from app.wire.chat.repair import repaired_document, repaired_stream, tool_names
from tests.wire.responses.test_stream import FRAGMENTS
from tests.wire.streams import answer, body, call, calls, delta, events_of, output, request, response_of, shape, text

NAMES = ("get_weather", "get", "list_files", "f", "g")
TOOLS = [{"type": "function", "name": name} for name in NAMES]
W = ("call", "get_weather", '{"a":1}')
F, G = ("call", "f", '{"a":1}'), ("call", "g", '{"b":2}')

PLACEHOLDERS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "a placeholder, then the arguments": (
        [calls(call(0, "c", "f", "{}")), calls(call(0, None, None, '{"a"')), calls(call(0, None, None, ":1}"))],
        [F],
    ),
    "a placeholder in the second fragment": (
        [calls(call(0, "c", "f", "")), calls(call(0, None, None, "{}")), calls(call(0, None, None, '{"a":1}'))],
        [F],
    ),
    "a placeholder with a space": ([calls(call(0, "c", "f", " { } ")), calls(call(0, None, None, '{"a":1}'))], [F]),
    "a placeholder object": ([calls(call(0, "c", "f", {})), calls(call(0, None, None, '{"a":1}'))], [F]),
    "a placeholder in front of the arguments": ([calls(call(0, "c", "f", '{}{"a":1}'))], [F]),
    "a placeholder in front of a piece": (
        [calls(call(0, "c", "f", '{} {"a"')), calls(call(0, None, None, ":1}"))],
        [F],
    ),
    "two placeholders": (
        [calls(call(0, "c", "f", "{}")), calls(call(0, None, None, "{}")), calls(call(0, None, None, '{"a":1}'))],
        [F],
    ),
    "a placeholder, id and name repeated": (
        [calls(call(0, "c", "f", "{}")), calls(call(0, "c", "f", '{"a"')), calls(call(0, "c", "f", ":1}"))],
        [F],
    ),
    "a placeholder, empty deltas between": (
        [calls(call(0, "c", "f", "{}")), delta(role="assistant", content=""), calls(call(0, None, None, '{"a":1}'))],
        [F],
    ),
    "placeholders of two calls": (
        [
            calls(call(0, "c", "f", "{}"), call(1, "d", "g", "{}")),
            calls(call(0, None, None, '{"a":1}')),
            calls(call(1, None, None, '{"b":2}')),
        ],
        [F, G],
    ),
    "a placeholder behind a whole call": (
        [calls(call(0, "c", "f", '{"a":1}')), calls(call(1, "d", "g", "{}")), calls(call(1, None, None, '{"b":2}'))],
        [F, G],
    ),
}
NAMES_IN_PIECES: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "two pieces": (
        [calls(call(0, "c", "get_")), calls(call(0, None, "weather")), calls(call(0, None, None, '{"a":1}'))],
        [W],
    ),
    "pieces with the id": ([calls(call(0, "c", "get_", "")), calls(call(0, "c", "weather", '{"a":1}'))], [W]),
    "letter by letter": (
        [
            *(calls(call(0, "c" if at == 0 else None, letter, "")) for at, letter in enumerate("get_weather")),
            calls(call(0, None, None, '{"a":1}')),
        ],
        [W],
    ),
    "a piece that is another tool's name": (
        [calls(call(0, "c", "get")), calls(call(0, None, "_weather")), calls(call(0, None, None, '{"a":1}'))],
        [W],
    ),
    "the name so far, written anew": (
        [calls(call(0, "c", "get_")), calls(call(0, "c", "get_weather")), calls(call(0, None, None, '{"a":1}'))],
        [W],
    ),
    "pieces without any id": (
        [calls(call(0, None, "get_", "")), calls(call(0, None, "weather", "")), calls(call(0, None, None, '{"a":1}'))],
        [W],
    ),
    "pieces without index": (
        [calls(call(None, "c", "get_")), calls(call(None, "c", "weather")), calls(call(None, "c", None, '{"a":1}'))],
        [W],
    ),
    "pieces of a tool that was not offered": (
        [calls(call(0, "c", "un")), calls(call(0, None, "known", '{"a":1}'))],
        [("call", "unknown", '{"a":1}')],
    ),
    "pieces of two calls": (
        [
            calls(call(0, "c", "get_")),
            calls(call(0, None, "weather", '{"a":1}')),
            calls(call(1, "d", "get_")),
            calls(call(1, None, "weather", '{"a":1}')),
        ],
        [W, W],
    ),
    "pieces and a placeholder": (
        [
            calls(call(0, "c", "get_", "")),
            calls(call(0, None, "weather", "{}")),
            calls(call(0, None, None, '{"a":1}')),
        ],
        [W],
    ),
}
OTHERS: dict[str, tuple[list[dict[str, Any]], list[Any]]] = {
    "an object instead of a list": ([delta(tool_calls=call(0, "c", "f", '{"a":1}'))], [F]),
    "junk in the list": ([delta(tool_calls=[None, "x", call(0, "c", "f", '{"a":1}')])], [F]),
    "a number for an id": ([calls(call(0, 7, "f", '{"a":1}'))], [F]),  # type: ignore[arg-type]
    "index counted from 1": (
        [
            calls(call(1, "c", "f", "")),
            calls(call(1, None, None, '{"a":1}')),
            calls(call(2, "d", "g", "")),
            calls(call(2, None, None, '{"b":2}')),
        ],
        [F, G],
    ),
    "object arguments": ([calls(call(0, "c", "f", {"a": 1}))], [("call", "f", '{"a": 1}')]),
    "everything in the chunk that ends it": (
        [calls(call(None, None, "f", {"a": 1}), finish="stop")],
        [("call", "f", '{"a": 1}')],
    ),
    "text, then calls": ([*text("a"), calls(call(None, "c", "f", '{"a":1}'))], [("text", "a"), F]),
}
LATER_ROWS = {
    "call without name", "function that is no object", "a fragment that says nothing", "an id and nothing more",
    "form before tools", "fragments that are no objects",
}  # fmt: skip
BROKEN = {
    **PLACEHOLDERS,
    **NAMES_IN_PIECES,
    **OTHERS,
    **{name: (chunks, expected) for name, chunks, expected in FRAGMENTS if name not in LATER_ROWS},
}
DECLARED = dict.fromkeys((*PLACEHOLDERS, *NAMES_IN_PIECES, *OTHERS), NAMES)


def new_ids() -> Iterator[str]:
    return (f"new_{number}" for number in itertools.count(1))


def repaired(pieces: Iterable[bytes], names: Iterable[str] = ()) -> bytes:
    ids = new_ids()
    return b"".join(repaired_stream(iter(pieces), frozenset(names), lambda: next(ids)))


def documents(raw: bytes) -> list[dict[str, Any]]:
    return [document for event in sse.Splitter().feed(raw) if (document := sse.json_of(sse.data_of(event) or b""))]


def as_the_sdk_reads_it(raw: bytes) -> list[Any]:
    """What the SDK's own accumulator makes of a stream, in the words of `shape`; ids are checked."""
    message: dict[Any, Any] = {}
    for document in documents(raw):
        for choice in document.get("choices") or ():
            message = accumulate_delta(message, choice["delta"])
    made = message.get("tool_calls") or []
    ids = [each["id"] for each in made]
    assert all(isinstance(name, str) and name for name in ids) and len(set(ids)) == len(ids)
    said = [("text", message["content"])] if message.get("content") else []
    return said + [("call", each["function"]["name"], each["function"].get("arguments") or "{}") for each in made]


@pytest.mark.parametrize("declared", [True, False], ids=["offered", "not offered"])
@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize("name", BROKEN)
def test_chat_clients_can_put_the_calls_together(name: str, finish: str, declared: bool) -> None:
    chunks, expected = BROKEN[name]
    if not declared and name in ("pieces without any id", "a piece that is another tool's name"):
        return  # without the tools' names they may be two calls
    raw = body([*chunks, delta(finish)])
    names = DECLARED.get(name, ()) if declared else ()
    assert as_the_sdk_reads_it(repaired([raw], names)) == expected
    apart = [event + b"\n\n" for event in raw.split(b"\n\n") if event]
    assert repaired(apart, names) == repaired([raw], names)


@pytest.mark.parametrize("name", [*PLACEHOLDERS, *NAMES_IN_PIECES, *OTHERS])
def test_responses_clients_get_the_same(name: str) -> None:
    chunks, expected = BROKEN[name]
    assert shape(output(events_of([*chunks, delta("tool_calls")], request(tools=TOOLS)))) == expected


def test_pieces_of_names_come_together_without_the_tools_names() -> None:
    for name in ("two pieces", "pieces with the id", "letter by letter", "pieces and a placeholder"):
        chunks, expected = NAMES_IN_PIECES[name]
        assert shape(output(events_of([*chunks, delta("tool_calls")]))) == expected


SOUND: dict[str, bytes] = {
    "text": body([*text("a", "b"), delta("stop")]),
    "openai": body(
        [
            delta(role="assistant", content=None, tool_calls=[call(0, "c", "f", "")]),
            calls({"index": 0, "function": {"arguments": '{"a"'}}),
            calls({"index": 0, "function": {"arguments": ":1}"}}),
            calls(call(1, "d", "g", "")),
            calls({"index": 1, "function": {"arguments": '{"b":2}'}}),
            delta("tool_calls"),
        ]
    ),
    "whole calls, as Ollama sends them": body(
        [
            delta(content="", role="assistant", tool_calls=[call(0, "c", "f", "{}"), call(1, "d", "g", '{"b":2}')]),
            delta("tool_calls", content=""),
        ]
    ),
    "a call without arguments": body([calls(call(0, "c", "f", "{}")), delta("tool_calls")]),
    "a call without arguments, then text": body([calls(call(0, "c", "f", "{}")), *text("a"), delta("stop")]),
    "a call without arguments, then another": body(
        [
            calls(call(0, "c", "f", "{}")),
            calls(call(1, "d", "g", "")),
            calls(call(1, None, None, '{"b"')),
            delta("stop"),
        ]
    ),
    "a call without arguments, in the chunk that ends": body([calls(call(0, "c", "f", "{}"), finish="tool_calls")]),
    "a call that was cut": body([calls(call(0, "c", "f", "{}"))], done=False),
    "interleaved": body(
        [
            calls(call(0, "c", "f", '{"a"'), call(1, "d", "g", '{"b"')),
            calls(call(1, None, None, ":2}")),
            calls(call(0, None, None, ":1}")),
            delta("tool_calls"),
        ]
    ),
    "nulls and empties": body(
        [
            delta(content=None, tool_calls=None),
            delta(tool_calls=[]),
            calls({"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": None}}),
            calls({"index": 0, "id": "", "function": {"name": None, "arguments": '{"a":1}'}}),
            delta("tool_calls"),
        ]
    ),
    "two choices": body(
        [
            {"choices": [{"index": at, "delta": {"tool_calls": [call(0, "c", "f", "{}")]}} for at in (0, 1)]},
            {"choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]},
            {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
        ]
    ),
    "other framing": b': hi\r\n\r\nid: 3\r\nevent: x\r\ndata:{ "choices" : [ {"delta" : {"tool_calls":[ {"index":0 ,'
    b'"id":"c","function":{"name":"f","arguments":"{\\u007d"},"x":1e400}]}}]}\r\n\r\n' + sse.DONE,
    "no calls": b'data: {"tool_calls": 3}\n\ndata: {"choices":[{"delta":{"tool_calls":"x"}}]}\n\n: "tool_calls":[{\n\n'
    b"data: x\n\n",
    "text about calls": body([*text('"tool_calls":[{"index":7}]'), delta("stop")]),
    "half an event": body(text("a"), done=False) + b'data: {"choices":[{"delta":{"tool_calls":[{"ind',
    "a call that was cut before its arguments": body([calls(call(0, None, "f"))]),
    "a name that nobody offered": body(
        [calls(call(0, "c", "unknown", "")), calls(call(0, None, None, '{"a":1}')), delta("stop")]
    ),
}


@pytest.mark.parametrize("names", [(), NAMES], ids=["no tools", "tools"])
@pytest.mark.parametrize("name", SOUND)
def test_what_is_sound_passes_byte_for_byte(name: str, names: tuple[str, ...]) -> None:
    raw = SOUND[name]
    assert repaired([raw], names) == raw
    assert repaired([raw[at : at + 1] for at in range(len(raw))], names) == raw


@given(st.sampled_from(sorted(BROKEN)), st.lists(st.integers(0, 2000), max_size=12))
def test_cuts_do_not_matter(name: str, marks: list[int]) -> None:
    chunks, _ = BROKEN[name]
    raw = body([*chunks, delta("tool_calls")])
    marks = sorted(min(mark, len(raw)) for mark in marks)
    pieces = [raw[begin:end] for begin, end in zip([0, *marks], [*marks, len(raw)], strict=True)]
    assert repaired(pieces, NAMES) == repaired([raw], NAMES)


def test_only_broken_events_change() -> None:
    first, second = delta(content="a", x={"big": 10**30}), delta(content="b")
    broken = calls(call(None, "c", "f", '{"a":1}')) | {"x_new": [1]}
    raw = body([first, broken, second, delta("stop")])
    sent = repaired([raw])
    assert sent.startswith(sse.event(first)) and sent.endswith(sse.event(second) + sse.event(delta("stop")) + sse.DONE)
    [made] = [document for document in documents(sent) if "x_new" in document]
    assert made == broken | {"choices": calls(call(0, "c", "f", '{"a":1}'))["choices"]}


def test_text_is_never_held() -> None:
    seen: list[bytes] = []
    pieces = [sse.event(chunk) for chunk in (*text("a", "b"), calls(call(0, "c", "f", "{}")), *text("c"))]
    source = iter(pieces)
    for sent in repaired_stream(source, frozenset(NAMES), lambda: "new"):
        seen.append(sent)
        if len(seen) <= 2:
            assert sent == pieces[len(seen) - 1]
    assert b"".join(seen) == b"".join(pieces)


def test_comments_pass_while_a_call_is_held() -> None:
    held = sse.event(calls(call(0, "c", "f", "{}")))
    pieces = repaired_stream(iter([held, b": wait\n\n", sse.event(delta("stop"))]), frozenset(), lambda: "new")
    assert list(pieces) == [b": wait\n\n", held + sse.event(delta("stop"))]


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize(
    ("rest", "passed"),
    [
        (b"", b""),
        (b"d", b""),
        (b'data: {"cho', b""),
        (b'data: {"choices":[]', b""),
        (b"event: error\ndata: {", b""),
        (b"data: [DO", b""),
        (b'data: {"choices":[]}', b'data: {"choices":[]}'),
        (b'data: {"choices":[]}\r\n', b'data: {"choices":[]}\r\n'),
    ],
)
def test_all_whole_events_are_passed_on_when_a_stream_breaks(rest: bytes, passed: bytes, told: bool) -> None:
    def source() -> Iterator[bytes]:
        yield sse.event(calls(call(0, "c", "f", "{}"))) + rest
        raise StreamInterrupted("reset", error_visible=told)

    sent = []
    with pytest.raises(StreamInterrupted):
        for piece in repaired_stream(source(), frozenset(), lambda: "new"):
            sent.append(piece)
    assert b"".join(sent) == sse.event(calls(call(0, "c", "f", "{}"))) + passed


def test_an_event_that_is_too_long_to_be_held_passes() -> None:
    long = b'data: {"choices":[{"delta":{"content":"' + b"x" * 5_000_000 + b'"}}]}\n\n'
    raw = long + SOUND["openai"]
    pieces = [raw[at : at + 65536] for at in range(0, len(raw), 65536)]
    assert repaired(pieces) == raw


# --- whole answers --------------------------------------------------------------------------------


def whole(*made: Any) -> dict[str, Any]:
    return answer("tool_calls", content=None, tool_calls=list(made))


def call_of(call_id: Any = "c", name: str = "f", arguments: Any = '{"a":1}', **more: Any) -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}, **more}


WHOLE: dict[str, tuple[list[Any], list[Any]]] = {
    "object arguments": ([call_of(arguments={"a": 1})], [("call", "f", '{"a": 1}')]),
    "empty object": ([call_of(arguments={})], [("call", "f", "{}")]),
    "no id": ([call_of(None), call_of("", "g", '{"b":2}')], [F, G]),
    "an id twice": ([call_of(), call_of("c", "g", '{"b":2}')], [F, G]),
    "a number for an id": ([call_of(7)], [F]),
    "a placeholder in front": ([call_of(arguments='{}{"a":1}')], [F]),
    "junk in the list": ([None, "x", call_of()], [F]),
}


@pytest.mark.parametrize("name", WHOLE)
def test_whole_answers_are_repaired(name: str) -> None:
    made, expected = WHOLE[name]
    document = whole(*made) | {"x_new": 10**30}
    before = json.dumps(document)
    ids = new_ids()
    fixed = repaired_document(document, lambda: next(ids))
    assert fixed is not None and json.dumps(document) == before
    message = ChatCompletion.model_validate({"created": 1, "model": "m", "usage": None, **fixed}).choices[0].message
    found = message.tool_calls or []
    assert [("call", each.function.name, each.function.arguments) for each in found] == expected  # type: ignore[union-attr]
    assert all(each.id for each in found) and len({each.id for each in found}) == len(found)
    assert {**fixed, "choices": None} == {**document, "choices": None}
    assert shape(response_of(document)["output"]) == expected


@pytest.mark.parametrize(
    "document",
    [
        answer(content="hi"),
        whole(call_of()),
        whole(call_of(), call_of("d", "f", "")),
        whole(call_of(index=7, x_new=1)),
        whole({"id": "c", "type": "custom", "custom": {"name": "p", "input": "x"}}),
        whole({"id": "c", "function": {"name": "f"}}),
        answer(content="hi", tool_calls=None),
        answer(content="hi", tool_calls=[]),
        {"choices": None},
        {"choices": [None, {"message": 3}, {"message": {"tool_calls": 0}}]},
        {},
    ],
    ids=str,
)
def test_sound_answers_are_left_alone(document: dict[str, Any]) -> None:
    assert repaired_document(document, lambda: "new") is None


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, set()),
        ({"tools": None}, set()),
        ({"tools": [None, {}, {"function": None}, {"function": {"name": ""}}, {"function": {"name": "f"}}]}, {"f"}),
    ],
)
def test_names_of_tools(body: dict[str, Any], names: set[str]) -> None:
    assert tool_names(body) == names

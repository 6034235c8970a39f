"""The event stream: wire page section 7, and the stream's errors of section 8.

Every stream here goes through the grammar checker and the SDK's event types (`events_of`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import StreamInterrupted
from app.wire import sse
from app.wire.reasoning import unseal_reasoning
from app.wire.responses.stream import translate
from tests.wire.grammar import Event, check, valid
from tests.wire.streams import (
    NOW,
    answer,
    body,
    call,
    calls,
    delta,
    events_of,
    final,
    kinds,
    output,
    request,
    response_of,
    sdk_valid,
    shape,
    stream,
    text,
)

STOP = delta("stop")
CUSTOM = request(tools=[{"type": "custom", "name": "p"}, {"type": "function", "name": "f"}])


def pick(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event["type"] == f"response.{kind}"]


def deltas(events: list[Event]) -> list[str]:
    return [event["delta"] for event in events if event["type"].endswith(".delta")]


# --- framing and order -----------------------------------------------------------------------------


def test_bytes_of_an_event() -> None:
    raw = b"".join(translate([body(text("Hi"))], stream()))
    lines = raw.decode().split("\n\n")[0].split("\n")
    assert lines[0] == "event: response.created"
    assert lines[1].startswith('data: {"type":"response.created","sequence_number":0,')
    assert raw.endswith(b"}\n\ndata: [DONE]\n\n")


def test_message() -> None:
    events = events_of([*text("Hel", "lo"), STOP])
    assert kinds(events) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    assert [event["sequence_number"] for event in events] == list(range(10))
    assert events[2]["item"] == {
        "id": "msg_1",
        "type": "message",
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    assert events[4] == {
        "type": "response.output_text.delta",
        "sequence_number": 4,
        **where,
        "delta": "Hel",
        "logprobs": [],
    }
    assert events[6] == {
        "type": "response.output_text.done",
        "sequence_number": 6,
        **where,
        "text": "Hello",
        "logprobs": [],
    }
    assert events[8]["item"] == output(events)[0]
    assert (final(events)["created_at"], final(events)["completed_at"]) == (NOW, NOW + 2)


def test_created_comes_before_the_first_byte_of_the_backend() -> None:
    opened = stream()
    sent = translate(iter(()), opened)
    first = next(sent)
    assert first.count(b"event: response.created") == 1
    assert first.count(b"event: response.in_progress") == 1


def test_begin_sends_once() -> None:
    opened = stream()
    assert len(opened.begin()) == 2
    assert opened.begin() == []


def test_feed_without_begin_begins() -> None:
    opened = stream()
    valid(b"".join([*opened.feed(text("a")[0]), *opened.feed(STOP), *opened.finish()]))


def test_streamed_and_whole_answers_are_the_same() -> None:
    said: dict[str, Any] = {"reasoning": "r", "content": "a", "tool_calls": [call(0, "c", "f", "{}")]}
    streamed = final(events_of([delta("stop", **said)]))
    assert streamed | {"output_text": "a"} == response_of(answer(**said))


def test_refusal() -> None:
    events = events_of([delta(refusal="I "), delta(refusal="can't."), STOP])
    assert kinds(events)[2:-1] == [
        "output_item.added",
        "content_part.added",
        "refusal.delta",
        "refusal.delta",
        "refusal.done",
        "content_part.done",
        "output_item.done",
    ]
    assert pick(events, "content_part.added")[0]["part"] == {"type": "refusal", "refusal": ""}
    assert pick(events, "refusal.done")[0]["refusal"] == "I can't."
    assert output(events)[0]["content"] == [{"type": "refusal", "refusal": "I can't."}]


def test_refusal_after_text_is_a_second_part() -> None:
    events = events_of([*text("Well, "), delta(refusal="no."), STOP])
    assert [event["content_index"] for event in pick(events, "content_part.added")] == [0, 1]
    assert shape(output(events)) == [("text", "Well, "), ("refusal", "no.")]
    assert len(output(events)) == 1


def test_function_call() -> None:
    events = events_of(
        [
            calls(call(0, "call_9", "w", "")),
            calls(call(0, None, None, '{"q"')),
            calls(call(0, None, None, ":1}")),
            delta("tool_calls"),
        ]
    )
    assert kinds(events)[2:-1] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]
    item = {"type": "function_call", "id": "fc_1", "call_id": "call_9", "name": "w"}
    assert events[2]["item"] == item | {"arguments": "", "status": "in_progress"}
    assert events[5] == {
        "type": "response.function_call_arguments.done",
        "sequence_number": 5,
        "item_id": "fc_1",
        "output_index": 0,
        "name": "w",
        "arguments": '{"q":1}',
    }
    assert events[6]["item"] == item | {"arguments": '{"q":1}', "status": "completed"}


def test_custom_call() -> None:
    events = events_of(
        [
            calls(call(0, "call_p", "p", "")),
            *(
                calls(call(0, None, None, piece))
                for piece in ('{"inp', 'ut": "a', "\\", "n\\ud83d", "\\ude00b", '"', "}")
            ),
            delta("tool_calls"),
        ],
        CUSTOM,
    )
    assert kinds(events)[2:-1] == [
        "output_item.added",
        *["custom_tool_call_input.delta"] * 3,
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    assert deltas(events) == ["a", "\n", "\U0001f600b"]
    assert events[2]["item"]["input"] == ""
    assert pick(events, "custom_tool_call_input.done")[0]["input"] == "a\n\U0001f600b"
    assert output(events)[0]["call_id"] == "call_p"


@pytest.mark.parametrize("arguments", ['{"other": "x"}', "x", '{"input"  : "x"}'])
def test_custom_call_in_an_unexpected_wrapper(arguments: str) -> None:
    events = events_of([calls(call(0, "c", "p", piece)) for piece in (arguments,)], CUSTOM)
    assert shape(output(events)) == [("custom", "p", "x")]


def test_namespace_comes_back() -> None:
    inner = {"type": "function", "name": "inner"}
    asked = request(tools=[{"type": "namespace", "name": "ns", "description": "d", "tools": [inner]}])
    events = events_of([calls(call(0, "c", "ns__inner", "{}")), STOP], asked)
    for item in (pick(events, "output_item.added")[0]["item"], output(events)[0]):
        assert (item["name"], item["namespace"]) == ("inner", "ns")
    assert pick(events, "function_call_arguments.done")[0]["name"] == "inner"


def test_reasoning() -> None:
    events = events_of([delta(reasoning_content="Let "), delta(reasoning_content="me."), *text("Hi"), STOP])
    assert kinds(events)[2:10] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
        "output_item.done",
        "output_item.added",
    ]
    assert events[2]["item"] == {"id": "rs_1", "type": "reasoning", "summary": []}
    assert {event["summary_index"] for event in events if "summary_index" in event} == {0}
    assert "encrypted_content" not in events[8]["item"]
    assert shape(output(events)) == [("reasoning", "Let me."), ("text", "Hi")]


def test_encrypted_reasoning_is_in_the_done_item() -> None:
    asked = request(include=["reasoning.encrypted_content"])
    events = events_of([delta(reasoning="Let "), delta(reasoning="me."), *text("Hi"), STOP], asked)
    assert "encrypted_content" not in pick(events, "output_item.added")[0]["item"]
    assert unseal_reasoning(pick(events, "output_item.done")[0]["item"]["encrypted_content"]) == "Let me."


def test_logprobs() -> None:
    tokens = [{"token": piece, "logprob": -0.5, "bytes": [1], "top_logprobs": []} for piece in "ab"]
    chunks = [delta(content=token["token"], logprobs=[token]) for token in tokens]
    asked = request(include=["message.output_text.logprobs"])
    events = events_of([*chunks, STOP], asked)
    assert [event["logprobs"] for event in pick(events, "output_text.delta")] == [[token] for token in tokens]
    assert pick(events, "output_text.done")[0]["logprobs"] == tokens
    assert output(events)[0]["content"][0]["logprobs"] == tokens
    assert output(events_of([*chunks, STOP]))[0]["content"][0]["logprobs"] == []


def test_logprobs_belong_to_their_part() -> None:
    tokens = [{"token": piece, "logprob": -0.5, "bytes": [1], "top_logprobs": []} for piece in "ab"]
    first, second = (delta(content=token["token"], logprobs=[token]) for token in tokens)
    asked = request(include=["message.output_text.logprobs"])
    [item] = output(events_of([first, delta(refusal="no"), second, STOP], asked))
    assert [part.get("logprobs") for part in item["content"]] == [tokens[:1], None, tokens[1:]]


# --- rules that clients rely on -----------------------------------------------------------------------


EMPTY: list[tuple[str, list[dict[str, Any]], list[Any]]] = [
    ("opening role", [delta(role="assistant", content=""), *text("Hi"), STOP], [("text", "Hi")]),
    (
        "role in every delta",
        [delta(role="assistant", content="H"), delta(role="assistant", content="i")],
        [("text", "Hi")],
    ),
    (
        "empty text beside reasoning",
        [delta(content="", reasoning="r"), *text("Hi")],
        [("reasoning", "r"), ("text", "Hi")],
    ),
    ("empty text beside calls", [delta(content="", tool_calls=[call(0, "c", "f", "{}")])], [("call", "f", "{}")]),
    (
        "null members",
        [delta(content=None, reasoning=None, refusal=None, tool_calls=None, role=None), *text("Hi")],
        [("text", "Hi")],
    ),
    ("empty refusal", [delta(refusal="", content="Hi")], [("text", "Hi")]),
    ("empty reasoning", [delta(reasoning_content="", content="Hi")], [("text", "Hi")]),
    (
        "empty fragment",
        [calls(call(0, "c", "f", "")), calls(call(0, None, None, "")), calls({})],
        [("call", "f", "{}")],
    ),
    ("nothing but empties", [delta(role="assistant", content=""), delta("stop", content="")], []),
    ("nothing at all", [], []),
    ("null delta", [{"choices": [{"index": 0, "delta": None, "finish_reason": None}]}, *text("Hi")], [("text", "Hi")]),
    ("no delta", [{"choices": [{"index": 0, "finish_reason": None}]}, *text("Hi")], [("text", "Hi")]),
    ("empty choices", [{"choices": [], "prompt_filter_results": []}, *text("Hi")], [("text", "Hi")]),
    ("null choices", [{"choices": None}, *text("Hi")], [("text", "Hi")]),
    ("no choices", [{"id": "x"}, *text("Hi")], [("text", "Hi")]),
    ("another choice", [{"choices": [{"index": 1, "delta": {"content": "no"}}]}, *text("Hi")], [("text", "Hi")]),
    ("choice without index", [{"choices": [{"delta": {"content": "Hi"}}]}], [("text", "Hi")]),
    ("text and finish in one chunk", [delta("stop", content="Hi")], [("text", "Hi")]),
]


@pytest.mark.parametrize(("chunks", "expected"), [row[1:] for row in EMPTY], ids=[row[0] for row in EMPTY])
def test_empty_and_missing_members(chunks: list[dict[str, Any]], expected: list[Any]) -> None:
    events = events_of(chunks)
    assert shape(output(events)) == expected
    assert kinds(events)[-1] == "completed"


def test_one_token_one_delta_at_once() -> None:
    opened = stream()
    opened.begin()
    for at, piece in enumerate(["a", " b", "\n", "c"]):
        sent = opened.feed(delta(content=piece))
        assert len(sent) == (3 if at == 0 else 1)
        assert json.dumps(piece)[1:-1].encode() in sent[-1]


def test_one_delta_with_reasoning_text_and_calls() -> None:
    events = events_of([delta(tool_calls=[call(0, "c", "f", "{}")], content="a", reasoning="r"), STOP])
    assert shape(output(events)) == [("reasoning", "r"), ("text", "a"), ("call", "f", "{}")]


ORDERS: list[tuple[str, list[dict[str, Any]], list[Any]]] = [
    (
        "text after a call",
        [*text("a"), calls(call(0, "c", "f", "{}")), *text("b"), STOP],
        [("text", "a"), ("call", "f", "{}"), ("text", "b")],
    ),
    (
        "reasoning again",
        [delta(reasoning="1"), *text("a"), delta(reasoning="2"), *text("b"), STOP],
        [("reasoning", "1"), ("text", "a"), ("reasoning", "2"), ("text", "b")],
    ),
    (
        "reasoning between calls",
        [calls(call(0, "c", "f", "{}")), delta(reasoning="r"), calls(call(1, "d", "g", "{}")), STOP],
        [("call", "f", "{}"), ("reasoning", "r"), ("call", "g", "{}")],
    ),
    (
        "text amid the fragments of a call",
        [calls(call(0, "c", "f", '{"q":')), *text("a"), calls(call(0, None, None, "1}")), *text("b"), STOP],
        [("call", "f", '{"q":1}'), ("text", "ab")],
    ),
    (
        "blank fragment behind a closed call",
        [calls(call(0, "c", "f", "{}")), *text("a"), calls(call(0, None, None, " ")), STOP],
        [("call", "f", "{}"), ("text", "a")],
    ),
]


@pytest.mark.parametrize(("chunks", "expected"), [row[1:] for row in ORDERS], ids=[row[0] for row in ORDERS])
def test_items_are_closed_before_others(chunks: list[dict[str, Any]], expected: list[Any]) -> None:
    assert shape(output(events_of(chunks))) == expected


def test_a_whole_call_is_closed_as_soon_as_another_item_begins() -> None:
    events = events_of([calls(call(0, "c", "f", "{}")), calls(call(1, "d", "g", "{}")), STOP])
    assert kinds(events)[2:6] == [
        "output_item.added",
        "function_call_arguments.delta",
        "function_call_arguments.done",
        "output_item.done",
    ]


def test_a_call_that_goes_on_after_it_had_to_be_closed_is_a_failure() -> None:
    chunks = [
        calls(call(0, "c", "f", '{"q":')),
        *text("a"),
        calls(call(1, "d", "g", "{}")),
        calls(call(0, None, None, "1}")),
    ]
    events = events_of([*chunks, STOP])
    assert kinds(events)[-1] == "failed"


# --- fragments of calls -------------------------------------------------------------------------------

F1, G2 = ("call", "f", '{"a":1}'), ("call", "g", '{"b":2}')

FRAGMENTS: list[tuple[str, list[dict[str, Any]], list[Any]]] = [
    ("whole in one delta", [calls(call(0, "c", "f", '{"a":1}'), call(1, "d", "g", '{"b":2}'))], [F1, G2]),
    (
        "one after the other",
        [
            calls(call(0, "c", "f", "")),
            calls(call(0, None, None, '{"a":1}')),
            calls(call(1, "d", "g", "")),
            calls(call(1, None, None, '{"b":2}')),
        ],
        [F1, G2],
    ),
    (
        "interleaved",
        [
            calls(call(0, "c", "f", '{"a"'), call(1, "d", "g", '{"b"')),
            calls(call(1, None, None, ":2}")),
            calls(call(0, None, None, ":1}")),
        ],
        [F1, G2],
    ),
    (
        "indexes that do not start at 0, backwards",
        [
            calls(call(7, "c", "f", '{"a"')),
            calls(call(3, "d", "g", '{"b"')),
            calls(call(7, None, None, ":1}")),
            calls(call(3, None, None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "no index, ids",
        [
            calls(call(None, "c", "f", '{"a"')),
            calls(call(None, "c", None, ":1}")),
            calls(call(None, "d", "g", '{"b"')),
            calls(call(None, "d", None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "no index, ids, interleaved",
        [
            calls(call(None, "c", "f", '{"a"')),
            calls(call(None, "d", "g", '{"b"')),
            calls(call(None, "c", None, ":1}")),
            calls(call(None, "d", None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "no index, ids and names repeated, interleaved",
        [
            calls(call(None, "c", "f", '{"a"')),
            calls(call(None, "d", "g", '{"b"')),
            calls(call(None, "c", "f", ":1}")),
            calls(call(None, "d", "g", ":2}")),
        ],
        [F1, G2],
    ),
    (
        "no index, no ids",
        [
            calls(call(None, None, "f", '{"a"')),
            calls(call(None, None, None, ":1}")),
            calls(call(None, None, "g", '{"b"')),
            calls(call(None, None, None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "no index, no ids, one function twice",
        [calls(call(None, None, "f", '{"a":1}')), calls(call(None, None, "f", '{"a":1}'))],
        [F1, F1],
    ),
    (
        "index, no ids",
        [
            calls(call(0, None, "f", '{"a"')),
            calls(call(0, None, None, ":1}")),
            calls(call(1, None, "g", '{"b"')),
            calls(call(1, None, None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "all with index 0, different ids, whole",
        [calls(call(0, "c", "f", '{"a":1}')), calls(call(0, "d", "g", '{"b":2}'))],
        [F1, G2],
    ),
    (
        "all with index 0, different ids, one function",
        [calls(call(0, "c", "f", '{"a":1}'), call(0, "d", "f", '{"a":1}'))],
        [F1, F1],
    ),
    (
        "all with index 0, different ids, in fragments",
        [
            calls(call(0, "c", "f", '{"a"')),
            calls(call(0, None, None, ":1}")),
            calls(call(0, "d", "g", '{"b"')),
            calls(call(0, None, None, ":2}")),
        ],
        [F1, G2],
    ),
    (
        "all with index 0, no ids, new names",
        [calls(call(0, None, "f", '{"a":1}')), calls(call(0, None, "g", '{"b":2}'))],
        [F1, G2],
    ),
    (
        "all with index 0, no ids, one function",
        [calls(call(0, None, "f", '{"a":1}')), calls(call(0, None, "f", '{"a":1}'))],
        [F1, F1],
    ),
    (
        "all with index 0 and one id, new names",
        [calls(call(0, "c", "f", '{"a":1}')), calls(call(0, "c", "g", '{"b":2}'))],
        [F1, G2],
    ),
    (
        "id repeated in every fragment",
        [calls(call(0, "c", "f", '{"a"')), calls(call(0, "c", None, ":")), calls(call(0, "c", None, "1}"))],
        [F1],
    ),
    (
        "id and name repeated in every fragment",
        [calls(call(0, "c", "f", '{"a"')), calls(call(0, "c", "f", ":")), calls(call(0, "c", "f", "1}"))],
        [F1],
    ),
    (
        "name repeated in every fragment, no ids",
        [calls(call(0, None, "f", '{"a"')), calls(call(0, None, "f", ":1}")), calls(call(0, None, "f", ""))],
        [F1],
    ),
    (
        "empty id and name in later fragments",
        [calls(call(0, "c", "f", '{"a"')), calls(call(0, "", "", ":1}"))],
        [F1],
    ),
    (
        "a new id in every fragment",
        [calls(call(0, "c", "f", '{"a"')), calls(call(0, "x", None, ":1")), calls(call(0, "y", None, "}"))],
        [F1],
    ),
    (
        "id of one call repeated under growing indexes",
        [calls(call(0, "c", "f", '{"a"')), calls(call(1, "c", None, ":1}"))],
        [F1],
    ),
    (
        "growing indexes, neither id nor name",
        [calls(call(0, "c", "f", '{"a"')), calls(call(1, None, None, ":1")), calls(call(2, None, None, "}"))],
        [F1],
    ),
    (
        "one id for two calls at two indexes",
        [calls(call(0, "c", "f", '{"a":1}'), call(1, "c", "f", '{"a":1}'))],
        [F1, F1],
    ),
    (
        "calls without arguments",
        [calls(call(0, None, "f"), call(0, None, "g")), calls(call(0, None, "h", ""))],
        [("call", "f", "{}"), ("call", "g", "{}"), ("call", "h", "{}")],
    ),
    (
        "name behind the id",
        [
            calls(call(0, "c")),
            calls(call(0, None, "f", '{"a":1}')),
            calls(call(1, "d")),
            calls(call(1, None, "g", '{"b":2}')),
        ],
        [F1, G2],
    ),
    (
        "arguments before the name",
        [calls(call(0, "c", None, '{"a"')), calls(call(0, None, "f", ":1}"))],
        [F1],
    ),
    (
        "id behind the name",
        [calls(call(0, None, "f", '{"a"')), calls(call(0, "c", None, ":1}"))],
        [F1],
    ),
    ("object arguments", [calls(call(0, "c", "f", {"a": 1}))], [("call", "f", '{"a": 1}')]),
    (
        "form before tools",
        [delta(function_call={"name": "f", "arguments": '{"a"'}), delta(function_call={"arguments": ":1}"})],
        [F1],
    ),
    ("fragments that are no objects", [calls(call(0, "c", "f", '{"a":1}'), "x", None)], [F1]),  # type: ignore[arg-type]
    (
        "index that is no integer",
        [calls({"index": "0", "id": "c", "function": {"name": "f", "arguments": '{"a":1}'}})],
        [F1],
    ),
    ("function that is no object", [calls({"index": 0, "function": "x"}), *text("a")], [("text", "a")]),
    ("a fragment that says nothing", [calls({"index": 0}), *text("a")], [("text", "a")]),
    ("an id and nothing more", [calls(call(0, "c")), *text("a")], [("text", "a")]),
]


@pytest.mark.parametrize("finish", ["tool_calls", "stop"])
@pytest.mark.parametrize(("chunks", "expected"), [row[1:] for row in FRAGMENTS], ids=[row[0] for row in FRAGMENTS])
def test_fragments(chunks: list[dict[str, Any]], expected: list[Any], finish: str) -> None:
    events = events_of([*chunks, delta(finish)])
    assert shape(output(events)) == expected
    assert kinds(events)[-1] == "completed"


def test_call_ids_of_the_backend_are_kept() -> None:
    events = events_of([calls(call(0, "c", "f", "{}"), call(1, "", "g", "{}"), call(2, "c", "h", "{}")), STOP])
    first, second, third = (item["call_id"] for item in output(events))
    assert first == "c"
    assert len({first, second, third}) == 3
    assert second
    assert third


def test_a_call_without_a_name_fails_the_stream() -> None:
    events = events_of([calls(call(0, "c", None, '{"a":1}')), STOP])
    assert kinds(events)[-2:] == ["error", "failed"]
    assert "without a name" in events[-2]["message"]


# --- the end ------------------------------------------------------------------------------------------

USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}


@pytest.mark.parametrize(
    "chunks",
    [
        [*text("a"), STOP, {"choices": [], "usage": USAGE}],
        [*text("a"), {"usage": USAGE}, STOP],
        [*text("a"), delta("stop", usage=USAGE)],
        [delta(content="a", usage={"prompt_tokens": 3, "completion_tokens": 1}), delta("stop", usage=USAGE)],
        [{"choices": [], "usage": USAGE}, delta(content="a", usage={}), STOP],
    ],
)
def test_usage_anywhere(chunks: list[dict[str, Any]]) -> None:
    told = final(events_of(chunks))["usage"]
    assert (told["input_tokens"], told["output_tokens"], told["total_tokens"]) == (3, 4, 7)


def test_usage_never() -> None:
    assert final(events_of([*text("a"), STOP]))["usage"] is None


@pytest.mark.parametrize(("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")])
def test_cut(finish: str, reason: str) -> None:
    events = events_of([*text("a"), delta(finish)])
    assert kinds(events)[-1] == "incomplete"
    assert final(events)["incomplete_details"] == {"reason": reason}
    assert output(events)[0]["status"] == "incomplete"
    assert final(events)["completed_at"] is None


def test_cut_in_a_call() -> None:
    chunks = [calls(call(0, "c", "f", "{}")), calls(call(1, "d", "g", '{"b"')), delta("length")]
    assert [item["status"] for item in output(events_of(chunks))] == ["completed", "incomplete"]


def test_cut_in_interleaved_calls() -> None:
    """A call is incomplete when its arguments are, wherever it stands."""
    chunks = [calls(call(0, "c", "f", '{"a"')), calls(call(1, "d", "g", '{"b"')), delta("length")]
    assert [item["status"] for item in output(events_of(chunks))] == ["incomplete", "incomplete"]


@pytest.mark.parametrize("end", [[delta("length")], []], ids=["length", "broken"])
def test_half_a_custom_call_is_never_done(end: list[dict[str, Any]]) -> None:
    """Clients run the input of a custom call as it is when it is done: Codex ran half a script."""
    chunks = [*text("Now"), calls(call(0, "c", "p", '{"input": "rm -r build ')), *end]
    events = events_of(chunks, CUSTOM, done=bool(end))
    assert shape(output(events)) == [("text", "Now")]
    assert [event["delta"] for event in pick(events, "custom_tool_call_input.delta")] == ["rm -r build "]
    assert not pick(events, "custom_tool_call_input.done")
    assert kinds(events)[-1] == ("incomplete" if end else "failed")


def test_a_whole_custom_call_is_done_though_the_answer_was_cut() -> None:
    chunks = [calls(call(0, "c", "p", '{"input": "ab"}')), delta("length")]
    events = events_of(chunks, CUSTOM)
    assert (shape(output(events)), output(events)[0]["status"]) == ([("custom", "p", "ab")], "incomplete")


def test_half_a_custom_call_is_left_out_of_a_whole_answer() -> None:
    cut = answer("length", content="Now", tool_calls=[call(None, "c", "p", '{"input": "rm -r build ')])
    response = response_of(cut, CUSTOM)
    assert (shape(response["output"]), response["status"]) == ([("text", "Now")], "incomplete")


@pytest.mark.parametrize("done", [True, False])
def test_done_may_be_missing_after_a_finish_reason(done: bool) -> None:
    assert kinds(events_of([*text("a"), STOP], done=done))[-1] == "completed"


def test_a_null_finish_reason_after_done_is_completed() -> None:
    assert kinds(events_of(text("a")))[-1] == "completed"


@pytest.mark.parametrize("finish", [None, ""])
@pytest.mark.parametrize("chunks", [[], text("a"), [calls(call(0, "c", "f", '{"a"'))], [delta(reasoning="r")]])
def test_an_early_end_is_a_failure(chunks: list[dict[str, Any]], finish: str | None) -> None:
    events = events_of([*chunks, delta(finish)], done=False)
    assert kinds(events)[-2:] == ["error", "failed"]
    assert final(events)["error"] == {"code": "stream_interrupted", "message": events[-2]["message"]}
    assert {item.get("status", "incomplete") for item in output(events)} <= {"incomplete"}


def test_ended_cleanly() -> None:
    opened = stream()
    opened.feed(text("a")[0])
    assert not opened.ended_cleanly
    opened.done()
    assert opened.ended_cleanly
    other = stream()
    other.feed(STOP)
    assert other.ended_cleanly


def test_the_end_is_sent_when_done_arrives() -> None:
    """Not when the backend closes the connection, which some do late; the rest is read and dropped."""
    read = []

    def chunks() -> Iterator[bytes]:
        for chunk in (body(text("a")), body(text("late"))):
            read.append(chunk)
            yield chunk

    sent = translate(chunks(), stream())
    assert b"response.completed" in b"".join(next(sent) for _ in range(3))
    assert list(sent) == []
    assert len(read) == 2


def test_response_is_kept_for_the_store() -> None:
    for finish, status in (("stop", "completed"), ("length", "incomplete")):
        opened = stream()
        events = valid(b"".join(translate([body([*text("a"), delta(finish)])], opened)))
        assert opened.response == final(events)
        assert opened.response is not None
        assert opened.response["status"] == status
    failed = stream()
    list(translate([body(text("a"), done=False)], failed))
    assert failed.response is None


# --- what backends do -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        body([*text("Hi"), STOP]).replace(b"\n", b"\r\n"),
        body([*text("Hi"), STOP]).replace(b"data: ", b"data:"),
        b": hello\n\n" + body([*text("Hi"), STOP]).replace(b"data: {", b": note\ndata: {"),
        body([*text("Hi"), STOP]).replace(b"data: {", b"event: message\nid: 1\ndata: {"),
        body([*text("Hi"), STOP])[:-2],
    ],
    ids=["crlf", "no space", "comments", "other fields", "no last empty line"],
)
def test_framings(raw: bytes) -> None:
    assert shape(output(events_of(raw))) == [("text", "Hi")]


def test_a_line_of_hundreds_of_kilobytes() -> None:
    long = "né " * 150_000
    assert shape(output(events_of([*text(long), STOP]))) == [("text", long)]


def test_comments_are_passed_on() -> None:
    sent = list(translate([b": working\n\n", body([*text("a"), STOP])], stream()))
    assert sent[1] == sse.KEEP_ALIVE
    valid(b"".join(sent))


@pytest.mark.parametrize(
    "line", [b"data: {broken\n\n", b"data: 5\n\n", b"data:\n\n", b"data: \xff\n\n", b"nonsense\n\n"]
)
def test_unparsable_lines_are_skipped(line: bytes) -> None:
    events = events_of(line + body([*text("Hi"), line, STOP]))
    assert shape(output(events)) == [("text", "Hi")]
    assert kinds(events)[-1] == "completed"


def test_plain_json_to_a_stream() -> None:
    opened = stream()
    said = answer(content="Hi", reasoning="r", tool_calls=[call(None, "c", "f", "{}")], usage=USAGE)
    events = sdk_valid(valid(b"".join([*opened.begin(), *opened.feed_document(said), *opened.finish()])))
    assert shape(output(events)) == [("reasoning", "r"), ("text", "Hi"), ("call", "f", "{}")]
    assert final(events)["usage"]["total_tokens"] == 7
    assert kinds(events)[-1] == "completed"


@pytest.mark.parametrize(("finish", "end"), [(None, "completed"), ("stop", "completed"), ("length", "incomplete")])
def test_plain_json_ends(finish: str | None, end: str) -> None:
    opened = stream()
    events = valid(b"".join([*opened.feed_document(answer(finish, content="Hi")), *opened.finish()]))
    assert kinds(events)[-1] == end


@pytest.mark.parametrize("document", [{}, {"choices": []}, {"choices": [{}]}, {"error": {"message": "no"}}])
def test_plain_json_without_an_answer_fails(document: dict[str, Any]) -> None:
    opened = stream()
    events = valid(b"".join([*opened.feed_document(document), *opened.finish()]))
    assert kinds(events)[-2:] == ["error", "failed"]


# --- errors ---------------------------------------------------------------------------------------------


def test_backend_error_in_the_stream() -> None:
    error = {"error": {"message": "gpu fell over", "type": "server_error", "code": "oom", "param": None}}
    events = events_of([*text("a"), error, *text("b"), STOP])
    assert kinds(events)[-2:] == ["error", "failed"]
    told = {"type": "server_error", "code": "oom", "message": "gpu fell over", "param": None}
    assert events[-2] == {
        "type": "error",
        "sequence_number": len(events) - 2,
        "code": "oom",
        "message": "gpu fell over",
        "param": None,
        "error": told,
    }
    assert final(events)["status"] == "failed"
    assert final(events)["error"] == {"code": "oom", "message": "gpu fell over"}
    assert shape(output(events)) == [("text", "a")]
    assert output(events)[0]["status"] == "incomplete"


@pytest.mark.parametrize(
    ("chunk", "code", "message"),
    [
        ({"error": "out of memory"}, "server_error", "out of memory"),
        ({"error": {"message": "x", "code": 500}}, "500", "x"),
        ({"error": {"code": "c"}}, "c", "The backend failed."),
        ({"error": {"message": "", "type": "t"}}, "t", "The backend failed."),
        ({"error": True}, "server_error", "The backend failed."),
        ({"object": "error", "message": "old vLLM"}, "server_error", "old vLLM"),
    ],
)
def test_backend_error_shapes(chunk: dict[str, Any], code: str, message: str) -> None:
    events = events_of([chunk])
    assert (events[-2]["code"], events[-2]["message"]) == (code, message)
    assert final(events)["error"] == {"code": code, "message": message}


def test_null_error_is_no_error() -> None:
    assert kinds(events_of([delta(content="a") | {"error": None}, STOP]))[-1] == "completed"


def test_backend_error_never_shows_a_key() -> None:
    events = events_of([{"error": {"message": "bad key sk-abcdefgh12345678"}}])
    assert "sk-abcdefgh12345678" not in json.dumps(events)


def test_lost_connection() -> None:
    def chunks() -> Iterator[bytes]:
        yield body([*text("a"), calls(call(0, "c", "f", '{"a"'))], done=False)
        raise StreamInterrupted("The connection to local broke.", code="stream_interrupted")

    opened = stream()
    events = valid(b"".join(translate(chunks(), opened)))
    assert kinds(events)[-2:] == ["error", "failed"]
    assert final(events)["error"] == {"code": "stream_interrupted", "message": "The connection to local broke."}
    assert opened.response is None


def test_interruption_after_the_end_changes_nothing() -> None:
    def chunks() -> Iterator[bytes]:
        yield body([*text("a"), STOP])
        raise StreamInterrupted("reset")

    assert kinds(valid(b"".join(translate(chunks(), stream()))))[-1] == "completed"


def test_interruption_behind_a_finish_reason_took_nothing_away() -> None:
    def chunks() -> Iterator[bytes]:
        yield body([*text("a"), STOP], done=False)
        raise StreamInterrupted("reset")

    assert kinds(valid(b"".join(translate(chunks(), stream()))))[-1] == "completed"


def test_interruption_told_by_the_backend_is_told_once() -> None:
    def chunks() -> Iterator[bytes]:
        yield body([*text("a"), {"error": {"message": "oom"}}], done=False)
        raise StreamInterrupted("oom", error_visible=True)

    events = valid(b"".join(translate(chunks(), stream())))
    assert kinds(events).count("error") == 1


def test_fail_before_anything_was_sent() -> None:
    events = valid(b"".join(stream().fail("no", code="server_error")))
    assert kinds(events) == ["created", "in_progress", "error", "failed"]


def test_nothing_follows_the_end() -> None:
    for end in ("finish", "fail"):
        opened = stream()
        opened.feed(STOP)
        opened.finish() if end == "finish" else opened.fail("x")
        assert opened.closed
        assert opened.feed(text("late")[0]) == []
        assert opened.feed_document(answer(content="late")) == []
        assert opened.finish() == []
        assert opened.fail("late") == []


def test_an_event_that_is_too_long_is_a_failure() -> None:
    huge = b"data: " + b"x" * (17 * 1024 * 1024) + b"\n\n"
    raw = b"".join(translate([body(text("a"), done=False), huge, body([STOP])], stream()))
    events = valid(raw)
    assert kinds(events)[-1] == "failed"
    assert "too long" in events[-2]["message"]


def test_lone_surrogates_leave_as_json() -> None:
    raw = b"".join(translate([b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\n', sse.DONE], stream()))
    violations, events = check(raw)
    assert not violations
    assert shape(output(events)) == [("text", "\ud83d")]

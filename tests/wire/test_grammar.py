"""The checker of the event grammar sees what is wrong: a checker that finds nothing would hold nothing."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from app.wire import sse
from app.wire.responses.stream import translate
from tests.wire.grammar import Event, check
from tests.wire.streams import body, call, calls, delta, request, stream, text

CHUNKS = [
    delta(reasoning="r1"),
    delta(reasoning="r2"),
    *text("a", "b"),
    delta(refusal="no"),
    calls(call(0, "c", "f", '{"q"')),
    calls(call(0, None, None, ":1}")),
    calls(call(1, "d", "p", '{"input": "x')),
    calls(call(1, None, None, 'y"}')),
    *text("z"),
]
ASKED = request(tools=[{"type": "custom", "name": "p"}], include=["reasoning.encrypted_content"])


def events_of(end: str = "stop") -> list[Event]:
    """The events of a stream that ends with a finish reason, or with an error."""
    chunks = [*CHUNKS, {"error": {"message": "oom"}} if end == "error" else delta(end)]
    violations, events = check(b"".join(translate([body(chunks)], stream(ASKED))))
    assert violations == []
    return events


def rendered(events: list[Event], *, renumber: bool = True) -> bytes:
    if renumber:
        events = [event | {"sequence_number": at} for at, event in enumerate(events)]
    return b"".join(sse.event(event, event["type"]) for event in events) + sse.DONE


@pytest.mark.parametrize("end", ["stop", "length", "error"])
def test_every_event_is_missed(end: str) -> None:
    events = events_of(end)
    assert check(rendered(events))[0] == []
    for at in range(len(events)):
        assert check(rendered(events[:at] + events[at + 1 :]))[0], events[at]


@pytest.mark.parametrize("end", ["stop", "error"])
def test_every_repetition_is_seen(end: str) -> None:
    events = events_of(end)
    for at in range(len(events)):
        assert check(rendered(events[: at + 1] + events[at:]))[0], events[at]


def test_every_swap_is_seen() -> None:
    events = events_of()
    for at in range(len(events) - 1):
        first, second = events[at], events[at + 1]
        if first["type"] == second["type"]:
            continue  # two deltas: only their joined text tells
        if "_call" in first.get("item", {}).get("type", "") and second["type"] == "response.output_item.added":
            continue  # a call may stay open while another item begins
        assert check(rendered([*events[:at], second, first, *events[at + 2 :]]))[0], first


def test_framing_is_checked() -> None:
    events = events_of()
    raw = rendered(events)
    wrong = {
        "no [DONE]": raw.removesuffix(sse.DONE),
        "two [DONE]": raw + sse.DONE,
        "something after [DONE]": raw + sse.event(events[2], events[2]["type"]),
        "no event line": raw.replace(b"event: response.created\n", b""),
        "event is not type": raw.replace(b"event: response.created\n", b"event: response.queued\n"),
        "gap": rendered([events[0] | {"sequence_number": 5}, *events[1:]], renumber=False),
        "no end": raw[:-1],
        "only [DONE]": sse.DONE,
        "nothing": b"",
    }
    for what, body_ in wrong.items():
        assert check(body_)[0], what
    assert check(b": comment\n\n" + raw)[0] == []


def at_type(events: list[Event], kind: str, nth: int = 0) -> Event:
    return [event for event in events if event["type"] == f"response.{kind}"][nth]


Break = Callable[[list[Event]], Any]

BREAKS: dict[str, Break] = {
    "empty delta": lambda events: at_type(events, "output_text.delta").update(delta=""),
    "other text in done": lambda events: at_type(events, "output_text.done").update(text="x"),
    "other text in part": lambda events: at_type(events, "content_part.done")["part"].update(text="x"),
    "other arguments": lambda events: at_type(events, "function_call_arguments.done").update(arguments="{}"),
    "other name in done": lambda events: at_type(events, "function_call_arguments.done").update(name="x"),
    "empty name": lambda events: at_type(events, "output_item.added", 2)["item"].update(name=""),
    "empty call_id": lambda events: at_type(events, "output_item.added", 2)["item"].update(call_id=""),
    "call_id changes": lambda events: at_type(events, "output_item.done", 2)["item"].update(call_id="x"),
    "id changes": lambda events: at_type(events, "output_item.done")["item"].update(id="rs_9"),
    "wrong item_id": lambda events: at_type(events, "output_text.delta").update(item_id="msg_9"),
    "wrong output_index": lambda events: at_type(events, "output_text.delta").update(output_index=0),
    "wrong content_index": lambda events: at_type(events, "output_text.delta").update(content_index=1),
    "wrong summary_index": lambda events: at_type(events, "reasoning_summary_text.delta").update(summary_index=1),
    "index not counting": lambda events: at_type(events, "output_item.added").update(output_index=1),
    "no logprobs": lambda events: at_type(events, "output_text.delta").pop("logprobs"),
    "added with content": lambda events: at_type(events, "output_item.added", 1)["item"].update(content=[{}]),
    "added completed": lambda events: at_type(events, "output_item.added", 1)["item"].update(status="completed"),
    "done in progress": lambda events: at_type(events, "output_item.done", 1)["item"].update(status="in_progress"),
    "null seal": lambda events: at_type(events, "output_item.done")["item"].update(encrypted_content=None),
    "response id changes": lambda events: events[-1]["response"].update(id="resp_2"),
    "created completed": lambda events: events[0]["response"].update(status="completed"),
    "created with output": lambda events: events[0]["response"].update(output=[{"id": "x"}]),
    "terminal without output": lambda events: events[-1]["response"].update(output=[]),
    "terminal with another status": lambda events: events[-1]["response"].update(status="incomplete"),
    "terminal lacks a field": lambda events: events[-1]["response"].pop("metadata"),
    "completed without a time": lambda events: events[-1]["response"].update(completed_at=None),
    "float tokens": lambda events: events[-1]["response"].update(
        usage={
            "input_tokens": 1.5,
            "output_tokens": 1,
            "total_tokens": 1,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        }
    ),
}


@pytest.mark.parametrize("name", BREAKS)
def test_break_is_seen(name: str) -> None:
    events = copy.deepcopy(events_of())
    BREAKS[name](events)
    assert check(rendered(events))[0]


def test_errors_are_checked() -> None:
    for breaks in (
        lambda error: error.pop("error"),
        lambda error: error.update(code=None),
        lambda error: error.update(message=""),
        lambda error: error["error"].pop("param"),
    ):
        events = copy.deepcopy(events_of("error"))
        breaks(events[-2])
        assert check(rendered(events))[0]

"""The checker of streams finds every planted break."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest

from tests.wire.messages.grammar import Event, check

USAGE = {
    "input_tokens": 3,
    "output_tokens": 2,
    "cache_creation_input_tokens": 0,
    "cache_read_input_tokens": 0,
}
START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": USAGE,
    },
}
GOOD: list[Event] = [
    START,
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "hi"}},
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "tool_use", "id": "c1", "name": "ls", "input": {}},
    },
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"a":'}},
    {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "1}"}},
    {"type": "content_block_stop", "index": 1},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use", "stop_sequence": None}, "usage": USAGE},
    {"type": "message_stop"},
]


def written(events: list[Event]) -> bytes:
    return b"".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events)


def test_a_good_stream():
    _, message = check(written([*GOOD[:3], {"type": "ping"}, *GOOD[3:]]))
    assert message["content"] == [
        {"type": "text", "text": "hi"},
        {"type": "tool_use", "id": "c1", "name": "ls", "input": {"a": 1}},
    ]


def test_an_error_may_end_a_stream_anywhere():
    error = {"type": "error", "error": {"type": "api_error", "message": "gone"}}
    for at in range(len(GOOD) - 1):
        check(written([*GOOD[:at], error]))


@pytest.mark.parametrize("at", range(len(GOOD)))
def test_an_event_is_missing(at):
    events = GOOD[:at] + GOOD[at + 1 :]
    if at in (2,):  # a block without text
        check(written(events))
        return
    with pytest.raises(AssertionError):
        check(written(events))


@pytest.mark.parametrize("at", [0, 1, 3, 4, 5, 7, 8, 9])
def test_an_event_comes_twice(at):
    with pytest.raises(AssertionError):
        check(written([*GOOD[: at + 1], GOOD[at], *GOOD[at + 1 :]]))


@pytest.mark.parametrize("at", range(len(GOOD) - 1))
def test_two_events_change_places(at):
    with pytest.raises(AssertionError):
        check(written([*GOOD[:at], GOOD[at + 1], GOOD[at], *GOOD[at + 2 :]]))


@pytest.mark.parametrize(
    "change",
    [
        lambda events: events[1].update(index=1),
        lambda events: events[2]["delta"].update(type="thinking_delta"),
        lambda events: events[1]["content_block"].update(text="x"),
        lambda events: events[4]["content_block"].pop("id"),
        lambda events: events[8]["delta"].update(stop_reason="stop"),
        lambda events: events[8]["delta"].update(stop_sequence="x"),
        lambda events: events[8].pop("usage"),
        lambda events: events[0]["message"].update(content=["x"]),
        lambda events: events[0]["message"].pop("usage"),
        lambda events: events[6]["delta"].update(partial_json="1"),
        lambda events: events[9].update(type="done"),
    ],
)
def test_a_member_is_wrong(change):
    events = deepcopy(GOOD)
    change(events)
    with pytest.raises((AssertionError, KeyError)):
        check(written(events))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        written(GOOD)[:-1],
        written(GOOD).replace(b"event: message_stop\n", b""),
        written(GOOD).replace(b"event: message_stop", b"event: message_delta"),
        written(GOOD) + b"data: [DONE]\n\n",
    ],
)
def test_bytes_that_are_no_such_stream(raw):
    with pytest.raises(AssertionError):
        check(raw)

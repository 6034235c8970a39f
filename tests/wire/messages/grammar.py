"""Check a stream of the Messages API by its whole grammar.

    message_start (content_block_start content_block_delta* content_block_stop)* message_delta message_stop

`ping` and comments may stand between events.  After `error` nothing follows.  Source: the API's page on streaming.
"""

from __future__ import annotations

import json
from typing import Any

_BLOCKS = {
    "text": ("text_delta",),
    "thinking": ("thinking_delta", "signature_delta"),
    "tool_use": ("input_json_delta",),
}
_FIRST = {"text": {"text": ""}, "thinking": {"thinking": "", "signature": ""}, "tool_use": {"input": {}}}
_DELTAS = {
    "text_delta": "text",
    "thinking_delta": "thinking",
    "signature_delta": "signature",
    "input_json_delta": "partial_json",
}
_STOPS = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn")
_USAGE = ("input_tokens", "output_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")

Event = dict[str, Any]


def events_of(raw: bytes) -> list[Event]:
    """Return the events of a stream's bytes.  Raise AssertionError when one is not written as the API writes it."""
    assert raw.endswith(b"\n\n"), "the last event is open"
    events = []
    for block in raw.decode().split("\n\n")[:-1]:
        lines = [line for line in block.split("\n") if not line.startswith(":")]
        if not lines:
            continue
        assert len(lines) == 2, f"an event has a name and data, no more: {lines}"
        name, data = lines
        assert name.startswith("event: "), name
        assert data.startswith("data: "), data
        event = json.loads(data.removeprefix("data: "))
        assert event["type"] == name.removeprefix("event: "), "name and type differ"
        events.append(event)
    return events


def check(raw: bytes) -> tuple[list[Event], Event]:
    """Return the events of a stream without pings, and the message that they make.  Raise AssertionError when they
    break the grammar."""
    events = [event for event in events_of(raw) if event["type"] != "ping"]
    assert events, "no event"
    error = events.pop() if events[-1]["type"] == "error" else None
    if error is not None:
        assert set(error["error"]) == {"type", "message"} and all(isinstance(v, str) for v in error["error"].values())
        if not events:
            return [error], {}
    message, rest = _start(events[0]), events[1:]
    rest = _blocks(message, rest, is_whole=error is None)
    if error is not None:
        assert not rest, f"unexpected {rest[0]['type']}"
        return [*events, error], message
    assert [event["type"] for event in rest] == ["message_delta", "message_stop"], [event["type"] for event in rest]
    _end(message, rest[0])
    return events, message


def _start(event: Event) -> Event:
    assert event["type"] == "message_start", f"begins with {event['type']}"
    message: Event = json.loads(json.dumps(event["message"]))
    assert message["type"] == "message" and message["role"] == "assistant"
    assert message["content"] == [] and message["stop_reason"] is None and message["stop_sequence"] is None
    assert isinstance(message["id"], str) and message["id"] and isinstance(message["model"], str)
    assert set(_USAGE) <= set(message["usage"])
    return message


def _blocks(message: Event, events: list[Event], *, is_whole: bool) -> list[Event]:
    """Read the blocks, and return the events behind them."""
    open_block: Event | None = None
    pieces: dict[str, str] = {}
    for at, event in enumerate(events):
        kind = event["type"]
        if not kind.startswith("content_block_"):
            assert open_block is None, f"{kind} while a block is open"
            return events[at:]
        assert event["index"] == len(message["content"]), f"index {event['index']}"
        if kind == "content_block_start":
            assert open_block is None, "a block begins within another one"
            open_block, pieces = dict(event["content_block"]), {}
            assert open_block["type"] in _BLOCKS, open_block["type"]
            first = _FIRST[open_block["type"]]
            assert {name: open_block[name] for name in first} == first, open_block
            if open_block["type"] == "tool_use":
                assert open_block["id"] and open_block["name"], open_block
        elif kind == "content_block_delta":
            assert open_block is not None, "a delta without a block"
            delta = event["delta"]
            assert delta["type"] in _BLOCKS[open_block["type"]], f"{delta['type']} in {open_block['type']}"
            name = _DELTAS[delta["type"]]
            assert set(delta) == {"type", name} and isinstance(delta[name], str), delta
            pieces[name] = pieces.get(name, "") + delta[name]
        else:
            assert kind == "content_block_stop" and open_block is not None, kind
            message["content"].append(_closed(open_block, pieces))
            open_block = None
    assert not is_whole or open_block is None, "a block is never closed"
    return []


def _closed(block: Event, pieces: dict[str, str]) -> Event:
    if block["type"] == "tool_use":
        text = pieces.get("partial_json", "")
        try:
            return {**block, "input": json.loads(text) if text else {}}
        except ValueError:
            return {**block, "input": text}
    return block | pieces


def _end(message: Event, event: Event) -> None:
    message |= event["delta"]
    assert set(event["delta"]) == {"stop_reason", "stop_sequence"}
    assert message["stop_reason"] in _STOPS, message["stop_reason"]
    assert (message["stop_sequence"] is not None) == (message["stop_reason"] == "stop_sequence")
    calls = [block for block in message["content"] if block["type"] == "tool_use"]
    assert message["stop_reason"] != "tool_use" or calls, "tool_use without a call"
    if message["stop_reason"] == "tool_use":
        assert all(isinstance(block["input"], dict) for block in calls), "a call that is no JSON"
    assert all(isinstance(event["usage"][name], int) for name in _USAGE)
    message["usage"] = event["usage"]

"""What is done with a body grows with its size and not faster, whatever its shape.

Counted are the calls of functions, ours and those written in C: a number that is the same on every machine.
`python -m benchmarks.steps` takes the times.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.conversations import Conversations, Turn
from app.routing.classify import classify
from app.routing.conversation import states
from app.routing.detect import DETECTORS, Detectors
from app.types import Body, ChatRequest, Dialect, ResponsesRules, SensitivityRules
from app.wire import sse
from app.wire.chat import request as chat
from app.wire.chat.repair import repaired_stream
from app.wire.chat.stream import StreamWatch
from app.wire.json_body import read_object
from app.wire.responses import request as responses
from app.wire.responses.body import ResponsesBody
from tests.bodies import RESPONSES_SHAPES, SHAPES, Shape, body

SMALL, TIMES = 20_000, 5
DETECT = Detectors(SensitivityRules(DETECTORS, ("(?i)project bluebird", "(a+)+b", "(x|x)*y")))


def calls(work: Callable[[], Any]) -> int:
    """How many functions `work` calls."""
    count = 0

    def note(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def of_responses(raw: bytes) -> ResponsesBody:
    received = read_object(raw)
    return ResponsesBody(responses.parse(received.document).after([]), received=received)


def steps(raw: bytes, read: Callable[[bytes], Body]) -> None:
    """Everything the router does with a body before it calls a backend."""
    states.clear()  # of conversations: one that was read before costs less
    parsed = read(raw)
    request = ChatRequest(request_id="r", surface="chat", body=parsed, model="auto", stream=False)
    DETECT.find(parsed.original)
    classify(request)
    parsed.encode("m", Dialect(developer_role=True), stream=False)


READERS = ((chat.parse, SHAPES), (of_responses, RESPONSES_SHAPES))
CASES = [(f"{read.__name__} {name}", read, shape) for read, shapes in READERS for name, shape in shapes.items()]


@pytest.mark.parametrize(("read", "shape"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_work_is_linear_in_the_size_of_the_body(read: Callable[[bytes], Body], shape: Shape) -> None:
    small, large = body(shape, SMALL), body(shape, SMALL * TIMES)
    steps(small, read)  # what is made once is made
    assert calls(lambda: steps(large, read)) <= calls(lambda: steps(small, read)) * TIMES * 1.3 + 1000


@pytest.mark.parametrize(
    "event",
    [b"data: x\n\n", b"data: x\r\n\r\n", b": comment\n\n", b"data: a\n", b"\n", b"\r", b"x", b"data:"],
    ids=repr,
)
@pytest.mark.parametrize("cut", [1, 7, 65536])
def test_work_is_linear_in_the_size_of_a_stream(event: bytes, cut: int) -> None:
    def read(size: int) -> Callable[[], None]:
        data = event * (size // len(event))
        pieces = [data[place : place + cut] for place in range(0, len(data), cut)]

        def run() -> None:
            splitter, watch = sse.Splitter(), StreamWatch()
            for piece in pieces:
                splitter.feed(piece)
                watch.feed(piece)
            watch.end()
            for _ in repaired_stream(iter(pieces), frozenset(), str):
                pass

        return run

    assert calls(read(SMALL * TIMES)) <= calls(read(SMALL)) * TIMES * 1.1 + 1000


@pytest.mark.parametrize(
    "call",
    [
        {"index": 0, "function": {"arguments": "x"}},
        {"index": 0, "id": "c", "function": {"name": "f", "arguments": "x}"}},
        {"id": "c", "function": {"name": "f", "arguments": "{}"}},
        {"index": 0, "function": {"name": "f", "arguments": "{}"}},
        {"function": {"name": "f"}},
        {"index": 0, "function": {"arguments": " "}},
        {"index": 0, "function": {"arguments": "{}"}},
    ],
    ids=str,
)
def test_work_is_linear_in_the_number_of_tool_calls(call: dict[str, Any]) -> None:
    first = {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}

    def read(count: int) -> Callable[[], None]:
        fragments = [first, *[call] * count]
        pieces = [sse.event({"choices": [{"index": 0, "delta": {"tool_calls": [each]}}]}) for each in fragments]

        def run() -> None:
            for _ in repaired_stream(iter(pieces), frozenset(("f",)), str):
                pass

        return run

    assert calls(read(400 * TIMES)) <= calls(read(400)) * TIMES * 1.2 + 2000


def test_finding_items_of_conversations_is_linear_in_their_number(tmp_path: Path) -> None:
    kept = Conversations(str(tmp_path / "metrics.db"), ResponsesRules(), lambda: 1000)

    def find(count: int) -> Callable[[], None]:
        items = [{"type": "message", "role": "user", "content": "x", "id": f"{count}-{n}"} for n in range(count)]
        fields = {
            "backend": "b",
            "model": "m",
            "kept_by_backend": False,
            "private": False,
            "previous_id": None,
            "ts_ms": 1000,
        }
        kept.keep(Turn(id=f"resp_{count}", input=tuple(items), **fields))
        return lambda: check(kept.items([item["id"] for item in items]), items)

    def check(found: Any, items: list[dict[str, Any]]) -> None:
        assert [found[item["id"]][0] for item in items] == items

    small, large = find(400), find(400 * TIMES)
    small()
    assert calls(large) <= calls(small) * TIMES * 1.3 + 1000

"""What is done with a body grows with its size and not faster, whatever its shape.

Counted are the calls of functions, ours and those written in C: a number that is the same on every machine.
`python -m benchmarks.steps` takes the times.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from app.routing.classify import classify
from app.routing.detect import DETECTORS, Detectors
from app.types import ChatRequest, Dialect, SensitivityRules
from app.wire import chat, sse
from app.wire.chat_stream import StreamWatch
from tests.bodies import SHAPES, body

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


def steps(raw: bytes) -> None:
    """Everything the router does with a body before it calls a backend."""
    parsed = chat.parse(raw)
    request = ChatRequest(request_id="r", surface="chat", body=parsed, model="auto", stream=False)
    DETECT.find(parsed.original)
    classify(request)
    parsed.encode("m", Dialect(), stream=False)


@pytest.mark.parametrize("shape", SHAPES)
def test_work_is_linear_in_the_size_of_the_body(shape: str) -> None:
    small, large = body(shape, SMALL), body(shape, SMALL * TIMES)
    steps(small)  # what is made once is made
    assert calls(lambda: steps(large)) <= calls(lambda: steps(small)) * TIMES * 1.3 + 1000


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

        return run

    assert calls(read(SMALL * TIMES)) <= calls(read(SMALL)) * TIMES * 1.1 + 1000

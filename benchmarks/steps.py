"""Measure how long a body of 1 MB blocks the other requests of its worker: the CPU time of each step, for the
hardest shapes.

python -m benchmarks.steps [bytes]

A step is what runs without giving way.  `check` and the two translations into chat, the classifier's and the
backend's, are steps of the Responses surface alone.
"""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from app.routing.classify import classify
from app.routing.detect import DETECTORS, Detectors
from app.types import Body, ChatRequest, Dialect, SensitivityRules
from app.wire.chat import request as chat
from app.wire.json_body import JsonBody, read_object
from app.wire.responses import request as responses
from app.wire.responses.body import ResponsesBody
from tests.bodies import RESPONSES_SHAPES, SHAPES, body

RUNS = 3


_turns: list[float] = []  # the times when the measured work yielded


def give_way() -> None:
    _turns.append(time.thread_time())


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the longest work without a yield (the smallest of some runs), and the result of the last run."""
    best, result = float("inf"), None
    for _ in range(RUNS):
        result = None
        _turns[:] = [time.thread_time()]
        result = work()
        give_way()
        best = min(best, max(end - begin for begin, end in itertools.pairwise(_turns)) * 1000)
    return best, result


Step = Callable[[Any], Any]  # takes the result of the step before


def _request(body: Body) -> ChatRequest:
    return ChatRequest(request_id="r", surface="chat", body=body, model="auto", stream=False)


def _translate(read: tuple[JsonBody, responses.ResponsesRequest]) -> Body:
    return ResponsesBody(read[1].after([]), received=read[0])


CHAT: dict[str, Step] = {"parse": chat.parse}
RESPONSES: dict[str, Step] = {  # as app/web/responses.py reads it
    "parse": read_object,
    "check": lambda received: (received, responses.parse(received.document)),
    "to chat": _translate,
}


def measure(surface: str, reading: Mapping[str, Step], shapes: Mapping[str, Any], size: int) -> float:
    """Print a table, and return the longest step."""
    detectors = Detectors(SensitivityRules(DETECTORS, ("(?i)project bluebird",)))
    numbers = itertools.count()  # a new dialect each time
    planning: dict[str, Step] = {
        "detect": lambda body: detectors.find(body.original, pause=give_way),
        "classify": lambda body: classify(_request(body)),
        "to dialect": lambda body: body.translate(Dialect(max_tokens_field=f"max{next(numbers)}")),
        "encode": lambda body: body.encode("m", Dialect(), stream=False),
    }
    title = f"{surface}: ms of CPU, {size} bytes"
    print(f"{title:40s}" + "".join(f" {step:>9s}" for step in (*reading, *planning)))
    worst = 0.0
    for shape in shapes:
        made: Any = body(shapes[shape], size)
        times = []
        for step in reading.values():
            ms, made = cpu_ms(lambda step=step, made=made: step(made))
            times.append(ms)
        times += [cpu_ms(lambda step=step, made=made: step(made))[0] for step in planning.values()]
        worst = max(worst, *times)
        print(f"{shape:40s}" + "".join(f" {ms:9.1f}" for ms in times), flush=True)
    return worst


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    gc.freeze()
    gc.set_threshold(20_000, 10, 5)  # as gunicorn.conf.py does
    longest = max(
        measure("chat", CHAT, SHAPES, size),
        measure("responses", RESPONSES, RESPONSES_SHAPES, size),
    )
    print(f"the longest: {longest:.1f} ms")


if __name__ == "__main__":
    main()

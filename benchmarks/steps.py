"""How long a body of 1 MB stops the other requests of its worker: CPU time of each step, for the hardest shapes.

python -m benchmarks.steps [bytes]
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from typing import Any

from app.routing.classify import classify
from app.routing.detect import DETECTORS, Detectors
from app.types import ChatRequest, SensitivityRules
from app.wire import chat
from tests.bodies import SHAPES, body

RUNS = 3


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """The least of some runs, and what came of the last."""
    best, result = float("inf"), None
    for _ in range(RUNS):
        result = None
        begin = time.thread_time()
        result = work()
        best = min(best, (time.thread_time() - begin) * 1000)
    return best, result


def main() -> None:
    size = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    detectors = Detectors(SensitivityRules(DETECTORS, ("(?i)project bluebird",)))
    gc.freeze()
    gc.set_threshold(20_000, 10, 5)  # as gunicorn.conf.py does
    print(f"{'ms of CPU, ' + str(size) + ' bytes':28s} {'parse':>8s} {'detect':>8s} {'classify':>8s}")
    worst = 0.0
    for shape in SHAPES:
        raw = body(shape, size)
        parse_ms, parsed = cpu_ms(lambda raw=raw: chat.parse(raw))
        request = ChatRequest(request_id="r", surface="chat", body=parsed, model="auto", stream=False)
        detect_ms, _ = cpu_ms(lambda parsed=parsed: detectors.find(parsed.original))
        classify_ms, _ = cpu_ms(lambda request=request: classify(request))
        worst = max(worst, parse_ms, detect_ms, classify_ms)
        print(f"{shape:28s} {parse_ms:8.1f} {detect_ms:8.1f} {classify_ms:8.1f}")
    print(f"the longest: {worst:.1f} ms")


if __name__ == "__main__":
    main()

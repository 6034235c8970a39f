"""Whether work grows with its size and not faster: the CPU time of 1, 2 and 4 times a size.

The shares of a machine do not matter, since only CPU time of this process counts, the best of several rounds is taken,
and what looks bad is measured again.  Linear work takes 4 times as long, quadratic work 16 times.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]
Make = Callable[[int], Work]

_ENOUGH_S = 0.0005  # a size whose work takes so long can be measured
_MOST_TIMES = 8.0  # half-way between linear and quadratic
_ROUNDS = (3, 6, 12, 24)
_SLACK_S = 0.001  # a page fault, a switch to another process


def problem_of(make: Make, size: int, most: int) -> str:
    """Return how many times as long the work takes at 4 times the size, if that is too long; else "".

    The size grows from `size` until it can be measured, to `most` at the most.
    """
    gc.disable()  # it would look through all that the tests before this one have left
    try:
        return _problem_of(make, size, most)
    finally:
        gc.enable()


def _problem_of(make: Make, size: int, most: int) -> str:
    while size < most and _best(make(size), 1) < _ENOUGH_S:
        size *= 2
    once, twice, four = (make(size * times) for times in (1, 2, 4))
    said = ""
    for rounds in _ROUNDS:
        small, middle, large = (_best(work, rounds) for work in (once, twice, four))
        if large <= small * _MOST_TIMES + _SLACK_S:
            return ""
        said = f"{large / small:.1f} times as long for 4 times {size} ({small:.4f}, {middle:.4f}, {large:.4f} s)"
    return said


def _best(work: Work, rounds: int) -> float:
    """Return the CPU seconds of the fastest of some rounds."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        found.append(time.process_time() - began)
    return min(found)

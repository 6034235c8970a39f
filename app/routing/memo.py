"""Remembers the results of a pure function for the texts that were used last.

Conversations send their earlier turns again with every turn, agents the same system prompt and the same request with
every result of a tool.  The key is the hash of a text (64 bits, random in each process), so that no prompt is kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

MOST = 2_000  # texts; some 700 bytes each for the task and the difficulty together

T = TypeVar("T")


class Memo(Generic[T]):
    """A function of one text that remembers its results."""

    def __init__(self, work: Callable[[str], T]) -> None:
        self._work = work
        self._results: OrderedDict[int, T] = OrderedDict()  # the one that was used last is at the end

    def __call__(self, text: str) -> T:
        """Return the result for `text`.  It is shared: the caller must not change it."""
        key = hash(text)
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        result = self._results[key] = self._work(text)
        if len(self._results) > MOST:
            self._results.popitem(last=False)
        return result

    def clear(self) -> None:
        """Forget everything."""
        self._results.clear()

"""Cache the results of a pure function for the texts that were used last.

A conversation sends its earlier turns again with every turn, and an agent sends the same system prompt and request with
every result of a tool.  The key is the hash of a text (64 bits, random in each process), so no prompt stays in memory.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

MAX_TEXTS = 2_000  # about 700 bytes each for the task and the difficulty together

T = TypeVar("T")


class Memo(Generic[T]):
    """Wrap a function of one text, and cache its results."""

    def __init__(self, function: Callable[[str], T]) -> None:
        self._function = function
        self._results: OrderedDict[int, T] = OrderedDict()  # the last entry is the one that was used last

    def __call__(self, text: str) -> T:
        """Return the result for `text`.  It is shared: the caller must not change it."""
        key = hash(text)
        if key in self._results:
            self._results.move_to_end(key)
            return self._results[key]
        result = self._results[key] = self._function(text)
        if len(self._results) > MAX_TEXTS:
            self._results.popitem(last=False)
        return result

    def clear(self) -> None:
        """Drop all results."""
        self._results.clear()


class Recent(Generic[T]):
    """Hold the values that were used last, by a hash."""

    def __init__(self) -> None:
        self._values: OrderedDict[int, T] = OrderedDict()  # the last entry is the one that was used last

    def get(self, key: int) -> T | None:
        """Return the value of a key, if it is held."""
        if key not in self._values:
            return None
        self._values.move_to_end(key)
        return self._values[key]

    def put(self, key: int, value: T) -> None:
        """Hold a value, and drop the one that was used longest ago when there are too many."""
        self._values[key] = value
        if len(self._values) > MAX_TEXTS:
            self._values.popitem(last=False)

    def clear(self) -> None:
        """Drop all values."""
        self._values.clear()

"""Remember the tool calls of escalated answers, in memory that the workers of one machine share.

The memory is a hash table with rows of a few words.  A new hash pushes the oldest one out of its row, so the table
never fills up, and neither reading nor writing grows with the number of calls.  It holds hashes only.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

from app.places.table import Lock, memory
from app.routing.tool_loop import hashes_of_answer, hashes_of_results
from app.types import ChatRequest, JsonObject

LOOPS_FD = "_LLR_LOOPS_FD"  # gunicorn.conf.py sets it for the workers; absent = this process alone
_ROWS = 4096
_WORDS = 8  # of a row: 64 bytes, a line of the processor's cache
_BYTES = 8 * _ROWS * _WORDS  # 256 KiB: the latest 32,768 calls, more or less


class ToolLoops:
    """Hold the tool calls of escalated answers, as hashes of app/routing/tool_loop.py."""

    def __init__(self, fd: int | None = None) -> None:
        """`fd` is a file that the master opened before it forked; None: this process is alone."""
        self._lock = Lock(fd)
        with self._lock:
            self._words = memoryview(memory(fd, _BYTES)).cast("q")

    def add(self, request: ChatRequest, message: JsonObject) -> None:
        """Remember the tool calls in the escalated answer to a request."""
        hashes = hashes_of_answer(request, message)
        with self._lock if hashes else nullcontext():
            for number in hashes:
                row = self._row(number)
                if number not in row:
                    row[1:] = memoryview(row[:-1].tobytes()).cast("q")
                    row[0] = number

    def mark(self, request: ChatRequest) -> ChatRequest:
        """Return the request.  It is escalated when it returns the results of tools that an escalated answer called."""
        if any(number in self._row(number) for number in hashes_of_results(request)):
            return replace(request, escalated=True)
        return request

    def _row(self, number: int) -> memoryview:
        begin = number % _ROWS * _WORDS
        return self._words[begin : begin + _WORDS]

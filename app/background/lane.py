"""Where blocking work goes: one native thread, so that SQLite and DNS never stop the event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from gevent.threadpool import ThreadPool

_SWITCH_S = 0.0005  # so often the lane gives way to the event loop; at 5 ms, Python's own, streams would stutter

T = TypeVar("T")


class Lane:
    """Runs functions one after the other beside the event loop.  Unstarted, it runs them in place."""

    def __init__(self) -> None:
        self._thread: ThreadPool | None = None

    def start(self) -> None:
        sys.setswitchinterval(_SWITCH_S)
        self._thread = ThreadPool(1)

    def run(self, work: Callable[..., T], *arguments: Any) -> T:
        """The result of `work(*arguments)`; other greenlets go on meanwhile.  Raises what it raises."""
        if self._thread is None:
            return work(*arguments)
        result: T = self._thread.apply(work, arguments)
        return result

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.kill()
            self._thread = None

"""Where blocking work goes: one native thread, so that SQLite and DNS never stop the event loop."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar, cast

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
        result = self._thread.apply(_attempt, (work, arguments))
        if isinstance(result, _Raised):
            raise result.error
        return cast(T, result)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.kill()
            self._thread = None


class _Raised:
    """An exception on its way back: gevent would print the traceback of one raised in the thread, handled or not."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _attempt(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    try:
        return work(*arguments)
    except Exception as error:
        return _Raised(error)

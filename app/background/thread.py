"""Run blocking work in a native thread, so that SQLite and DNS never stop the event loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar, cast

from gevent.threadpool import ThreadPool

from app import tuning

P = ParamSpec("P")
T = TypeVar("T")


class WorkerThread:
    """Run functions one after the other in a thread.  Before `start` they run in the caller's thread."""

    def __init__(self) -> None:
        self._thread: ThreadPool | None = None

    def start(self) -> None:
        tuning.switch_threads_often()
        self._thread = ThreadPool(1)

    def run(self, work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return the result of `work(*arguments)`, or raise its exception.  Other greenlets run meanwhile."""
        if self._thread is None:
            return work(*arguments, **named)
        result = self._thread.apply(_attempt, (work, arguments, named))
        if isinstance(result, _Raised):
            raise result.error
        return cast(T, result)

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.kill()
            self._thread = None


class _Raised:
    """Carry an exception back to the caller: gevent would print the traceback of an exception that ends the thread."""

    def __init__(self, error: Exception) -> None:
        self.error = error


def _attempt(work: Callable[..., object], arguments: tuple[object, ...], named: dict[str, object]) -> object:
    try:
        return work(*arguments, **named)
    except Exception as error:
        return _Raised(error)

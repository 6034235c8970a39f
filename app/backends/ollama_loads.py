"""Load models of an Ollama, before the calls that need them.  There is one load of a model at a time, for all requests
of this worker that wait for it; the server joins the loads of different workers.  A load goes on when the clients that
wait for it disconnect, because the server has evicted another model for it already.
"""

from __future__ import annotations

from collections.abc import Callable

import gevent
from gevent.event import Event

from app.errors import BackendError, BackendTimeout
from app.types import model_key


class Loads:
    """Hold the loads of one server that go on now."""

    def __init__(self, load: Callable[[str], None]) -> None:
        """`load` loads a model, or raises BackendError."""
        self._load = load
        self._running: dict[str, _Load] = {}  # by model_key

    def wait_for(self, model: str, limit_s: float) -> None:
        """Return when a model is loaded.  Raise BackendError when that fails, or needs longer than `limit_s`."""
        key = model_key(model)
        load = self._running.get(key)
        if load is None:
            load = self._running[key] = _Load()
            gevent.spawn(self._run, key, model, load)
        if not load.over.wait(limit_s):
            raise BackendTimeout(f"did not load {model} within {limit_s:g} s; the load goes on")
        if load.error is not None:
            raise load.error.copy()

    def _run(self, key: str, model: str, load: _Load) -> None:
        try:
            self._load(model)
        except BackendError as error:
            load.error = error.copy()
        finally:
            del self._running[key]
            load.over.set()


class _Load:
    """Hold a load that goes on."""

    def __init__(self) -> None:
        self.over = Event()
        self.error: BackendError | None = None  # is not raised itself: its traceback would refer to this object

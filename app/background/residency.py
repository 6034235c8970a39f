"""Ask the servers which models are loaded: each second while a backend is in use, and at once after a load."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping

import gevent
from gevent.event import Event

from app.backends.base import Backend
from app.background.loop import Loop
from app.errors import BackendError

log = logging.getLogger("llr.background")

_EVERY_S = 0.9  # with the time of the question, an answer is at most about a second old
_TELL_S = 3.0  # the time limit for an answer; a server that is silent for longer does not tell


def loops(backends: Mapping[str, Backend], is_watched: Callable[[str], bool]) -> Iterator[Loop]:
    """Return one loop for each server that loads models on demand, so that one that hangs does not delay the others.
    `is_watched` returns True for a backend that is local and in use."""
    for name, backend in backends.items():
        if (changes := backend.changes) is not None:
            yield Loop(f"asking {name} for loaded models", 0, _Watch(name, backend, changes, is_watched).step)


class _Watch:
    def __init__(self, name: str, backend: Backend, changes: Event, is_watched: Callable[[str], bool]) -> None:
        self._name = name
        self._backend = backend
        self._changes = changes
        self._is_watched = is_watched
        self._last_expiry = 0.0  # the latest one that led to a question: the server's clock may be wrong

    def step(self) -> None:
        is_changed = self._changes.wait(_EVERY_S)
        self._changes.clear()
        is_due = self._backend.tells_loaded and self._is_watched(self._name)
        if is_changed or is_due or self._has_expired(time.time()):
            look(self._backend)

    def _has_expired(self, now: float) -> bool:
        """Return True when the server has unloaded a model since it told us, because no client has used it."""
        expiries = (one.expires_at or 0.0 for one in self._backend.residency.values())
        latest = max((expiry for expiry in expiries if expiry < now), default=0.0)
        has_expired, self._last_expiry = latest > self._last_expiry, max(latest, self._last_expiry)
        return has_expired


def look(backend: Backend) -> None:
    try:
        with gevent.Timeout(_TELL_S, False):
            backend.look()
    except BackendError as error:
        log.debug("%s: %s", backend.config.name, error.message)

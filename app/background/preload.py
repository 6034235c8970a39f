"""Keep the models of `preload` loaded, from one worker of the machine.

They are loaded at the start, in reverse order, so that the first ones stay when not all of them fit.  After another
client has made the server evict one, it is loaded again when nothing else is loaded, or when the loaded models have
not been used for a minute.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import time
from collections.abc import Callable, Iterator, Mapping

from app.backends.base import Backend
from app.background.loop import Loop
from app.background.residency import look
from app.errors import BackendError
from app.types import model_key

log = logging.getLogger("llr.background")

_EVERY_S = 1.0
_LOOK_S = 5.0
_IDLE_S = 60.0
_AGAIN_S = 60.0  # after a load that failed
_LOAD_S = 600.0
_LOCK_BYTE = 1 << 40  # of the file that all workers share, far behind its end


def loops(
    backends: Mapping[str, Backend], is_local: Callable[[str], bool], is_called: Callable[[str], bool], fd: int | None
) -> Iterator[Loop]:
    """Return one loop for each backend with models to preload.  `fd` is the file that all workers share; None: this
    process is alone."""
    for name, backend in backends.items():
        if backend.preload:
            yield Loop(f"preloading models at {name}", _EVERY_S, Preload(name, backend, is_local, is_called, fd).step)


class Preload:
    """Keep the models of one backend loaded."""

    def __init__(
        self,
        name: str,
        backend: Backend,
        is_local: Callable[[str], bool],
        is_called: Callable[[str], bool],
        fd: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`is_called` returns True while a backend has calls, `clock` monotonic seconds."""
        self._name = name
        self._backend = backend
        self._is_local = is_local
        self._is_called = is_called
        self._fd = fd
        self._clock = clock
        self._wanted = list(backend.preload)  # in the order of the policy, without those that do not fit
        self._is_started = False
        self._next_look = 0.0
        self._not_before: dict[str, float] = {}  # model -> when its load may be tried again
        self._warned: set[str] = set()

    def step(self) -> None:
        if self._clock() < self._next_look or not self._is_local(self._name) or not self._backend.facts:
            return
        if not self._is_leader():
            return
        self._next_look = self._clock() + _LOOK_S
        look(self._backend)
        if all(facts.loaded is None for facts in self._backend.facts.values()):
            return  # the server does not tell
        for model in reversed(self._missing()):
            if model in self._wanted and (not self._is_started or self._is_free()):
                self._load(model)
        self._is_started = True

    def _is_leader(self) -> bool:
        """Return True in the worker that holds the lock.  The kernel frees the lock when that worker dies."""
        if self._fd is None:
            return True
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCK_BYTE)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return False
            raise
        return True

    def _missing(self) -> list[str]:
        """Return the models that are not loaded, in the order of the policy."""
        now, missing = self._clock(), []
        for model in self._wanted:
            facts = self._backend.facts.get(model_key(model))
            if facts is None:
                self._warn(f"preload: {self._name} does not hold {model}")
            elif facts.loaded is False and now >= self._not_before.get(model, 0.0):
                missing.append(model)
        return missing

    def _is_free(self) -> bool:
        """Return True when no other client loses a model that it uses."""
        own = set(map(model_key, self._wanted))  # one that does not fit is loaded because a client uses it
        others = [model for model in self._backend.residency if model_key(model) not in own]
        is_idle = all(self._backend.unused_s(model) >= _IDLE_S for model in others)
        return is_idle and not (others and self._is_called(self._name))

    def _load(self, model: str) -> None:
        before = self._loaded()
        try:
            self._backend.load(model, _LOAD_S)
        except BackendError as error:
            self._not_before[model] = self._clock() + _AGAIN_S
            self._warn(f"preload: {self._name} did not load {model}: {error.full_message()}")
            return
        after = self._loaded()
        if model not in after:
            self._not_before[model] = self._clock() + _AGAIN_S
        for evicted in before - after:
            later = max(model, evicted, key=self._wanted.index)
            self._wanted.remove(later)
            self._warn(f"preload: {self._name} has no room for {later} beside the models before it; it is left out")
            if later == model:
                return

    def _loaded(self) -> set[str]:
        facts = self._backend.facts
        return {one for one in self._wanted if (fact := facts.get(model_key(one))) is not None and fact.loaded}

    def _warn(self, text: str) -> None:
        """Write a warning once."""
        if text not in self._warned:
            self._warned.add(text)
            log.warning("%s", text)

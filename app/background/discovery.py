"""Ask the local backends for their models, and for the facts about them."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import gevent
import gevent.event

from app.backends.base import Backend
from app.beliefs import Beliefs
from app.beliefs.local import resolve
from app.errors import BackendError

log = logging.getLogger("llr.background")

_TELL_S = 10.0  # the time limit for a server to name its models


class Discovery:
    """Ask the backends for their models, and store the answers in the beliefs.  A backend holds its facts itself."""

    def __init__(self, backends: Mapping[str, Backend], beliefs: Beliefs) -> None:
        self._backends = backends
        self._beliefs = beliefs
        self.done = gevent.event.Event()  # set when all backends were asked once

    def run(self) -> None:
        """Ask all backends at the same time, so that a backend that hangs does not delay the others."""
        self._beliefs.local.refresh(resolve)
        backends = to_ask(self._backends, self._beliefs.local.names)
        self._beliefs.forget_answers(backends)
        hosted = [one for name, one in self._backends.items() if one.hosted and name in self._beliefs.local.names]
        questions = [gevent.spawn(self._ask, name, backend) for name, backend in backends.items()]
        gevent.joinall([*questions, *(gevent.spawn(_ask_for_facts, backend) for backend in hosted)])
        self.done.set()

    def _ask(self, name: str, backend: Backend) -> None:
        models = None
        with gevent.Timeout(_TELL_S, False):
            models = models_of(backend)
        self._beliefs.learn_models(name, models)
        if models is not None:
            _ask_for_facts(backend)


def to_ask(backends: Mapping[str, Backend], local: frozenset[str]) -> dict[str, Backend]:
    """Return the backends to ask for their models.  Those of a hosted kind are not asked, because the operator did not
    request this traffic."""
    return {name: backend for name, backend in backends.items() if name in local and not backend.hosted}


def models_of(backend: Backend) -> tuple[str, ...] | None:
    """Return the models that a backend holds; None when it does not name them."""
    try:
        return backend.discover()
    except BackendError as error:
        log.debug("%s: %s", backend.config.name, error.message)
        return None


def _ask_for_facts(backend: Backend) -> None:
    """Ask for the facts that the list of models lacks.  A server that does not tell them can be used all the same."""
    try:
        with gevent.Timeout(_TELL_S, False):
            backend.ask_for_facts()
    except BackendError as error:
        log.debug("%s: %s", backend.config.name, error.message)

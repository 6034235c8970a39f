"""Run a step again and again in the background, also after it has failed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import gevent

log = logging.getLogger("llr.background")


class Loop:
    def __init__(self, name: str, every_s: float, step: Callable[[], object]) -> None:
        self._name = name
        self._every_s = every_s
        self._step = step
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        if self._greenlet is not None:
            self._greenlet.kill()
            self._greenlet = None

    def _run(self) -> None:
        while True:
            try:
                self._step()
            except Exception:
                log.exception("%s failed; it goes on", self._name)
            gevent.sleep(self._every_s)

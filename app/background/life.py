"""Start and stop the background work of one worker."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import gevent

from app import logs
from app.background import preload, residency
from app.background.disconnects import EVERY_S
from app.background.discovery import Discovery
from app.background.loop import Loop
from app.background.shadows import ShadowCalls
from app.background.thread import WorkerThread
from app.services import WORKER_STALE_MS, Services
from app.storage import StoreError, now_ms
from app.types import JsonDict

log = logging.getLogger("llr.runtime")

_FLUSH_S = 0.5
_STORE_S = 1.0  # turns that could not be stored at once
_LOG_S = 0.2
_OBSERVE_S = 1.0
_DISCOVER_S = 30.0
_LOOK_S = 1.0  # the wait of a new worker for the models: without them it could only refuse requests
_USE_MS = 30_000  # a backend is in use for this time after a call
_PRUNE_S = 60.0
_CATCH_UP_S = 5.0
_REPORT_S = 1.0
_STOP_S = 5.0  # for the last rows, when the database is busy
_PAUSE_S = 0.05  # between the steps of long work, so that waiting rows can be written


class Background:
    """Run the loops, the worker threads and the shadow calls of one worker.  gunicorn's `post_worker_init` starts
    it, `worker_exit` stops it."""

    def __init__(self, services: Services, shadows: ShadowCalls) -> None:
        self._services = services
        self._shadows = shadows
        self._threads = (services.metrics_thread, services.state_thread, services.log_thread)
        backends = {name: one.backend for name, one in services.upstreams.items()}
        self._discovery = Discovery(backends, services.beliefs)
        self._running = False
        self._reported: JsonDict | None = None
        self._reported_ms = 0
        metrics, state, recorder = services.metrics_thread, services.state_thread, services.recorder
        self._loops = (
            *residency.loops(backends, self._is_in_use),
            *preload.loops(
                backends,
                lambda name: name in services.beliefs.local.names,
                lambda name: services.places.in_flight(name) > 0,
                services.places.fd,
            ),
            Loop("writing metrics", _FLUSH_S, lambda: metrics.run(recorder.flush)),
            Loop("writing the log", _LOG_S, lambda: services.log_thread.run(logs.flush)),
            Loop("observing backends", _OBSERVE_S, lambda: services.beliefs.read_calls(services.store, metrics)),
            Loop(
                "counting escalations", _OBSERVE_S, lambda: services.beliefs.count_escalations(services.store, metrics)
            ),
            Loop("discovering models", _DISCOVER_S, self._discovery.run),
            Loop("summing up metrics", _CATCH_UP_S, self._catch_up),
            Loop("pruning metrics", _PRUNE_S, self._prune),
            Loop("storing responses", _STORE_S, lambda: state.run(services.conversations.flush)),
            Loop("trimming conversations", _PRUNE_S, self._trim),
            Loop("reporting this worker", _REPORT_S, self._report),
            Loop("watching for disconnects", EVERY_S, services.disconnects.sweep),
        )

    def start(self) -> None:
        self._running = True
        self._set_immediate(False)
        logs.let_wait(True)
        for thread in self._threads:
            thread.start()
        self._shadows.start()
        for loop in self._loops:
            loop.start()
        self._discovery.done.wait(_LOOK_S)

    def stop(self) -> None:
        """Write every row that waits; try for a few seconds when the database is busy."""
        if not self._running:
            return
        services, recorder = self._services, self._services.recorder
        for loop in self._loops:
            loop.stop()
        self._shadows.stop()
        until = time.monotonic() + _STOP_S
        while not services.read(recorder.flush) and time.monotonic() < until:
            gevent.sleep(0.1)
        try:
            services.read(services.store.forget_worker, services.worker)
        except StoreError as error:
            log.debug("worker report left behind: %s", error)
        services.read(services.store.close)
        services.metrics_thread.stop()
        services.state_thread.run(services.conversations.close)
        services.state_thread.stop()
        self._running = False
        self._set_immediate(True)
        recorder.flush()  # rows of requests that ended meanwhile: a worker stops during its work when its master died
        services.store.close()
        if recorder.queued:
            log.error("%d metrics rows could not be written and are lost", recorder.queued)
        if logs.has_room():  # otherwise its thread may wait for a reader forever
            services.log_thread.stop()
        logs.let_wait(False)
        for upstream in services.upstreams.values():
            upstream.backend.close()

    def _is_in_use(self, backend: str) -> bool:
        """Return True for a local backend with calls now or just before, of any worker."""
        services = self._services
        is_called = services.places.in_flight(backend) or services.beliefs.was_called_since(backend, now_ms() - _USE_MS)
        return backend in services.beliefs.local.names and bool(is_called)

    def _set_immediate(self, value: bool) -> None:
        self._services.recorder.immediate = self._services.beliefs.immediate = value

    # --- loops ---

    def _catch_up(self) -> None:
        services = self._services
        _in_portions("summing up", services.metrics_thread, services.store.catch_up)

    def _prune(self) -> None:
        services = self._services
        before = now_ms() - int(services.settings.retention_days * 86_400_000)
        _in_portions("pruning", services.metrics_thread, services.store.catch_up, lambda: services.store.prune(before))

    def _trim(self) -> None:
        services = self._services
        _in_portions("trimming", services.state_thread, services.conversations.trim)

    def _report(self) -> None:
        """Publish the report of this worker when it has changed, or when the last one is old."""
        services, document, now = self._services, self._services.report(), now_ms()
        if document == self._reported and abs(now - self._reported_ms) < WORKER_STALE_MS / 2:
            return
        try:
            services.read(services.store.report_worker, services.worker, now, document)
        except StoreError as error:
            services.recorder.cannot_write(error)  # so the log shows it also while there are no requests
            return
        self._reported, self._reported_ms = document, now


def _in_portions(what: str, thread: WorkerThread, *works: Callable[[], object]) -> None:
    """Run each function again as long as it returns that there is more work."""
    try:
        for work in works:
            while thread.run(work):
                gevent.sleep(_PAUSE_S)
    except StoreError as error:
        log.debug("%s waits: %s", what, error)

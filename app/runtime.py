"""Everything one worker process owns, and when it starts and stops."""

from __future__ import annotations

import gc
import logging
import os
import random
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import gevent
import gevent.event

from app import logs
from app.backends.base import Backend
from app.backends.places import PLACES_FD, Places
from app.background.disconnects import EVERY_S, Disconnects
from app.background.loop import Loop
from app.background.observe import Locality, Medians, asked, models_of, resolve
from app.background.shadow import Shadow
from app.background.thread import WorkerThread
from app.circuits import Circuits
from app.conversations import Conversations
from app.dispatch import Dispatcher, Upstream
from app.errors import RouterError
from app.metrics.recorder import Recorder
from app.metrics.store import Store
from app.policy.services import Services
from app.settings import Settings
from app.storage import StoreError, now_ms
from app.types import CallRecord, CircuitState, Observations, Target

log = logging.getLogger("llr.runtime")

_FLUSH_S = 0.5
_STORE_S = 1.0  # what could not be stored at once
_LOG_S = 0.2
_OBSERVE_S = 1.0
_DISCOVER_S = 30.0
_TELL_S = 10.0  # that a server may take to tell its models
_LOOK_S = 1.0  # that a new worker waits for them before it serves: without them it could only refuse
_PRUNE_S = 60.0
_CATCH_UP_S = 5.0
_REPORT_S = 1.0
_HOUR_MS = 3_600_000
_PLACES_PER_BACKEND = 100_000  # bytes of the shared file that belong to one backend
WORKER_STALE_MS = 10_000  # a worker not heard of for so long is gone


@dataclass(frozen=True, slots=True)
class Facts:
    """What was learned in the background; swapped whole."""

    latency_ms: Mapping[tuple[str, str], float]
    models: Mapping[str, tuple[str, ...]]
    answers: Mapping[str, bool]  # whether it told its models when it was asked last; backends never asked are absent


class Runtime:
    """Wired by create_app, started by gunicorn's post_worker_init.  Unstarted it works in immediate mode: rows are
    written as they are made, shadow calls run in place."""

    def __init__(self, settings: Settings, services: Services, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.policy = policy = services.policy
        self.started_at = time.time()
        self.detectors = services.detectors
        self.circuits = Circuits(time.monotonic, settings.cooldown_s)
        self.store = Store(settings.db)
        self.conversations = Conversations(settings.db, policy.responses, now_ms)
        self.metrics_thread = WorkerThread()  # for metrics
        self.state_thread = WorkerThread()  # for conversations, which requests wait for
        self.log_thread = WorkerThread()  # standard error may be a pipe that nobody reads
        self.recorder = Recorder(self.store)
        self.disconnects = Disconnects()
        self.upstreams = _upstreams(services.backends, environ)
        self.dispatcher = Dispatcher(self.upstreams, self.circuits, self.observations, self.record)
        self.shadow = Shadow(policy, self.dispatcher, random.random)
        self._medians = Medians()
        self._locality = Locality(policy.backends)
        self._facts = Facts({}, {}, {})
        self._looked = gevent.event.Event()  # set when all backends were asked for their models
        self._seen = Observations()
        self._handing_on = _handing_on(self.upstreams)
        self._seen_row = 0
        self._running = False
        self._reported: dict[str, Any] | None = None
        self._reported_ms = 0
        self._name = f"{socket.gethostname()}:{os.getpid()}"
        self._loops = (
            Loop("writing metrics", _FLUSH_S, lambda: self.metrics_thread.run(self.recorder.flush)),
            Loop("writing the log", _LOG_S, lambda: self.log_thread.run(logs.flush)),
            Loop("observing backends", _OBSERVE_S, self.read_latencies),
            Loop("discovering models", _DISCOVER_S, self._discover),
            Loop("summing up metrics", _CATCH_UP_S, self._catch_up),
            Loop("pruning metrics", _PRUNE_S, self._prune),
            Loop("storing responses", _STORE_S, lambda: self.state_thread.run(self.conversations.flush)),
            Loop("trimming conversations", _PRUNE_S, self._trim),
            Loop("reporting this worker", _REPORT_S, self._report),
            Loop("watching for disconnects", EVERY_S, self.disconnects.sweep),
        )

    # --- what requests use ---

    def observations(self) -> Observations:
        """What we believe now: background facts, and this worker's circuits as of this moment."""
        facts, local, unhealthy = self._facts, self._locality.local, self.circuits.unhealthy()
        seen = self._seen
        same = seen.latency_ms is facts.latency_ms and seen.models is facts.models and seen.local is local
        same = same and all(seen.model_hosts.get(name) is backend.model_hosts for name, backend in self._handing_on)
        if not same or seen.unhealthy != unhealthy:
            seen = Observations(
                latency_ms=facts.latency_ms,
                unhealthy=unhealthy,
                local=local,
                models=facts.models,
                model_hosts={n: hosts for n, b in self._handing_on if (hosts := b.model_hosts) is not None},
            )
            self._seen = seen  # the same object until something changes
        return seen

    def answers(self) -> Mapping[str, bool]:
        """Whether each local backend answered when it was last asked for its models; the others are not asked."""
        return self._facts.answers

    def claim_trial(self, target: Target) -> bool:
        return self._medians.claim_trial(target, now_ms())

    def record(self, call: CallRecord) -> None:
        """The one listener of finished calls."""
        self.circuits.note(call)
        self._medians.note(call)
        self.recorder.record(call)
        if not self._running:
            self.recorder.flush()
            self._facts = replace(self._facts, latency_ms=self._medians.current(now_ms()))

    def refused(self, error: RouterError) -> None:
        """Count the request that this error ends, if the request was refused before any call."""
        if error.refusal is not None:
            self.count_refusal(error.refusal)

    def count_refusal(self, code: str) -> None:
        """Count a request that was refused with `code`, which is a word of ours."""
        self.recorder.refuse(code, now_ms())
        if not self._running:
            self.recorder.flush()

    def read(self, query: Callable[..., Any], *arguments: Any) -> Any:
        """A store query, beside the event loop.  Raises StoreError."""
        return self.metrics_thread.run(query, *arguments)

    # --- life ---

    def start(self) -> None:
        self._running = True
        gc.freeze()  # what was loaded stays: looking through it again and again would stop every stream for 20 ms
        logs.let_wait(True)
        self.metrics_thread.start()
        self.state_thread.start()
        self.log_thread.start()
        self.shadow.start()
        for loop in self._loops:
            loop.start()
        self._looked.wait(_LOOK_S)

    def stop(self) -> None:
        """Writes every row that waits; tries for a few seconds when the database is busy."""
        if not self._running:
            return
        for loop in self._loops:
            loop.stop()
        self.shadow.stop()
        until = time.monotonic() + 5
        while not self.metrics_thread.run(self.recorder.flush) and time.monotonic() < until:
            gevent.sleep(0.1)
        try:
            self.metrics_thread.run(self.store.forget_worker, self._name)
        except StoreError as error:
            log.debug("worker report left behind: %s", error)
        self.metrics_thread.run(self.store.close)
        self.metrics_thread.stop()
        self.state_thread.run(self.conversations.close)
        self.state_thread.stop()
        self._running = False
        self.recorder.flush()  # rows of requests that ended meanwhile: a worker whose master died stops amid its work
        self.store.close()
        if self.recorder.queued:
            log.error("%d metrics rows could not be written and are lost", self.recorder.queued)
        if logs.has_room():  # else its thread may be waiting for a reader, for ever
            self.log_thread.stop()
        logs.let_wait(False)
        for upstream in self.upstreams.values():
            upstream.backend.close()

    # --- loops ---

    def read_latencies(self) -> None:
        """Brings the medians up to the calls in the database, those of other workers among them."""
        now = now_ms()
        try:
            self._seen_row, rows = self.metrics_thread.run(self.store.calls_after, self._seen_row, now - _HOUR_MS)
        except StoreError:
            rows = []  # this worker's own calls still count; the writer says what is wrong
        for row in rows:
            ttfb = row.ttfb_ms if row.stream else None
            self._medians.add(row.request_id or f"row {row.id}", row.ts, (row.backend, row.model), row.latency_ms, ttfb)
        self._facts = replace(self._facts, latency_ms=self._medians.current(now))

    def look_up_names(self, resolve: Callable[[str], list[str]]) -> None:
        """Resolves the hosts of backends whose locality depends on it.  Blocks."""
        self._locality.refresh(resolve)

    def _discover(self) -> None:
        """Asks all at once: one that hangs keeps nobody from learning the models of the others."""
        self.look_up_names(resolve)
        ask = asked({name: upstream.backend for name, upstream in self.upstreams.items()}, self._locality.local)
        answers = {name: answer for name, answer in self._facts.answers.items() if name in ask}
        self._facts = replace(self._facts, answers=answers)
        gevent.joinall([gevent.spawn(self._ask_for_models, name) for name in ask])
        self._looked.set()

    def _ask_for_models(self, name: str) -> None:
        found = None
        with gevent.Timeout(_TELL_S, False):
            found = models_of(self.upstreams[name].backend)
        facts = self._facts
        models = facts.models if found is None else {**facts.models, name: found}
        self._facts = replace(facts, models=models, answers={**facts.answers, name: found is not None})

    def _catch_up(self) -> None:
        try:
            while self.metrics_thread.run(self.store.catch_up):
                gevent.sleep(0.05)
        except StoreError as error:
            log.debug("summing up waits: %s", error)

    def _prune(self) -> None:
        before = now_ms() - int(self.settings.retention_days * 86_400_000)
        try:
            while self.metrics_thread.run(self.store.catch_up):
                gevent.sleep(0.05)
            while self.metrics_thread.run(self.store.prune, before):
                gevent.sleep(0.05)
        except StoreError as error:
            log.debug("pruning waits: %s", error)

    def _trim(self) -> None:
        try:
            while self.state_thread.run(self.conversations.trim):
                gevent.sleep(0.05)
        except StoreError as error:
            log.debug("trimming waits: %s", error)

    def _report(self) -> None:
        """Publishes what this worker has under way, when it changed or its last report grows old."""
        document, now = self.report(), now_ms()
        if document == self._reported and abs(now - self._reported_ms) < WORKER_STALE_MS / 2:
            return
        try:
            self.metrics_thread.run(self.store.report_worker, self._name, now, document)
        except StoreError as error:
            self.recorder.cannot_write(error)  # so the log says it of a router that nobody has asked anything, too
            return
        self._reported, self._reported_ms = document, now

    def report(self) -> dict[str, Any]:
        """What this worker says of itself."""
        states, closed = self.circuits.states(), CircuitState.CLOSED
        return {
            "in_flight": {name: upstream.places.in_flight for name, upstream in self.upstreams.items()},
            "waiting": {name: upstream.places.waiting for name, upstream in self.upstreams.items()},
            "circuit_open": {name: int(states.get(name, closed) != closed) for name in self.upstreams},
            "queued": self.recorder.queued,
        }

    def workers(self) -> dict[str, dict[str, Any]]:
        """The reports of all workers heard of lately.  Raises StoreError."""
        if not self._running:
            return {self._name: self.report()}
        workers: dict[str, dict[str, Any]] = self.read(self.store.workers, now_ms(), WORKER_STALE_MS)
        return workers


def _handing_on(upstreams: Mapping[str, Upstream]) -> tuple[tuple[str, Backend], ...]:
    """The backends whose servers hand some models on to other hosts."""
    backends = ((name, upstream.backend) for name, upstream in upstreams.items())
    return tuple((name, backend) for name, backend in backends if backend.model_hosts is not None)


def _upstreams(backends: Mapping[str, Backend], environ: Mapping[str, str]) -> dict[str, Upstream]:
    fd = int(environ[PLACES_FD]) if PLACES_FD in environ else None
    return {
        name: Upstream(backend, Places(backend.config.max_concurrency, index * _PLACES_PER_BACKEND, fd))
        for index, (name, backend) in enumerate(backends.items())
    }

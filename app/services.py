"""Hold the services of one worker process.  factory.py creates them; background/life.py starts and stops the
background work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import ParamSpec, Protocol, TypeVar

from app.backends.base import Backend
from app.backends.reply import Stream, Whole
from app.background.disconnects import Disconnects
from app.background.thread import WorkerThread
from app.beliefs import Beliefs
from app.circuits import Circuits
from app.conversations import Conversations
from app.errors import RouterError
from app.metrics.recorder import Recorder
from app.metrics.servers import observed_rows
from app.metrics.store import Store
from app.places import Places
from app.progress import Progress
from app.routing.detect import Detectors
from app.routing.expected import document, expected_time
from app.routing.names import model_for
from app.settings import Settings
from app.storage import now_ms
from app.tool_loops import ToolLoops
from app.types import (
    BackendConfig,
    CallRecord,
    CircuitState,
    JsonDict,
    Kind,
    Lane,
    Observations,
    Plan,
    Policy,
    Target,
    Why,
)

WORKER_STALE_MS = 10_000  # a worker without a report for this time has ended

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Upstream:
    """Hold one backend."""

    backend: Backend


class Shadows(Protocol):
    """Describe the maker of calls without a waiting client (background/shadows.py)."""

    def probe(self, plan: Plan, services: Services) -> None:
        """Measure a local primary that was skipped because it is slow, so that the router notices when it is fast
        again."""

    def samples(self, plan: Plan, target: Target, why: Why) -> bool:
        """Return True when the policy samples a live call to this target, whose reply has begun."""

    def offer(self, plan: Plan, call: CallRecord, reply: Whole | Stream, services: Services) -> None:
        """Repeat a sampled call with the A/B candidate when it succeeded, and compare the two answers."""

    def planned(self, plan: Plan, services: Services) -> Iterator[tuple[Target, Kind, float]]:
        """Return the additional calls of a request: target, kind, and the share of such requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """Hold everything that serves requests.  Before Background starts, rows are written when a call ends, and shadow
    calls run in the caller's greenlet."""

    settings: Settings
    policy: Policy
    detectors: Detectors
    upstreams: Mapping[str, Upstream]
    places: Places
    circuits: Circuits
    beliefs: Beliefs
    shadows: Shadows
    disconnects: Disconnects
    progress: Progress
    tool_loops: ToolLoops | None  # None: no route has `verify`
    store: Store
    recorder: Recorder
    conversations: Conversations
    metrics_thread: WorkerThread
    state_thread: WorkerThread  # for conversations: requests wait for them, but must not wait for a summary
    log_thread: WorkerThread  # standard error may be a pipe that no program reads
    started_at: float  # Unix s
    worker: str  # host:PID, the name of its reports

    def record(self, call: CallRecord) -> None:
        """Pass a finished call to the recorder, the circuits and the medians."""
        self.circuits.note(call)
        self.beliefs.note(call)
        self.recorder.note(call)

    def refused(self, error: RouterError) -> None:
        """Count the request of this error, if it was refused before any call."""
        if error.refusal is not None:
            self.recorder.refuse(error.refusal, now_ms())

    def count_refusal(self, code: str) -> None:
        """Count a request that was refused with `code`, one of the router's codes."""
        self.recorder.refuse(code, now_ms())

    def read(self, query: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        """Return the result of a query of the store, which runs in a worker thread.  Raise StoreError."""
        return self.metrics_thread.run(query, *arguments, **named)

    def report(self) -> JsonDict:
        """Return the report of this worker: its calls, circuits and queues."""
        states, closed = self.circuits.states(), CircuitState.CLOSED
        calls = {name: self.places.own(name) for name in self.upstreams}
        return {
            "in_flight": {name: in_flight for name, (in_flight, _) in calls.items()},
            "waiting": {name: dict(zip(Lane, waiting, strict=True)) for name, (_, waiting) in calls.items()},
            "circuit_open": {name: int(states.get(name, closed) != closed) for name in self.upstreams},
            "queued": self.recorder.queued,
            "models": {name: self._models(upstream.backend) for name, upstream in self.upstreams.items()},
        }

    def _models(self, backend: Backend) -> JsonDict:
        """Return the models of a backend as this worker sees them, and when the server was asked (Unix ms)."""
        config, observations = backend.config, self.beliefs.observations()
        names = (*config.models, *config.families.values())
        rows = observed_rows(
            names or (model_for(config, "any", observations),),
            backend.facts,
            backend.residency,
            backend.turnover,
            lambda model: _parts(Target(config.name, model), config, observations),
        )
        return {"asked_ms": round(backend.residency_at * 1000), "rows": list(rows)}

    def workers(self) -> dict[str, JsonDict]:
        """Return the latest reports of all workers.  Raises StoreError."""
        if self.recorder.immediate:
            return {self.worker: self.report()}
        return self.read(self.store.workers, now_ms(), WORKER_STALE_MS)


def _parts(target: Target, config: BackendConfig, observations: Observations) -> JsonDict:
    """Return the parts of the expected time of a call to a target, in ms."""
    return document(expected_time(target, config, observations))

"""Hold what one worker has learned about the backends, for decisions."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from app.backends.base import Backend
from app.background.thread import WorkerThread
from app.beliefs.escalations import DAY_MS, Escalations
from app.beliefs.local import LocalBackends
from app.beliefs.medians import Medians
from app.beliefs.share_events import ShareEvents
from app.beliefs.slow import budgets_of
from app.circuits import Circuits
from app.metrics.shares import RouteCount
from app.metrics.store import Store
from app.places import Places
from app.storage import StoreError, now_ms
from app.types import CallRecord, ModelFacts, Observations, Policy, Target, Timings

_HOUR_MS = 3_600_000


class Beliefs:
    """Hold the medians, the discovered models, the local backends, and the hosts that run models."""

    def __init__(
        self,
        policy: Policy,
        backends: Mapping[str, Backend],
        circuits: Circuits,
        places: Places,
        events: ShareEvents | None = None,
    ) -> None:
        """`events` are those that the workers share; None: this process is alone."""
        self.local = LocalBackends(policy.backends)
        self.answers: Mapping[str, bool] = {}  # backend -> it named its models when last asked; absent = never asked
        self.immediate = True  # True: no loop reads medians from the database, so each call counts at its end
        self._last_calls: dict[str, int] = {}  # backend -> ts_ms of the latest call, of all workers
        self._circuits = circuits
        self._places = places
        self._members = tuple({member for pool in policy.pools.values() for member in pool.members})
        self._medians = Medians(budgets_of(policy))
        self._timings = Timings()
        self._models: Mapping[str, tuple[str, ...]] = {}
        self._with_hosts = tuple((name, one) for name, one in backends.items() if one.model_hosts is not None)
        self._backends = tuple(backends.items())
        self._facts: Mapping[str, Mapping[str, ModelFacts]] = {}
        self._latest = Observations()
        self._escalations = Escalations(policy, events)
        self._last_row = 0  # id of the last row of the database in the medians
        self._last_count: int | None = None  # the same of the counts of escalations; None = none was read

    def observations(self) -> Observations:
        """Return the observations.  It is the same object until something changes."""
        latest, local, unhealthy = self._latest, self.local.names, self._circuits.unhealthy()
        facts, timings = self._latest_facts(), self._timings
        queues, busy = self._places.queues(), self._circuits.busy()
        in_flight = {name: self._places.in_flight(name) for name in self._members}
        is_same = latest.latency_ms is timings.warm_ms and latest.models is self._models and latest.local is local
        is_same = is_same and latest.unhealthy == unhealthy and latest.facts is facts
        is_same = is_same and latest.queues == queues and latest.in_flight == in_flight
        is_same = is_same and latest.busy == busy and latest.spent is self._escalations.spent
        if is_same and (not self._with_hosts or self._hosts_are(latest.model_hosts)):
            return latest
        self._latest = Observations(
            latency_ms=timings.warm_ms,
            load_ms=timings.load_ms,
            hold_ms=timings.hold_ms,
            slow=timings.slow,
            facts=facts,
            queues=queues,
            in_flight=in_flight,
            busy=busy,
            unhealthy=unhealthy,
            spent=self._escalations.spent,
            local=local,
            models=self._models,
            model_hosts={name: hosts for name, one in self._with_hosts if (hosts := one.model_hosts) is not None},
        )
        return self._latest

    def _latest_facts(self) -> Mapping[str, Mapping[str, ModelFacts]]:
        """Return the facts of all backends.  It is the same object until a fact changes."""
        facts = self._facts
        if any(facts.get(name, backend.facts) is not backend.facts for name, backend in self._backends) or not facts:
            self._facts = facts = {name: backend.facts for name, backend in self._backends}
        return facts

    def _hosts_are(self, model_hosts: Mapping[str, Mapping[str, str]]) -> bool:
        return all(model_hosts.get(name) is backend.model_hosts for name, backend in self._with_hosts)

    def note(self, call: CallRecord) -> None:
        """Add the latency of a call of this worker."""
        self._last_calls[call.target.backend] = call.times.ts_ms
        self._medians.note(call)
        if self.immediate:
            self._renew_timings(now_ms())

    def _renew_timings(self, now_ms: int) -> None:
        """Replace the timings when one has changed: until then the observations stay the same object."""
        timings = self._medians.current(now_ms)
        if timings != self._timings:
            self._timings = timings

    def was_called_since(self, backend: str, ts_ms: int) -> bool:
        """Return True when a call of any worker to a backend has ended since then."""
        return self._last_calls.get(backend, 0) >= ts_ms

    def claim_measurement(self, target: Target) -> bool:
        """Return whether this request may measure a primary that is being skipped."""
        return self._medians.claim_measurement(target, now_ms())

    def begin_verification(self, route: str, request_id: str) -> None:
        """Count a request whose answer is judged."""
        self._escalations.begin(route, request_id, now_ms())

    def claim_escalation(self, route: str, request_id: str) -> bool:
        """Return True when a request may be escalated: the `dailyShare` of its route is not used up.  A new worker
        waits for the counts of the last day."""
        is_known = self.immediate or self._escalations.is_read
        return is_known and self._escalations.claim(route, request_id, now_ms())

    def withdraw_escalation(self, route: str, request_id: str) -> None:
        """Count a request as not escalated: no stronger target has answered."""
        self._escalations.withdraw(route, request_id, now_ms())

    def count_escalations(self, store: Store, thread: WorkerThread) -> None:
        """Add the new calls in the database to the counts of escalations, also those of other workers."""
        now, routes = now_ms(), self._escalations.routes
        rows: list[RouteCount] = []
        if not routes:
            return
        with contextlib.suppress(StoreError):  # this worker's own requests still count
            self._last_count, rows = thread.run(store.counts_after, self._last_count, now - DAY_MS, routes)
        self._escalations.read(rows, now)

    def read_calls(self, store: Store, thread: WorkerThread) -> None:
        """Add the new calls in the database to the medians, also those of other workers."""
        now = now_ms()
        with contextlib.suppress(StoreError):  # this worker's own calls still count; the writer logs the problem
            self._last_row, rows = thread.run(store.calls_after, self._last_row, now - _HOUR_MS)
            self._medians.read(rows)
            self._last_calls |= {row.backend: max(row.ts, self._last_calls.get(row.backend, 0)) for row in rows}
        self._renew_timings(now)

    def learn_models(self, backend: str, models: tuple[str, ...] | None) -> None:
        """Store the models that a backend named; None when it did not name them."""
        self.answers = {**self.answers, backend: models is not None}
        if models is not None:
            self._models = {**self._models, backend: models}

    def forget_answers(self, backends: Mapping[str, Backend]) -> None:
        """Remove the answers of backends that are no longer asked."""
        self.answers = {name: answer for name, answer in self.answers.items() if name in backends}

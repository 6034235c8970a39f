"""Mirrored calls: A/B samples to a candidate, and measuring a local primary that is being skipped.

Both are buffered, in the background, bounded, and dropped when busy.  The privacy gate is the dispatcher's, the
same as for live calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent.pool

from app.dispatch import Call, Dispatcher, call_target
from app.errors import BackendError
from app.routing.locality import is_local
from app.routing.names import model_for
from app.types import (
    ABTest,
    CallRecord,
    ChatRequest,
    Classification,
    Decision,
    Kind,
    Outcome,
    Policy,
    Reason,
    Target,
    Why,
)

_AT_ONCE = 4
_MEASURE_EVERY_S = 2.0


class Shadow:
    def __init__(
        self,
        policy: Policy,
        via: Dispatcher,
        random: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`random` gives numbers from 0 to 1, `clock` monotonic seconds."""
        self._ab: ABTest = policy.ab
        self._policy = policy
        self._via = via
        self._random = random
        self._clock = clock
        self._pool: gevent.pool.Pool | None = None  # None = in place (unstarted)
        self._measuring: dict[str, float] = {}  # backend -> monotonic s when its last measurement began
        self._busy: set[str] = set()  # backends being measured now
        self.dropped = 0  # samples not mirrored because the pool was busy

    def start(self) -> None:
        self._pool = gevent.pool.Pool(_AT_ONCE)

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.kill()
            self._pool = None

    def offer(self, request: ChatRequest, tags: Classification, decision: Decision, call: CallRecord) -> None:
        """After a live call: mirrors it when it is one that the policy samples."""
        if not self._ab.enabled or call.target.backend not in self._ab.candidates:
            return
        if call.ending.outcome != Outcome.OK or call.kind != Kind.LIVE or call.target.backend != decision.primary:
            return
        if self._random() >= self._ab.sample_rate:
            return
        target = self.candidate(tags, decision)
        if target is not None:
            self._run(self._mirror, request, tags, decision, target, Kind.SHADOW, call.times.ts_ms)

    def candidate(self, tags: Classification, decision: Decision) -> Target | None:
        """Who gets a sample of what the primary answers; None when nobody does, or may."""
        name = self._ab.candidates.get(decision.primary) if self._ab.enabled else None
        if name is None:
            return None
        config, observations = self._policy.backends[name], self._via.observations()
        target = Target(name, model_for(config, tags.family, observations))
        window = config.context_window(target.model)
        fits = window is None or tags.tokens <= window
        may = not decision.private or is_local(target, observations)
        return target if target.model and fits and may else None

    def planned(
        self, request: ChatRequest, tags: Classification, decision: Decision
    ) -> Iterator[tuple[Target, Kind, float]]:
        """Return the calls that would be made beside a request: target, kind, share of such requests."""
        if decision.skipped is not None:
            yield decision.skipped, Kind.PROBE, 1.0
        sampled = self.candidate(tags, decision) if request.continues is None and self._ab.sample_rate else None
        if sampled is not None and any(target.backend == decision.primary for target in decision.targets):
            yield sampled, Kind.SHADOW, self._ab.sample_rate

    def measure(self, request: ChatRequest, tags: Classification, decision: Decision) -> None:
        """Mirrors a request to a local primary that was passed over, so that its recovery is noticed."""
        target = decision.skipped
        if target is None or target.backend in self._busy:
            return
        now = self._clock()
        if now - self._measuring.get(target.backend, -_MEASURE_EVERY_S) < _MEASURE_EVERY_S:
            return
        self._measuring[target.backend] = now
        self._run(self._measure, request, tags, decision, target)

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        if self._pool is None:
            work(*arguments)
        elif self._pool.free_count() > 0:
            self._pool.spawn(work, *arguments)
        else:
            self.dropped += 1

    def _measure(self, request: ChatRequest, tags: Classification, decision: Decision, target: Target) -> None:
        self._busy.add(target.backend)
        try:
            self._mirror(request, tags, decision, target, Kind.PROBE)
        finally:
            self._busy.discard(target.backend)

    def _mirror(
        self,
        request: ChatRequest,
        tags: Classification,
        decision: Decision,
        target: Target,
        kind: Kind,
        live_ts_ms: int | None = None,
    ) -> None:
        why = Why(
            route=decision.route,
            reason=Reason(kind),
            sensitivity_reason=request.private_because,
            live_ts_ms=live_ts_ms,
        )
        upstream = self._via.upstreams[target.backend]
        call = Call(request, target, why, upstream, self._via.record, kind=kind, tags=tags)
        try:
            answer = call_target(request, target, call, self._via, private=decision.private)
        except BackendError:
            return  # recorded by the call
        call.succeed(answer)

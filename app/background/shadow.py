"""Mirrored calls: A/B samples to a candidate, and measuring a local primary that is being skipped.

Both are buffered, in the background, bounded, and dropped when busy.  The privacy gate is the dispatcher's, the
same as for live calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent.pool

from app.dispatch import Call, Dispatcher, call_target
from app.errors import BackendError
from app.routing.decide import model_for
from app.routing.locality import is_local
from app.types import ABTest, CallRecord, ChatRequest, Classification, Decision, Policy, Target

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
        candidate = self._ab.candidates.get(call.backend) if self._ab.enabled else None
        if candidate is None or call.outcome != "ok" or call.kind != "live" or call.backend != decision.primary:
            return
        if self._random() >= self._ab.sample_rate:
            return
        observations = self._via.observations()
        config = self._policy.backends[candidate]
        target = Target(candidate, model_for(config, tags.family, observations))
        window = config.context_window(target.model)
        if not target.model or (window is not None and tags.tokens > window):
            return
        if decision.private and not is_local(target, observations):
            return
        self._run(self._mirror, request, tags, decision, target, "shadow")

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
            self._mirror(request, tags, decision, target, "probe")
        finally:
            self._busy.discard(target.backend)

    def _mirror(
        self, request: ChatRequest, tags: Classification, decision: Decision, target: Target, kind: str
    ) -> None:
        call = Call(request, tags, decision.route, target, self._via.upstreams[target.backend], kind, self._via.record)
        try:
            answer = call_target(request, target, call, self._via, private=decision.private)
        except BackendError:
            return  # recorded by the call
        call.finish("ok", answer)

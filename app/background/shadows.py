"""Make shadow calls and probes: calls without a waiting client.  A shadow call repeats a sample of the live calls
with the A/B candidate; a probe measures a local primary that is skipped because it is slow, when that loads no model.
Both are buffered and run in the background, in the last lane.  Their number is limited; when there are too many, new
ones are dropped.  Like live calls, they go through `dispatch`, and so through the privacy gate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import gevent.pool

from app.backends.reply import Stream, Whole
from app.background.comparison import Comparison
from app.call import Call
from app.errors import BackendError
from app.routing.capabilities import lacking
from app.routing.expected import expected_time
from app.routing.fit import too_long
from app.routing.locality import is_local
from app.routing.names import model_for
from app.services import Services
from app.types import CallRecord, ChatRequest, Kind, Lane, Outcome, Plan, Policy, Reason, Target, Verdict, Why
from app.wire.answer import Answer

_AT_ONCE = 4
_PROBE_EVERY_S = 2.0


class ShadowCalls:
    def __init__(
        self, policy: Policy, random: Callable[[], float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`random` returns numbers from 0 to 1, `clock` monotonic seconds."""
        self._policy = policy
        self._ab = policy.ab
        self._random = random
        self._clock = clock
        self._pool: gevent.pool.Pool | None = None  # None = calls run in the caller's greenlet (not started)
        self._probed_at: dict[str, float] = {}  # backend -> begin of its last probe, monotonic seconds
        self._probing: set[str] = set()  # backends being probed now

    def start(self) -> None:
        self._pool = gevent.pool.Pool(_AT_ONCE)

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.kill()
            self._pool = None

    def samples(self, plan: Plan, target: Target, why: Why) -> bool:
        """Return True when the policy samples a live call to this target.  It is asked before the first piece of a
        stream is read, because the answers of other calls are not collected."""
        if not self._ab.enabled or not _is_by_primary(target, why, plan) or _is_kept_elsewhere(plan):
            return False
        return target.backend in self._ab.candidates and self._random() < self._ab.sample_rate

    def offer(self, plan: Plan, call: CallRecord, reply: Whole | Stream, services: Services) -> None:
        """Repeat a sampled call with the A/B candidate when it succeeded, and compare the two answers."""
        target = self._candidate(call.target.backend, plan, services) if call.ending.outcome == Outcome.OK else None
        if target is not None and self._has_room:
            self._run(_repeat, plan, target, services, call.times.ts_ms, reply.answer)

    def _candidate(self, primary: str, plan: Plan, services: Services) -> Target | None:
        """Return the target of a shadow call; None when there is no candidate, or it must not get the request."""
        decision, tags = plan.decision, plan.tags
        name = self._ab.candidates.get(primary) if self._ab.enabled else None
        if name is None or tags is None:
            return None
        config, observations = self._policy.backends[name], services.beliefs.observations()
        target = Target(name, model_for(config, tags.family, observations))
        may = not decision.private or is_local(target, observations)
        needs = decision.basis.needs if decision.basis else frozenset()
        if not target.model or not may or lacking(target, needs, observations):
            return None
        return None if too_long(target, config, observations, tags.tokens, 0) else target

    def planned(self, plan: Plan, services: Services) -> Iterator[tuple[Target, Kind, float]]:
        """Return the additional calls of a request: target, kind, and the share of such requests."""
        decision = plan.decision
        if decision.skipped is not None:
            yield decision.skipped, Kind.PROBE, 1.0
        is_sampled = self._ab.sample_rate and not _is_kept_elsewhere(plan)
        sampled = self._candidate(decision.primary, plan, services) if is_sampled else None
        if sampled is not None and any(target.backend == decision.primary for target in decision.targets):
            yield sampled, Kind.SHADOW, self._ab.sample_rate

    def probe(self, plan: Plan, services: Services) -> None:
        """Measure a local primary that was skipped because it is slow, so that the router notices when it is fast
        again."""
        target = plan.decision.skipped
        if target is None or target.backend in self._probing:
            return
        now = self._clock()
        if now - self._probed_at.get(target.backend, -_PROBE_EVERY_S) < _PROBE_EVERY_S:
            return
        self._probed_at[target.backend] = now
        self._run(self._probe, plan, target, services)

    def _probe(self, plan: Plan, target: Target, services: Services) -> None:
        self._probing.add(target.backend)
        try:
            if _is_ready(target, services):
                _measure(plan, target, services)
        finally:
            self._probing.discard(target.backend)

    @property
    def _has_room(self) -> bool:
        return self._pool is None or self._pool.free_count() > 0

    def _run(self, work: Callable[..., None], *arguments: object) -> None:
        if self._pool is None:
            work(*arguments)
        elif self._has_room:
            self._pool.spawn(work, *arguments)


def _is_ready(target: Target, services: Services) -> bool:
    """Return True when a call would neither load a model nor wait for a place.  The server is asked anew, because facts
    can be a second old."""
    backend = services.upstreams[target.backend].backend
    try:
        backend.look()
    except BackendError:
        return False
    expected = expected_time(target, backend.config, services.beliefs.observations(), Lane.BACKGROUND)
    return not expected.is_cold and not expected.ahead


def _is_by_primary(target: Target, why: Why, plan: Plan) -> bool:
    """Return True for a call to the primary of the route.  Any member stands for its pool, until one failed."""
    primary = plan.decision.primary
    is_member = target.pool is not None and why.fallback_for is None
    return target.backend == primary or (
        is_member and any(one.backend == primary and one.pool == target.pool for one in plan.decision.targets)
    )


def _is_kept_elsewhere(plan: Plan) -> bool:
    """Return True when a backend stores the conversation: then no other backend has its history."""
    return not isinstance(plan.request, ChatRequest) or plan.request.continues is not None


def _measure(plan: Plan, target: Target, services: Services) -> None:
    call = Call(plan, (target,), _why(plan, Kind.PROBE), services, kind=Kind.PROBE)
    try:
        reply = call.make()
    except BackendError:
        return  # the call has its record
    call.end(reply)


def _repeat(plan: Plan, target: Target, services: Services, live_ts_ms: int, live: Answer | None) -> None:
    """Make a shadow call, and compare its answer with that of the live call."""
    call = Call(plan, (target,), _why(plan, Kind.SHADOW, live_ts_ms), services, kind=Kind.SHADOW)
    try:
        reply = call.make()
    except BackendError:
        return  # the call has its record
    call.complete(reply)
    call.end(reply, verdict=_verdict(plan, live, reply.answer))


def _verdict(plan: Plan, live: Answer | None, candidate: Answer | None) -> Verdict:
    """Return the verdict on the two answers; an empty one when an answer was too long to be judged."""
    if live is None or candidate is None or not isinstance(plan.request, ChatRequest):
        return Verdict()
    difficulty = plan.tags.difficulty if plan.tags else None
    return Comparison(plan.request.body.chat, live, candidate, difficulty).verdict()


def _why(plan: Plan, kind: Kind, live_ts_ms: int | None = None) -> Why:
    return Why(
        route=plan.decision.route,
        reason=Reason(kind),
        sensitivity_reason=plan.request.private_because,
        live_ts_ms=live_ts_ms,
    )

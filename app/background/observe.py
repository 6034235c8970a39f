"""What we believe about the backends now: live medians, what they hold, which of them are local."""

from __future__ import annotations

import logging
import socket
import statistics
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from app.backends.base import Backend
from app.errors import BackendError
from app.routing.locality import host_name, is_loopback_name, judge_config
from app.types import BackendConfig, CallRecord, Kind, Outcome, Target

log = logging.getLogger("llr.background")

_LATEST = 9  # calls a median is of: enough to be calm, few enough to follow a change within seconds
_ENOUGH = 5
_OLDEST_MS = 3_600_000
_AHEAD_MS = 60_000  # as far as clocks of machines differ; a call beyond it is of a time when a clock was wrong
_MOST_MODELS = 500
_TRIAL_EVERY_MS = 30_000

Model = tuple[str, str]  # backend, model


class Medians:
    """The latest successful calls per backend and model, this worker's and all others'."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Model, dict[str, tuple[int, float]]] = OrderedDict()  # request id -> (ts_ms, ms)
        self._trials: dict[Model, int] = {}  # ts_ms of the last trial this worker gave

    def note(self, call: CallRecord) -> None:
        """A call of this worker, at once."""
        if call.ending.outcome == Outcome.OK and call.kind in (Kind.LIVE, Kind.PROBE):
            target, times = call.target, call.times
            self.add(call.request_id, times.ts_ms, (target.backend, target.model), times.latency_ms, times.ttfb_ms)

    def add(self, request_id: str, ts_ms: int, model: Model, latency_ms: float, ttfb_ms: float | None) -> None:
        """Streams count by their first byte, buffered calls by their whole time.  A call seen twice counts once."""
        calls = self._calls.setdefault(model, {})
        self._calls.move_to_end(model)
        calls[request_id] = (ts_ms, latency_ms if ttfb_ms is None else ttfb_ms)
        if len(calls) > 2 * _LATEST:
            self._calls[model] = dict(sorted(calls.items(), key=lambda item: item[1][0])[-_LATEST:])
        if len(self._calls) > _MOST_MODELS:
            self._calls.popitem(last=False)

    def current(self, now_ms: int) -> dict[Model, float]:
        """Medians in ms, where there are enough recent calls.  Calls of the future are forgotten: they would be the
        latest for as long as it takes."""
        medians = {}
        for model, calls in self._calls.items():
            for request_id in [name for name, call in calls.items() if call[0] > now_ms + _AHEAD_MS]:
                del calls[request_id]
            recent = sorted(call for call in calls.values() if call[0] > now_ms - _OLDEST_MS)[-_LATEST:]
            if len(recent) >= _ENOUGH:
                medians[model] = statistics.median(ms for _, ms in recent)
        return medians

    def claim_trial(self, target: Target, now_ms: int) -> bool:
        """Lets one request in 30 s measure a primary that is being skipped.  Calls of other workers count too."""
        model = (target.backend, target.model)
        calls = self._calls.get(model, {})
        measured = [self._trials.get(model, 0), *(ts for ts, _ in calls.values())]
        if any(abs(now_ms - at) < _TRIAL_EVERY_MS for at in measured):  # what is far ahead says that a clock was set
            return False
        self._trials[model] = now_ms
        return True


class Locality:
    """Knows which backends are inside the operator's boundary.  Names are resolved again and again."""

    def __init__(self, configs: Mapping[str, BackendConfig]) -> None:
        self._configs = configs
        self.local = frozenset(name for name, config in configs.items() if config.local)

    def refresh(self, resolve: Callable[[str], Sequence[str]]) -> None:
        """Judge each backend anew.  What is found counts at once, loopback names first: a name that takes long to
        resolve delays no other backend."""
        before = self.local
        for name, config in sorted(self._configs.items(), key=lambda item: not _is_near(item[1])):
            addresses = resolve(host_name(config.endpoint)) if config.local is None else ()
            is_local = judge_config(config, addresses).local is True
            if is_local != (name in self.local):
                self.local ^= {name}
        if self.local != before:
            log.info("local backends now: %s", ", ".join(sorted(self.local)) or "none")


def _is_near(config: BackendConfig) -> bool:
    return is_loopback_name(host_name(config.endpoint))


def resolve(host: str) -> list[str]:
    """Addresses of a host; [] when it does not resolve.  Blocks."""
    try:
        return [str(found[4][0]) for found in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError):
        return []


def asked(backends: Mapping[str, Backend], local: frozenset[str]) -> dict[str, Backend]:
    """Those to ask for their models.  Hosted ones are not: that would be traffic nobody ordered."""
    return {name: backend for name, backend in backends.items() if name in local and not backend.hosted}


def models_of(backend: Backend) -> tuple[str, ...] | None:
    """The models that a backend holds; None when it does not tell."""
    try:
        return backend.discover()
    except BackendError as error:
        log.debug("%s: %s", backend.config.name, error.message)
        return None

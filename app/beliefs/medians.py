"""Compute live medians: the latency of the latest calls to each model."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Iterable

from app.metrics.queries import TimedCall
from app.types import CallRecord, Kind, Outcome, Target, Timings

_LATEST = 9  # calls of a median: enough to be stable, few enough to follow a change within seconds
_ENOUGH = 5
_OLDEST_MS = 3_600_000
_AHEAD_MS = 60_000  # the clocks of machines may differ by this; a later call was recorded while a clock was wrong
_MOST_MODELS = 500
_TRIAL_EVERY_MS = 30_000

Model = tuple[str, str]  # backend, model


class Medians:
    """Hold the latest successful calls of all workers, by backend and model."""

    def __init__(self) -> None:
        self._calls: OrderedDict[Model, dict[str, tuple[int, float]]] = OrderedDict()  # request id -> (ts_ms, ms)
        self._measurements: dict[Model, int] = {}  # ts_ms of the last measurement that this worker allowed

    def note(self, call: CallRecord) -> None:
        """Add a call of this worker, at once."""
        if call.ending.outcome == Outcome.OK and call.kind in (Kind.LIVE, Kind.PROBE):
            target, times = call.target, call.times
            self.add(call.request_id, times.ts_ms, (target.backend, target.model), times.latency_ms, times.ttfb_ms)

    def read(self, rows: Iterable[TimedCall]) -> None:
        """Add calls of all workers from the database."""
        for row in rows:
            ttfb = row.ttfb_ms if row.stream else None
            self.add(row.request_id or f"row {row.id}", row.ts, (row.backend, row.model), row.latency_ms, ttfb)

    def add(self, request_id: str, ts_ms: int, model: Model, latency_ms: float, ttfb_ms: float | None) -> None:
        """Add a call: a stream by the time to its first byte, a buffered call by its whole time.  A call that is
        added twice counts once."""
        calls = self._calls.setdefault(model, {})
        self._calls.move_to_end(model)
        calls[request_id] = (ts_ms, latency_ms if ttfb_ms is None else ttfb_ms)
        if len(calls) > 2 * _LATEST:
            self._calls[model] = dict(sorted(calls.items(), key=lambda item: item[1][0])[-_LATEST:])
        if len(self._calls) > _MOST_MODELS:
            self._calls.popitem(last=False)

    def current(self, now_ms: int) -> Timings:
        """Return the medians in ms of the targets with enough recent calls.  Calls from the future are removed,
        because they would be the latest until that time."""
        medians = {}
        for model, calls in self._calls.items():
            for request_id in [name for name, call in calls.items() if call[0] > now_ms + _AHEAD_MS]:
                del calls[request_id]
            recent = sorted(call for call in calls.values() if call[0] > now_ms - _OLDEST_MS)[-_LATEST:]
            if len(recent) >= _ENOUGH:
                medians[model] = statistics.median(ms for _, ms in recent)
        return Timings(warm_ms=medians)

    def claim_measurement(self, target: Target, now_ms: int) -> bool:
        """Return True when this request may measure a primary that is being skipped: one request in 30 s may.  Calls
        of other workers count too."""
        model = (target.backend, target.model)
        calls = self._calls.get(model, {})
        measured = [self._measurements.get(model, 0), *(ts for ts, _ in calls.values())]
        if any(
            abs(now_ms - at) < _TRIAL_EVERY_MS for at in measured
        ):  # a time far in the future was recorded before a clock was corrected
            return False
        self._measurements[model] = now_ms
        return True

"""Compute live medians: the times of the latest calls to each model, apart for warm work, loads and held places."""

from __future__ import annotations

import statistics
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from app.beliefs.slow import ENOUGH, LATEST, OLDEST_MS, Budgets, Model, SlowFlags
from app.metrics.queries import TimedCall
from app.types import CallRecord, Kind, Outcome, Target, Times, Timings

_AHEAD_MS = 60_000  # the clocks of machines may differ by this; a later call was recorded while a clock was wrong
_SAME_LOAD_MS = 1000  # calls that wait for one load end their wait within this time
_MOST_MODELS = 500
_TRIAL_EVERY_MS = 30_000


class _Call(NamedTuple):
    ts_ms: int
    warm_ms: float
    hold_ms: float  # a place was taken for so long


@dataclass(slots=True)
class _Calls:
    """Hold the latest calls to one model."""

    calls: dict[str, _Call] = field(default_factory=dict)  # by request id
    loads: dict[int, float] = field(default_factory=dict)  # end of a load (Unix ms) -> its ms

    def add_load(self, end_ms: int, load_ms: float) -> None:
        """Add a load.  Of the calls that wait for one load, the first one tells its whole time."""
        for other_ms in self.loads:
            if abs(end_ms - other_ms) < _SAME_LOAD_MS:
                self.loads[other_ms] = max(self.loads[other_ms], load_ms)
                return
        self.loads[end_ms] = load_ms
        if len(self.loads) > LATEST:
            del self.loads[min(self.loads)]

    def forget_after(self, ts_ms: int) -> None:
        """Forget calls and loads of a later time: they would be the latest until then."""
        for name in [name for name, call in self.calls.items() if call.ts_ms > ts_ms]:
            del self.calls[name]
        for end_ms in [end_ms for end_ms in self.loads if end_ms > ts_ms]:
            del self.loads[end_ms]


class Medians:
    """Hold the latest successful calls of all workers, by backend and model."""

    def __init__(self, budgets: Budgets | None = None) -> None:
        """`budgets` are those of the routes, for the flags of Timings."""
        self._models: OrderedDict[Model, _Calls] = OrderedDict()
        self._slow = SlowFlags(budgets or {})
        self._measurements: dict[Model, int] = {}  # ts_ms of the last measurement that this worker allowed

    def note(self, call: CallRecord) -> None:
        """Add a call of this worker, at once.  The flags wait for its row."""
        if call.ending.outcome == Outcome.OK and call.kind in (Kind.LIVE, Kind.PROBE):
            self.add(call.request_id, (call.target.backend, call.target.model), call.times)

    def read(self, rows: Iterable[TimedCall]) -> None:
        """Add calls of all workers from the database, in the order of their ids."""
        for row in rows:
            ttfb_ms, model = row.ttfb_ms if row.stream else None, (row.backend, row.model)
            times = Times(
                ts_ms=row.ts, latency_ms=row.latency_ms, ttfb_ms=ttfb_ms, wait_ms=row.wait_ms, load_ms=row.load_ms
            )
            warm_ms = self.add(row.request_id or f"row {row.id}", model, times)
            if warm_ms is not None:
                self._slow.read(row.id, row.ts, model, warm_ms)

    def add(self, request_id: str, model: Model, times: Times) -> float | None:
        """Add a call, and return its warm time: of a stream to its first byte, else the whole time, without the wait
        for a place and the load.  A call that is added twice counts once.  A call that loaded its model for an unknown
        time does not count, because its warm time is unknown: return None."""
        if times.load_ms == 0:
            return None
        calls = self._models.setdefault(model, _Calls())
        self._models.move_to_end(model)
        if len(self._models) > _MOST_MODELS:
            self._models.popitem(last=False)
        wait_ms, load_ms = times.wait_ms or 0, times.load_ms or 0
        if load_ms:
            calls.add_load(times.ts_ms - times.latency_ms + wait_ms + load_ms, load_ms)
        first_ms = times.latency_ms if times.ttfb_ms is None else times.ttfb_ms
        warm_ms = max(0, first_ms - wait_ms - load_ms)
        calls.calls[request_id] = _Call(times.ts_ms, warm_ms, max(0, times.latency_ms - wait_ms - load_ms))
        if len(calls.calls) > 2 * LATEST:
            calls.calls = dict(sorted(calls.calls.items(), key=lambda item: item[1])[-LATEST:])
        return warm_ms

    def current(self, now_ms: int) -> Timings:
        """Return the medians in ms.  A warm median needs some calls of the last hour: until then the policy's `p50Ms`
        is used.  For loads and held places nothing else is known, so one is enough, and loads are rare, so an old one
        counts too."""
        warm, hold, load = {}, {}, {}
        for model, calls in self._models.items():
            calls.forget_after(now_ms + _AHEAD_MS)
            recent = sorted(call for call in calls.calls.values() if call.ts_ms > now_ms - OLDEST_MS)[-LATEST:]
            if len(recent) >= ENOUGH:
                warm[model] = statistics.median(call.warm_ms for call in recent)
            if recent:
                hold[model] = statistics.median(call.hold_ms for call in recent)
            if calls.loads:
                load[model] = statistics.median(calls.loads.values())
        return Timings(warm_ms=warm, load_ms=load, hold_ms=hold, slow=dict(self._slow.current(now_ms)))

    def claim_measurement(self, target: Target, now_ms: int) -> bool:
        """Return True when this request may measure a primary that is being skipped: one request in 30 s may.  Calls
        of other workers count too."""
        model = (target.backend, target.model)
        calls = self._models[model].calls if model in self._models else {}
        measured = [self._measurements.get(model, 0), *(call.ts_ms for call in calls.values())]
        if any(
            abs(now_ms - at) < _TRIAL_EVERY_MS for at in measured
        ):  # a time far in the future was recorded before a clock was corrected
            return False
        self._measurements[model] = now_ms
        return True

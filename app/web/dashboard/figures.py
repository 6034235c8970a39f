"""Make the figures and charts of the page.  Pure, except for `gather`, which reads the database."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.metrics.aggregates import Aggregate, merged
from app.metrics.queries import ShownCall
from app.metrics.report import read_summary
from app.metrics.rollup import BUCKET_S
from app.metrics.store import Store
from app.metrics.summary import ab_report, metrics_summary, overview
from app.metrics.window import Steps
from app.routing.locality import is_local
from app.types import JsonDict, JsonObject, Observations, Policy, Target
from app.web.dashboard.charts import Chart, Series, bars, lines

WINDOWS = ((1.0, "1 hour"), (24.0, "24 hours"), (168.0, "7 days"))
_LATEST = 25  # calls that the page lists
_MOST_STEPS = 60  # of a chart
_STEPS_S = tuple(BUCKET_S * times for times in (1, 6, 18, 36, 72, 144, 432, 1008))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """Hold the numbers of one reading of the database."""

    summary: JsonObject  # as /v1/metrics
    ab: JsonObject  # as /v1/ab
    steps: Steps
    latest: Sequence[ShownCall]  # newest first


def gather(
    store: Store,
    policy: Policy,
    observations: Observations,
    workers: Mapping[str, JsonObject],
    hours: float,
    now_ms: int,
) -> Figures:
    """Read the figures of the last `hours`; `workers` has the reports of the workers.  This blocks.  Raises
    StoreError."""
    summary, steps = read_summary(store, policy, observations, workers, hours, now_ms, step_s(hours))
    pairs = store.pairs(now_ms - int(hours * 3_600_000))
    return Figures(
        summary=summary,
        ab=ab_report(pairs, policy.ab, hours, policy.echoes),
        steps=steps,
        latest=store.latest(_LATEST),
    )


def empty(policy: Policy, observations: Observations, hours: float) -> Figures:
    """Return figures without numbers, for a database that cannot be read."""
    counts: JsonDict = {"database": None, "rows_since": None, "servers": [], "refusals": {}, "rows_dropped": None}
    summary = metrics_summary({}, hours, {**overview({}, policy, observations), **counts})
    return Figures(summary=summary, ab=ab_report((), policy.ab, hours, policy.echoes), steps={}, latest=())


def step_s(hours: float) -> int:
    """Return the length of a step, of which a window has about 60 at most."""
    return next((step for step in _STEPS_S if hours * 3600 / step <= _MOST_STEPS), _STEPS_S[-1])


@dataclass(frozen=True, slots=True)
class Moment:
    """Hold one step of the charts."""

    time: str
    local: int  # successful calls to local backends
    remote: int  # successful calls to other backends
    failed: int
    latency: tuple[float | None, float | None]  # p50 and p95, ms
    ttfb: tuple[float | None, float | None]


def moments(steps: Steps, observations: Observations, hours: float, now_ms: int) -> list[Moment]:
    """Return every step of the window, also steps without calls."""
    step = step_s(hours)
    now_s = now_ms // 1000
    first = int(now_s - hours * 3600) // step * step
    return [_moment(at, steps.get(at, {}), observations, hours) for at in range(first, now_s + 1, step)]


def _moment(at_s: int, models: Mapping[tuple[str, str], Aggregate], observations: Observations, hours: float) -> Moment:
    total = merged(models.values())
    local = merged(calls for name, calls in models.items() if is_local(Target(*name), observations)).successes
    return Moment(
        time=time.strftime("%H:%M" if hours <= 24 else "%a %H:%M" if hours <= 168 else "%d %b", time.localtime(at_s)),
        local=local,
        remote=total.successes - local,
        failed=total.calls - total.cancelled - total.successes,
        latency=(total.latency.percentile(0.5), total.latency.percentile(0.95)),
        ttfb=(total.ttfb.percentile(0.5), total.ttfb.percentile(0.95)),
    )


def charts(steps: Sequence[Moment]) -> tuple[Chart, ...]:
    """Return the charts of these steps."""
    times = [moment.time for moment in steps]
    calls = (
        Series("local", "home", [moment.local for moment in steps]),
        Series("not local", "away", [moment.remote for moment in steps]),
        Series("failed", "bad", [moment.failed for moment in steps]),
    )
    return (
        bars("Calls by result", calls, times),
        lines("Latency of whole calls", _percentiles([moment.latency for moment in steps]), times),
        lines("Time to the first byte of streams", _percentiles([moment.ttfb for moment in steps]), times),
    )


def _percentiles(pairs: Sequence[tuple[float | None, float | None]]) -> tuple[Series, Series]:
    return Series("p50", "p50", [pair[0] for pair in pairs]), Series("p95", "p95", [pair[1] for pair in pairs])

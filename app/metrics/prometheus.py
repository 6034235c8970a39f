"""Write the totals of the store in Prometheus' text format, for `/metrics`.

prometheus_client's own multi-process mode is not used: the database already joins the workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from app.metrics.aggregates import BOUNDS_MS, Aggregate, Key, Spread, merged
from app.metrics.summary import PAID, by_backend
from app.types import JsonObject, Kind

_LE_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Hold all that is exported.  It comes from the database alone, so that every worker exports the same."""

    totals: Mapping[Key, Aggregate]  # of all time: they never fall; none while rows of a backlog are missing in them
    last_day: Mapping[Key, Aggregate]  # none while rows of a backlog are missing in them
    workers: Mapping[str, JsonObject]  # the reports of the workers
    dropped: int
    refusals: Mapping[str, int] = field(default_factory=dict)  # by code, of all time
    unsummed: int = 0  # rows of the backlog
    servers: Sequence[JsonObject] = ()  # the state of the backends, joined from the reports


_COUNTERS: tuple[tuple[str, str, Callable[[Aggregate], float]], ...] = (
    ("llr_backend_calls", "Live calls to a backend.", lambda calls: calls.calls),
    ("llr_backend_success", "Live calls that succeeded.", lambda calls: calls.successes),
    ("llr_backend_cancelled", "Live calls whose client disconnected.", lambda calls: calls.cancelled),
    ("llr_backend_fallback", "Live calls that stood in for another backend.", lambda calls: calls.fallbacks),
    (
        "llr_backend_spill",
        "Requests that went there first, because the route's first backend was too slow or its circuit open.",
        lambda calls: calls.spills,
    ),
    ("llr_backend_input_tokens", "Input tokens, where the backend reports them.", lambda calls: calls.input_tokens),
    ("llr_backend_output_tokens", "Output tokens, where the backend reports them.", lambda calls: calls.output_tokens),
)
_GAUGES: tuple[tuple[str, str, Callable[[Aggregate], float | None]], ...] = (
    (
        "llr_backend_latency_avg_ms",
        "Average latency of the last 24 hours.",
        lambda calls: calls.latency.average,
    ),
    (
        "llr_backend_latency_p95_ms",
        "95th percentile of the last 24 hours.",
        lambda calls: calls.latency.percentile(0.95),
    ),
    (
        "llr_backend_wait_p50_ms",
        "Median wait of the calls that waited for a place, of the last 24 hours.",
        lambda calls: calls.wait.percentile(0.5),
    ),
    (
        "llr_backend_load_p50_ms",
        "Median wait of the calls that waited for a model to load, of the last 24 hours.",
        lambda calls: calls.load.percentile(0.5),
    ),
)
_HISTOGRAMS: tuple[tuple[str, str, Callable[[Aggregate], Spread]], ...] = (
    ("llr_backend_latency_seconds", "Latency of whole live calls.", lambda calls: calls.latency),
    ("llr_backend_ttfb_seconds", "Time to the first byte of live streams.", lambda calls: calls.ttfb),
    ("llr_backend_wait_seconds", "Wait of live calls for a place.", lambda calls: calls.wait),
    ("llr_backend_load_seconds", "Wait of live calls for a model to load.", lambda calls: calls.load),
)
_WORKER_GAUGES = (
    ("llr_backend_in_flight", "Calls to a backend under way.", "in_flight"),
    ("llr_backend_circuit_open", "Workers whose circuit for a backend is not closed.", "circuit_open"),
)
# name, text, value of a model's row; None = the series is absent
_MODEL_GAUGES: tuple[tuple[str, str, Callable[[JsonObject], float | None]], ...] = (
    ("llr_model_loaded", "1 while the model is loaded, else 0.", lambda row: row["loaded"]),
    ("llr_model_window_tokens", "Context window of the model.", lambda row: row["window"]),
    ("llr_model_trained_tokens", "Context window that the model was trained for.", lambda row: row["trained"]),
    ("llr_model_gpu_share", "Share of the loaded model that is on the GPU.", lambda row: row["gpu_share"]),
    ("llr_model_expires_seconds", "Time until the model is unloaded.", lambda row: row["expires_in_s"]),
    ("llr_model_warm_ms", "Median time of the latest warm calls.", lambda row: row["expected"].get("warm_ms")),
    (
        "llr_model_load_ms",
        "Expected time to load the model, 0 while loaded.",
        lambda row: row["expected"].get("load_ms"),
    ),
)
_MODEL_COUNTERS = (
    ("llr_model_loads", "Loads of the model that a worker has seen since it started.", "loads"),
    ("llr_model_evictions", "Evictions of the model that a worker has seen since it started.", "evictions"),
)


class _Collector:
    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterator[Metric]:
        totals, last_day = by_backend(self._snapshot.totals, Kind.LIVE), by_backend(self._snapshot.last_day, Kind.LIVE)
        for name, text, read in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["backend"])
            for backend, aggregate in sorted(totals.items()):
                counter.add_metric([backend], read(aggregate))
            yield counter
        for name, text, value in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["backend"])
            for backend, aggregate in sorted(last_day.items()):
                if (number := value(aggregate)) is not None:
                    gauge.add_metric([backend], number)
            yield gauge
        for name, text, spread in _HISTOGRAMS:
            histogram = HistogramMetricFamily(name, text, labels=["backend"])
            for backend, aggregate in sorted(totals.items()):
                histogram.add_metric([backend], *_buckets(spread(aggregate)))
            yield histogram
        yield from self._costs()
        yield from self._judged()
        yield from self._others()

    def _costs(self) -> Iterator[Metric]:
        """Yield the cost of live calls and second opinions, and the calls that are not live."""
        totals = self._snapshot.totals
        paid, shadows, opinions = (by_backend(totals, *kinds) for kinds in (PAID, (Kind.SHADOW,), (Kind.VERIFY,)))
        for name, text, backends, read in (
            ("llr_backend_cost_usd", "USD, where price and tokens are known.", paid, lambda calls: calls.cost_usd),
            ("llr_backend_shadow_calls", "Shadow calls to a backend.", shadows, lambda calls: calls.calls),
            ("llr_backend_verify_calls", "Second opinions of a backend.", opinions, lambda calls: calls.calls),
        ):
            counter = CounterMetricFamily(name, text, labels=["backend"])
            for backend, aggregate in sorted(backends.items()):
                counter.add_metric([backend], read(aggregate))
            yield counter

    def _judged(self) -> Iterator[Metric]:
        routes = CounterMetricFamily("llr_route_calls", "Live calls by route.", labels=["route"])
        verified = CounterMetricFamily(
            "llr_verified", "Answers that were judged.", labels=["route", "verdict", "reason"]
        )
        held = HistogramMetricFamily(
            "llr_verified_held_seconds", "Time for which judged answers were held.", labels=["route"]
        )
        by_route, by_verdict, by_held = defaultdict(list), defaultdict(list), defaultdict(list)
        for key, aggregate in self._snapshot.totals.items():
            if key.kind == Kind.LIVE:
                route = key.route or "unknown"
                by_route[route].append(aggregate)
                if key.verified:
                    by_verdict[route, key.verified, key.verified_reason].append(aggregate)
                    by_held[route].append(aggregate)
        for route, aggregates in sorted(by_route.items()):
            routes.add_metric([route], merged(aggregates).calls)
        for labels, aggregates in sorted(by_verdict.items()):
            verified.add_metric(labels, merged(aggregates).calls)
        for route, aggregates in sorted(by_held.items()):
            held.add_metric([route], *_buckets(merged(aggregates).held))
        yield from (routes, verified, held)

    def _others(self) -> Iterable[Metric]:
        workers = self._snapshot.workers.values()
        for name, text, member in _WORKER_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["backend"])
            for backend in sorted({backend for worker in workers for backend in worker.get(member, {})}):
                gauge.add_metric([backend], sum(worker.get(member, {}).get(backend, 0) for worker in workers))
            yield gauge
        yield from self._servers()
        queued = sum(worker.get("queued", 0) for worker in workers)
        yield GaugeMetricFamily("llr_rows_queued", "Metrics rows waiting to be written.", queued)
        unsummed = "Rows that wait to be summed up after an upgrade; totals are left out until then."
        yield GaugeMetricFamily("llr_rows_unsummed", unsummed, self._snapshot.unsummed)
        reporting = "Worker processes that reported within ten seconds."
        yield GaugeMetricFamily("llr_workers", reporting, len(self._snapshot.workers))
        refusals = CounterMetricFamily("llr_refusals", "Requests refused before any call.", labels=["code"])
        for code, number in sorted(self._snapshot.refusals.items()):
            refusals.add_metric([code], number)
        yield refusals
        yield CounterMetricFamily("llr_rows_dropped", "Metrics rows lost to a full queue.", self._snapshot.dropped)

    def _servers(self) -> Iterator[Metric]:
        servers = self._snapshot.servers
        waiting = GaugeMetricFamily(
            "llr_backend_waiting", "Calls waiting for a place under maxConcurrency.", labels=["backend", "lane"]
        )
        for server in servers:
            for lane, number in server["waiting"].items():
                waiting.add_metric([server["backend"], lane], number)
        yield waiting
        models = [([server["backend"], row["model"]], row) for server in servers for row in server["models"]]
        for name, text, value in _MODEL_GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["backend", "model"])
            for labels, row in models:
                if (number := value(row)) is not None:
                    gauge.add_metric(labels, number)
            yield gauge
        for name, text, member in _MODEL_COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["backend", "model"])
            for labels, row in models:
                counter.add_metric(labels, row[member])
            yield counter


def _buckets(spread: Spread) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets at _LE_MS, and the sum in seconds."""

    numbers = list(accumulate(spread.bins))
    counts = [(f"{le / 1000:g}", float(numbers[BOUNDS_MS.index(le)])) for le in _LE_MS]
    return [*counts, ("+Inf", float(spread.count))], spread.total / 1000


def exposition(snapshot: Snapshot) -> bytes:
    """Return the text that Prometheus scrapes."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(snapshot))
    return generate_latest(registry)

"""Describe the servers as the workers see them now: their calls, queues and models.  Pure.

Each worker writes its view into its report (`observed_rows`).  A reader joins the reports of all workers (`servers`):
the calls of the workers add up, but all workers see the same models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from app.routing.locality import model_key
from app.types import JsonDict, JsonObject, Lane, ModelFacts, Residency, Turnover

MOST_MODELS = 50  # of one backend: a server can hold thousands, and the page and Prometheus list these
_MOST_COUNTED = 1000  # models of one backend whose counts are read, once a second in each worker
_LANES = tuple(lane.value for lane in Lane)
_NO_FACTS, _NO_RESIDENCY, _NO_TURNOVER = ModelFacts(), Residency(), Turnover()


def model_rows(
    names: Iterable[str], facts: Mapping[str, ModelFacts], residency: Mapping[str, Residency]
) -> Iterator[JsonDict]:
    """Yield what a server tells about its models: the loaded ones first, then those of `names`, MOST_MODELS at most."""
    by_key: dict[str, str] = {}
    for name in (*residency, *names):
        by_key.setdefault(model_key(name), name)
        if len(by_key) == MOST_MODELS:
            break
    loaded = {model_key(name): state for name, state in residency.items()}
    for key, name in by_key.items():
        fact, state = facts.get(key, _NO_FACTS), loaded.get(key, _NO_RESIDENCY)
        yield {
            "model": name,
            "loaded": True if key in loaded else fact.loaded,
            "window": state.window or fact.window,
            "trained": fact.trained,
            "size_bytes": state.size_bytes or fact.size_bytes,
            "gpu_share": gpu_share(state),
            "expires_ms": None if state.expires_at is None else round(state.expires_at * 1000),
            "capabilities": None if fact.capabilities is None else sorted(fact.capabilities),
        }


def is_described(row: JsonObject) -> bool:
    """Return True when the server told anything about a model, beside its name."""
    return any(row[member] is not None for member in ("loaded", "window", "trained", "size_bytes", "capabilities"))


def at(row: JsonObject, now_ms: int) -> JsonDict:
    """Return a row with the time until the model is unloaded, instead of the moment; None = it stays."""
    others = dict(row)
    expires_ms = others.pop("expires_ms")
    return {**others, "expires_in_s": None if expires_ms is None else max(0, round((expires_ms - now_ms) / 1000))}


def observed_rows(
    names: Iterable[str],
    facts: Mapping[str, ModelFacts],
    residency: Mapping[str, Residency],
    turnover: Mapping[str, Turnover],
    expected: Callable[[str], JsonObject],
) -> Iterator[JsonDict]:
    """Yield the rows of a worker's report: what the server tells, and what the worker saw.  `expected` returns the
    parts of the expected time of a call to a model."""
    counts = {model_key(name): count for name, count in islice(turnover.items(), _MOST_COUNTED)}
    for row in model_rows((*names, *turnover), facts, residency):
        count = counts.get(model_key(row["model"]), _NO_TURNOVER)
        yield {**row, "loads": count.loads, "evictions": count.evictions, "expected": expected(row["model"])}


def gpu_share(state: Residency) -> float | None:
    """Return the share of a loaded model that is on the GPU, 0 to 1; None = unknown."""
    if not state.size_bytes or state.gpu_bytes is None:
        return None
    return round(min(state.gpu_bytes / state.size_bytes, 1.0), 4)


def servers(backends: Iterable[str], reports: Sequence[JsonObject], now_ms: int) -> list[JsonDict]:
    """Return the state of each backend by the reports of all workers; an empty list when there is no report."""
    if not reports:
        return []
    return [
        {
            "backend": name,
            "in_flight": sum(report.get("in_flight", {}).get(name, 0) for report in reports),
            "waiting": _waiting(name, reports),
            "models": [at(row, now_ms) for row in _models(name, reports)],
        }
        for name in backends
    ]


def _waiting(name: str, reports: Sequence[JsonObject]) -> dict[str, int]:
    """Return the calls that wait for a place, by lane.  Workers of an older version report one number."""
    lanes = dict.fromkeys(_LANES, 0)
    for report in reports:
        waiting = report.get("waiting", {}).get(name, 0)
        for lane, number in waiting.items() if isinstance(waiting, Mapping) else ((_LANES[0], waiting),):
            lanes[lane] = lanes.get(lane, 0) + number
    return lanes


def _models(name: str, reports: Sequence[JsonObject]) -> list[JsonDict]:
    """Return the rows of the worker that asked the server last, with the counts of the worker that saw most."""
    views = [report["models"][name] for report in reports if name in report.get("models", {})]
    if not views:
        return []
    counts: dict[str, list[JsonObject]] = {}
    for row in (row for view in views for row in view["rows"]):
        counts.setdefault(row["model"], []).append(row)
    newest = max(views, key=lambda view: view["asked_ms"])
    return [
        {**row, **{count: max(one[count] for one in counts[row["model"]]) for count in ("loads", "evictions")}}
        for row in newest["rows"]
    ]

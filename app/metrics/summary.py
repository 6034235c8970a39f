"""Make the documents that operators read from aggregates.  Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TypeVar

from app.metrics.aggregates import Aggregate, Key, Spread, merged
from app.metrics.queries import Pair
from app.metrics.trial import compared
from app.routing.locality import is_local
from app.types import ABTest, JsonDict, JsonObject, Kind, Observations, Policy, Target
from app.words import plain_number, rounded

Name = TypeVar("Name", bound=Hashable)


def window_hours(raw: str | None) -> float:
    """Return `hours` of a query: 24 unless it is a finite number above zero; at most a year (8760)."""
    try:
        hours = float(raw or "")
    except ValueError:
        return 24.0
    return min(hours, 8760.0) if math.isfinite(hours) and hours > 0 else 24.0


def metrics_summary(aggregates: Mapping[Key, Aggregate], hours: float, extra: JsonObject) -> JsonDict:
    """Return the document of `/v1/metrics`.  Latencies in ms, cost in USD; null = unknown.  Only live calls count,
    except in `shadow_calls`."""
    live = _of_kind(aggregates, Kind.LIVE)
    backends = _merged_by(live, lambda key: key.backend)
    shadows = _merged_by(_of_kind(aggregates, Kind.SHADOW), lambda key: key.backend)
    routes = _merged_by(live, lambda key: key.route)
    models = _merged_by(live, lambda key: (key.backend, key.model))
    return {
        "window_hours": plain_number(hours),
        "backends": [
            {"backend": name, **_entry(backends.get(name, Aggregate())), "shadow_calls": _calls(shadows.get(name))}
            for name in sorted({*backends, *shadows})
        ],
        "routes": [{"route": name, **_entry(calls)} for name, calls in sorted(routes.items()) if name],
        "models": [
            {"backend": backend, "model": model, **_entry(calls)}
            for (backend, model), calls in sorted(models.items())
            if model
        ],
        **extra,
    }


def overview(aggregates: Mapping[Key, Aggregate], policy: Policy, observations: Observations) -> JsonDict:
    """Return `total` and `savings` of `/v1/metrics`: the figures over all backends."""
    live = _of_kind(aggregates, Kind.LIVE)
    backends, total = _merged_by(live, lambda key: key.backend), merged(live.values())
    local = merged(calls for key, calls in live.items() if is_local(Target(key.backend, key.model), observations))
    return {
        "total": {
            **_entry(total),
            "requests": total.requests,
            "spill_rate": round(total.spills / total.requests, 4) if total.requests else None,
            "local_share": round(local.successes / total.successes, 4) if total.successes else None,
            "counted_calls": total.counted,
            "unpriced": unpriced(backends),
        },
        "savings": savings(backends, policy),
    }


def unpriced(backends: Mapping[str, Aggregate]) -> list[str]:
    """Return the backends that have no price for tokens that they reported.  A failed call reports none."""
    return sorted(name for name, calls in backends.items() if calls.counted > calls.priced)


def savings(backends: Mapping[str, Aggregate], policy: Policy) -> JsonDict | None:
    """Return the cost of the same tokens at the backend that the policy compares with; None without one.

    Only calls whose tokens are known count.  `saved_usd` is null while a price that it needs is unknown."""
    if policy.savings_against is None:
        return None
    price = policy.backends[policy.savings_against].price
    total = merged(backends.values())
    without = unpriced(backends)
    cost = None if without else total.cost_usd
    there = None
    if price is not None:
        there = (total.input_tokens * price.input + total.output_tokens * price.output) / 1_000_000
    return {
        "against": policy.savings_against,
        "calls": total.calls,
        "counted_calls": total.counted,
        "there_usd": None if there is None else round(there, 6),
        "here_usd": None if cost is None else round(cost, 6),
        "saved_usd": None if there is None or cost is None else round(there - cost, 6),
        "unpriced": without,
    }


def ab_report(pairs: Iterable[Pair], ab: ABTest, hours: float, echoes: Collection[str] = ()) -> JsonDict:
    """Return the document of `/v1/ab`, which compares each primary with its candidate on the same requests.  `echoes`
    names the backends that are not models."""
    by_backends: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_backends[pair.live.backend, pair.shadow.backend].append(pair)
    return {
        "enabled": ab.enabled,
        "window_hours": plain_number(hours),
        "pairs": [compared(*names, by_backends.get(names, ()), echoes) for names in ab.candidates.items()],
    }


def _entry(aggregate: Aggregate) -> JsonDict:
    answered = aggregate.calls - aggregate.cancelled
    return {
        "calls": aggregate.calls,
        "successes": aggregate.successes,
        "success_rate": _success_rate(aggregate),
        "errors": answered - aggregate.successes,
        "cancelled": aggregate.cancelled,
        "fallbacks": aggregate.fallbacks,
        "fallback_rate": round(aggregate.fallbacks / aggregate.calls, 4) if aggregate.calls else None,
        "spills": aggregate.spills,
        "avg_latency": rounded(aggregate.latency.average),
        "p50_latency": rounded(aggregate.latency.percentile(0.5)),
        "p95_latency": rounded(aggregate.latency.percentile(0.95)),
        **_percentiles("ttfb", aggregate.ttfb),
        "waits": aggregate.wait.count,
        **_percentiles("wait", aggregate.wait),
        "load_waits": aggregate.load.count,
        **_percentiles("load", aggregate.load),
        "input_tokens": aggregate.input_tokens,
        "output_tokens": aggregate.output_tokens,
        "cost_usd": _cost(aggregate),
    }


def _cost(aggregate: Aggregate) -> float | None:
    """Return the USD of the calls whose cost is known.  The cost is 0 when all calls failed, and None when calls
    succeeded but no cost is known."""
    answers = aggregate.successes or aggregate.cancelled or aggregate.counted
    unknown = not aggregate.calls or (answers and not aggregate.priced)
    return None if unknown else round(aggregate.cost_usd, 6)


def _percentiles(name: str, spread: Spread) -> dict[str, float | None]:
    return {f"p50_{name}": rounded(spread.percentile(0.5)), f"p95_{name}": rounded(spread.percentile(0.95))}


def _success_rate(aggregate: Aggregate) -> float | None:
    """Return the share of the calls that were not cancelled by the client; None when there is none."""
    answered = aggregate.calls - aggregate.cancelled
    return round(aggregate.successes / answered, 4) if answered else None


def _of_kind(aggregates: Mapping[Key, Aggregate], kind: Kind) -> dict[Key, Aggregate]:
    return {key: calls for key, calls in aggregates.items() if key.kind == kind}


def _merged_by(aggregates: Mapping[Key, Aggregate], name: Callable[[Key], Name]) -> dict[Name, Aggregate]:
    """Add up aggregates whose keys have the same name."""
    groups: dict[Name, list[Aggregate]] = defaultdict(list)
    for key, aggregate in aggregates.items():
        groups[name(key)].append(aggregate)
    return {name: merged(group) for name, group in groups.items()}


def live_backends(aggregates: Mapping[Key, Aggregate]) -> dict[str, Aggregate]:
    """Add up the live calls of each backend."""
    return _merged_by(_of_kind(aggregates, Kind.LIVE), lambda key: key.backend)


def _calls(aggregate: Aggregate | None) -> int:
    return aggregate.calls if aggregate else 0

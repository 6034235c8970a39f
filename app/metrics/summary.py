"""Make the documents that operators read from aggregates.  Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping
from typing import TypeVar

from app.metrics.aggregates import Aggregate, Key, Spread, counted, merged
from app.metrics.judged import judged_report
from app.metrics.queries import Pair
from app.metrics.trial import compared
from app.routing.locality import is_local
from app.types import ABTest, JsonDict, JsonObject, Kind, Observations, Policy, Target
from app.words import plain_number, rounded

Name = TypeVar("Name", bound=Hashable)
PAID = (
    Kind.LIVE,
    Kind.VERIFY,
)  # the calls whose cost belongs to requests: a judged answer costs its second opinion too


def window_hours(raw: str | None) -> float:
    """Return `hours` of a query: 24 unless it is a finite number above zero; at most a year (8760)."""
    try:
        hours = float(raw or "")
    except ValueError:
        return 24.0
    return min(hours, 8760.0) if math.isfinite(hours) and hours > 0 else 24.0


def metrics_summary(aggregates: Mapping[Key, Aggregate], hours: float, extra: JsonObject) -> JsonDict:
    """Return the document of `/v1/metrics`.  Latencies in ms, cost in USD; null = unknown.  Only live calls count,
    except in `shadow_calls` and `second_opinions`.  The cost is that of live calls and of second opinions."""
    live, paid = _of_kind(aggregates, Kind.LIVE), _of_kind(aggregates, *PAID)
    of_backends, of_routes = _merged_by(live, _backend), _merged_by(live, _route)
    costs, route_costs = _counted_by(paid, _backend), _counted_by(paid, _route)
    models, model_costs = _merged_by(live, _model), _counted_by(paid, _model)
    shadows = _counted_by(_of_kind(aggregates, Kind.SHADOW), _backend)
    opinions = _counted_by(_of_kind(aggregates, Kind.VERIFY), _backend)
    aside = _counted_by(_set_aside(live), _route)
    return {
        "window_hours": plain_number(hours),
        "backends": [
            {
                "backend": name,
                **_entry(of_backends.get(name, Aggregate()), costs.get(name, Aggregate())),
                "shadow_calls": _calls(shadows.get(name)),
                "second_opinions": _calls(opinions.get(name)),
            }
            for name in sorted({*of_backends, *shadows, *opinions})
        ],
        "routes": [
            {"route": name, **_answers_entry(calls, route_costs[name], aside.get(name, Aggregate()))}
            for name, calls in sorted(of_routes.items())
            if name
        ],
        "models": [
            {"backend": name[0], "model": name[1], **_entry(calls, model_costs[name])}
            for name, calls in sorted(models.items())
            if name[1]
        ],
        **extra,
    }


def overview(aggregates: Mapping[Key, Aggregate], policy: Policy, observations: Observations) -> JsonDict:
    """Return `total`, `savings` and `verify` of `/v1/metrics`: the figures over all backends."""
    live, costs = _of_kind(aggregates, Kind.LIVE), _counted_by(_of_kind(aggregates, *PAID), _backend)
    total, aside, paid = merged(live.values()), counted(_set_aside(live).values()), counted(costs.values())
    answers = {key: calls for key, calls in live.items() if not key.is_set_aside}
    local = counted(calls for key, calls in answers.items() if is_local(Target(key.backend, key.model), observations))
    successes = total.successes - aside.successes
    return {
        "total": {
            **_answers_entry(total, paid, aside),
            "requests": total.requests,
            "spill_rate": round(total.spills / total.requests, 4) if total.requests else None,
            "local_share": round(local.successes / successes, 4) if successes else None,
            "counted_calls": total.counted,
            "unpriced": unpriced(costs),
        },
        "savings": savings(counted(answers.values()), costs, policy),
        "verify": judged_report(aggregates, policy),
    }


def unpriced(backends: Mapping[str, Aggregate]) -> list[str]:
    """Return the backends that have no price for tokens that they reported.  A failed call reports none."""
    return sorted(name for name, calls in backends.items() if calls.counted > calls.priced)


def savings(answers: Aggregate, costs: Mapping[str, Aggregate], policy: Policy) -> JsonDict | None:
    """Return the cost of the same answers at the backend that the policy compares with; None without one.

    `costs` has the paid calls of each backend: also those whose answers were not sent, and second opinions.  Only
    calls whose tokens are known count.  `saved_usd` is null while a price that it needs is unknown."""
    if policy.savings_against is None:
        return None
    price = policy.backends[policy.savings_against].price
    without = unpriced(costs)
    cost = None if without else sum(paid.cost_usd for paid in costs.values())
    there = None
    if price is not None:
        there = (answers.input_tokens * price.input + answers.output_tokens * price.output) / 1_000_000
    return {
        "against": policy.savings_against,
        "calls": answers.calls,
        "counted_calls": answers.counted,
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


def _answers_entry(calls: Aggregate, paid: Aggregate, aside: Aggregate) -> JsonDict:
    """Return the entry of a route, or of all: an escalated request has one answer, although two calls succeeded.
    `aside` has the calls whose answers were not sent."""
    ended = (calls.calls - calls.cancelled) - (aside.calls - aside.cancelled)
    rate = round((calls.successes - aside.successes) / ended, 4) if ended else None
    return {**_entry(calls, paid), "success_rate": rate, "escalated": aside.calls}


def _entry(aggregate: Aggregate, paid: Aggregate) -> JsonDict:
    """Return the numbers of some live calls; `paid` has second opinions too."""
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
        "cost_usd": _cost(paid),
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


def _of_kind(aggregates: Mapping[Key, Aggregate], *kinds: Kind) -> dict[Key, Aggregate]:
    return {key: calls for key, calls in aggregates.items() if key.kind in kinds}


def _set_aside(live: Mapping[Key, Aggregate]) -> dict[Key, Aggregate]:
    return {key: calls for key, calls in live.items() if key.is_set_aside}


def _backend(key: Key) -> str:
    return key.backend


def _route(key: Key) -> str:
    return key.route


def _model(key: Key) -> tuple[str, str]:
    return key.backend, key.model


def _merged_by(aggregates: Mapping[Key, Aggregate], name: Callable[[Key], Name]) -> dict[Name, Aggregate]:
    """Add up aggregates whose keys have the same name."""
    groups: dict[Name, Aggregate] = defaultdict(Aggregate)
    for key, aggregate in aggregates.items():
        groups[name(key)].merge(aggregate)
    return groups


def _counted_by(aggregates: Mapping[Key, Aggregate], name: Callable[[Key], Name]) -> dict[Name, Aggregate]:
    """Add up the counts of aggregates whose keys have the same name."""
    groups: dict[Name, Aggregate] = defaultdict(Aggregate)
    for key, aggregate in aggregates.items():
        groups[name(key)].merge_counts(aggregate)
    return groups


def by_backend(aggregates: Mapping[Key, Aggregate], *kinds: Kind) -> dict[str, Aggregate]:
    """Add up the calls of these kinds of each backend."""
    return _merged_by(_of_kind(aggregates, *kinds), _backend)


def _calls(aggregate: Aggregate | None) -> int:
    return aggregate.calls if aggregate else 0

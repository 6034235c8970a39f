"""The documents operators read, made from aggregates.  Pure."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from app.metrics.aggregates import Aggregate, Key, Spread, merged
from app.metrics.queries import Pair, Source
from app.metrics.trial import compared
from app.routing.locality import is_local
from app.types import ABTest, Observations, Policy, Target
from app.words import plain_number, rounded


def window_hours(raw: str | None) -> float:
    """`hours` of a query: 24 unless it is a finite number above zero; at most a year (8760)."""
    try:
        hours = float(raw or "")
    except ValueError:
        return 24.0
    return min(hours, 8760.0) if math.isfinite(hours) and hours > 0 else 24.0


def metrics_summary(aggregates: Mapping[Key, Aggregate], hours: float, extra: Mapping[str, Any]) -> dict[str, Any]:
    """`/v1/metrics`.  Latencies in ms, cost in USD; null = unknown.  Only live calls count, but for `shadow_calls`."""
    live = {key: aggregate for key, aggregate in aggregates.items() if key[3] == "live"}
    shadows = _grouped({key: aggregate for key, aggregate in aggregates.items() if key[3] == "shadow"}, 0)
    backends = _grouped(live, 0)
    return {
        "window_hours": plain_number(hours),
        "backends": [
            {"backend": name, **_entry(backends.get(name, Aggregate())), "shadow_calls": _calls(shadows.get(name))}
            for name in sorted({*backends, *shadows})
        ],
        "routes": [{"route": name, **_entry(calls)} for name, calls in sorted(_grouped(live, 2).items()) if name],
        "models": [
            {"backend": backend, "model": model, **_entry(aggregate)}
            for (backend, model), aggregate in sorted(_by_model(live).items())
            if model
        ],
        **extra,
    }


def overview(aggregates: Mapping[Key, Aggregate], policy: Policy, observations: Observations) -> dict[str, Any]:
    """`total` and `savings` of `/v1/metrics`: what belongs to no backend alone."""
    live = {key: aggregate for key, aggregate in aggregates.items() if key[3] == "live"}
    total = merged(live.values())
    local = (aggregate for key, aggregate in live.items() if is_local(Target(key[0], key[1]), observations))
    at_home = merged(local).successes
    return {
        "total": {
            **_entry(total),
            "requests": total.requests,
            "spill_rate": round(total.spills / total.requests, 4) if total.requests else None,
            "local_share": round(at_home / total.successes, 4) if total.successes else None,
            "counted_calls": total.counted,
            "unpriced": unpriced(_grouped(live, 0)),
        },
        "savings": savings(_grouped(live, 0), policy),
    }


def unpriced(backends: Mapping[str, Aggregate]) -> list[str]:
    """The backends that have no price for tokens that they told.  A failed call tells none."""
    return sorted(name for name, aggregate in backends.items() if aggregate.counted > aggregate.priced)


def savings(backends: Mapping[str, Aggregate], policy: Policy) -> dict[str, Any] | None:
    """What the same tokens would have cost at the backend that the policy compares with; None without one.

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


def ab_report(pairs: Iterable[Pair], ab: ABTest, hours: float, echoes: Collection[str] = ()) -> dict[str, Any]:
    """`/v1/ab`: compare each primary with its candidate on the same requests.  `echoes` names what is no model."""
    by_backends: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_backends[pair.live.backend, pair.mirrored.backend].append(pair)
    return {
        "enabled": ab.enabled,
        "window_hours": plain_number(hours),
        "pairs": [compared(*names, by_backends.get(names, ()), echoes) for names in ab.candidates.items()],
    }


def _entry(aggregate: Aggregate) -> dict[str, Any]:
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
        **_ttfb(aggregate.ttfb),
        "input_tokens": aggregate.input_tokens,
        "output_tokens": aggregate.output_tokens,
        "cost_usd": _cost(aggregate),
    }


def _cost(aggregate: Aggregate) -> float | None:
    """USD of the calls whose cost is known.  Calls that all failed cost nothing; None = there are answers, and the cost
    of none is known."""
    answers = aggregate.successes or aggregate.cancelled or aggregate.counted
    unknown = not aggregate.calls or (answers and not aggregate.priced)
    return None if unknown else round(aggregate.cost_usd, 6)


def _ttfb(spread: Spread) -> dict[str, float | None]:
    return {"p50_ttfb": rounded(spread.percentile(0.5)), "p95_ttfb": rounded(spread.percentile(0.95))}


def _success_rate(aggregate: Aggregate) -> float | None:
    """Of the calls that were not cancelled by the client; null when there is none."""
    answered = aggregate.calls - aggregate.cancelled
    return round(aggregate.successes / answered, 4) if answered else None


def _grouped(aggregates: Mapping[Key, Aggregate], place: int) -> dict[str, Aggregate]:
    groups: dict[str, list[Aggregate]] = defaultdict(list)
    for key, aggregate in aggregates.items():
        groups[key[place]].append(aggregate)
    return {name: merged(group) for name, group in groups.items()}


def _by_model(aggregates: Mapping[Key, Aggregate]) -> dict[tuple[str, str], Aggregate]:
    groups: dict[tuple[str, str], list[Aggregate]] = defaultdict(list)
    for (backend, model, _, _), aggregate in aggregates.items():
        groups[backend, model].append(aggregate)
    return {name: merged(group) for name, group in groups.items()}


def live_backends(aggregates: Mapping[Key, Aggregate]) -> dict[str, Aggregate]:
    return _grouped({key: aggregate for key, aggregate in aggregates.items() if key[3] == "live"}, 0)


def _calls(aggregate: Aggregate | None) -> int:
    return aggregate.calls if aggregate else 0


_LEDGER = (
    "ts", "destination", "backend", "model", "route", "reason", "sent_bytes", "input_tokens", "output_tokens",
    "outcome", "request_id",
)  # fmt: skip


class Egress:
    """`/v1/egress`: calls beyond the local backends, and the sums of those read so far.  No content."""

    def __init__(self) -> None:
        self._sums: dict[str, dict[str, dict[str, int]]] = {"destinations": {}, "reasons": {}}

    def calls(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        calls = [{name: getattr(row, name) for name in _LEDGER} for row in rows]
        for call in calls:
            for group, column in (("destinations", "destination"), ("reasons", "reason")):
                sums = self._sums[group].setdefault(call[column] or "unknown", {"calls": 0, "sent_bytes": 0})
                sums["calls"] += 1
                sums["sent_bytes"] += call["sent_bytes"] or 0
        return calls

    def totals(self) -> dict[str, Any]:
        sums = self._sums["destinations"].values()
        return {"total": {name: sum(each[name] for each in sums) for name in ("calls", "sent_bytes")}, **self._sums}


def egress_text(pages: Iterable[Iterable[Any]], hours: float, source: Source) -> Iterator[str]:
    """The whole ledger as JSON, in pieces: there may be a million calls.  So the totals come last."""
    report, between = Egress(), ""
    yield f'{json.dumps({"window_hours": hours, **source.document()})[:-1]}, "calls": ['
    for page in pages:
        if calls := ", ".join(map(json.dumps, report.calls(page))):
            yield between + calls
            between = ", "
    yield f"], {json.dumps(report.totals())[1:]}"

"""Report how answers were judged: how many were kept or escalated, what that took, and what it saved.  Pure.

Routes with `verify` ask a cheap model first.  The report compares their cost with that of a route that always asks
the escalation target.  An escalated request pays for both models, so only the answers that were sent save money.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.metrics.aggregates import Aggregate, Key, Spread, counted
from app.types import JsonDict, JsonObject, Kind, Policy, Price, Route, Verified
from app.words import rounded

_ASKED_FIRST = (Verified.KEPT, Verified.ESCALATED, Verified.RELEASED)  # observed answers were sent as they came
_SENT = (Verified.KEPT, Verified.RELEASED)


@dataclass(slots=True)
class _Judged:
    """Hold the aggregates of one route, or of several."""

    requests: int = 0
    opinions: Aggregate = field(default_factory=Aggregate)  # without distributions, as the next ones except `held`
    by_result: dict[str, Aggregate] = field(default_factory=dict)  # `verified` -> calls
    reasons: Counter[str] = field(default_factory=Counter)  # of the escalated ones
    unpriced: set[str] = field(default_factory=set)  # backends that were asked first, or for a second opinion

    def add(self, key: Key, calls: Aggregate) -> None:
        """Add live calls or second opinions."""
        if key.kind == Kind.VERIFY:
            self.opinions.merge_counts(calls)
        else:
            self.requests += calls.requests
            if key.verified:
                result = self.by_result.setdefault(key.verified, Aggregate())
                result.merge_counts(calls)
                result.held.merge(calls.held)
            if key.is_set_aside:
                self.reasons[key.verified_reason or "unknown"] += calls.calls
        if (key.kind == Kind.VERIFY or key.verified in _ASKED_FIRST) and calls.counted > calls.priced:
            self.unpriced.add(key.backend)

    def of(self, *results: Verified) -> Aggregate:
        """Return the counts of the calls whose judgement had one of these results."""
        return counted(self.by_result[result] for result in results if result in self.by_result)

    @property
    def held(self) -> Spread:
        """Return the time for which answers were held."""
        held = Spread()
        for result in _ASKED_FIRST:
            if result in self.by_result:
                held.merge(self.by_result[result].held)
        return held


def judged_report(aggregates: Mapping[Key, Aggregate], policy: Policy) -> JsonDict:
    """Return the member `verify` of `/v1/metrics`: the routes that judge answers now, and those that did so in the
    window."""
    routes = {route.label: route for route in policy.routes if route.verify}
    former = sorted({key.route for key in aggregates if key.verified or key.kind == Kind.VERIFY} - routes.keys())
    by_route, total = {name: _Judged() for name in (*routes, *former)}, _Judged()
    for key, calls in aggregates.items():
        if key.route in by_route and key.kind in (Kind.LIVE, Kind.VERIFY):
            by_route[key.route].add(key, calls)
            total.add(key, calls)
    rows = [_row(name, judged, routes.get(name), policy) for name, judged in by_route.items()]
    return {"routes": rows, "total": {**_numbers(total), **_total_savings(rows)}}


def escalation_target(route: Route) -> str | None:
    """Return the backend or pool that gets the requests whose answers do not hold."""
    named = route.verify.escalate if route.verify else None
    return named or next(iter(route.fallbacks), None)


def _row(name: str, judged: _Judged, route: Route | None, policy: Policy) -> JsonDict:
    target = escalation_target(route) if route else None
    return {
        "route": name,
        **_numbers(judged),
        "daily_share": route.verify.daily_share if route and route.verify else None,
        "against": target,
        **_savings(judged, target, policy),
    }


def _numbers(judged: _Judged) -> JsonDict:
    first, held, opinions = judged.of(*_ASKED_FIRST), judged.held, judged.opinions
    escalated = judged.of(Verified.ESCALATED).calls
    return {
        "requests": judged.requests,
        "asked_first": first.calls,
        **{result.value: judged.of(result).calls for result in Verified},
        "escalated_share": round(escalated / first.calls, 4) if first.calls else None,
        "reasons": dict(sorted(judged.reasons.items())),
        "avg_added_ms": rounded(held.average),
        "p95_added_ms": rounded(held.percentile(0.95)),
        "second_opinions": opinions.calls,
        "second_opinion_usd": None if opinions.counted > opinions.priced else round(opinions.cost_usd, 6),
    }


def _savings(judged: _Judged, target: str | None, policy: Policy) -> JsonDict:
    """Return the cost at the escalation target of the answers that were sent, minus the cost of all first answers and
    second opinions.  The escalated calls cost the same on both sides."""
    sent, price = judged.of(*_SENT), _price(target, policy) if target else None
    unpriced = sorted({*judged.unpriced, *([target] if target and price is None else [])})
    saved = None
    if price is not None and not unpriced:
        there = price.cost_usd(sent.input_tokens, sent.output_tokens) or 0.0
        saved = round(there - judged.of(*_ASKED_FIRST).cost_usd - judged.opinions.cost_usd, 6)
    return {"sent": sent.calls, "counted": sent.counted, "saved_usd": saved, "unpriced": unpriced}


def _price(target: str, policy: Policy) -> Price | None:
    """Return the price of a backend, or the one that all members of a pool have; None = unknown."""
    prices = {policy.backends[name].price for name in policy.members(target)}
    return prices.pop() if len(prices) == 1 else None


def _total_savings(rows: Sequence[JsonObject]) -> JsonDict:
    saved = [row["saved_usd"] for row in rows]
    return {
        "sent": sum(row["sent"] for row in rows),
        "counted": sum(row["counted"] for row in rows),
        "saved_usd": round(sum(saved), 6) if rows and None not in saved else None,
        "unpriced": sorted({name for row in rows for name in row["unpriced"]}),
    }

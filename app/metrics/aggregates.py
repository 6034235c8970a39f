"""Sums that can be added up: one Aggregate is what any number of calls amounts to.  Pure.

Percentiles come from a histogram of fixed bounds (the R20 series: 20 a decade, so at most 7 % off), which is what
makes aggregates of different times, workers and machines addable; one of few calls also keeps the exact values.
"""

from __future__ import annotations

import bisect
import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

Key = tuple[str, str, str, str]  # backend, model, route, kind
Bucket = tuple[int, int]  # span and begin, in s

_R20 = (1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8, 3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0)
# 1 ms to 15 min
BOUNDS_MS: tuple[float, ...] = tuple(round(step * 10**decade, 2) for decade in range(6) for step in _R20)


@dataclass(slots=True)
class Spread:
    """A distribution of milliseconds."""

    count: int = 0
    total: float = 0.0
    bins: Counter[int] = field(
        default_factory=lambda: Counter[int]()
    )  # index into BOUNDS_MS of the bound at or above the value
    exact: list[float] | None = field(default_factory=list)  # None = too many, or not known

    def add(self, value_ms: float) -> None:
        self.count += 1
        self.total += value_ms
        self.bins[bisect.bisect_left(BOUNDS_MS, value_ms)] += 1
        if self.exact is not None:
            self.exact.append(value_ms)

    def merge(self, other: Spread) -> None:
        self.count += other.count
        self.total += other.total
        bins = self.bins
        for index, n in other.bins.items():  # Counter.update takes three times as long
            bins[index] = bins.get(index, 0) + n
        self.exact = self.exact + other.exact if self.exact is not None and other.exact is not None else None

    @property
    def average(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """The smallest value that at least `share` of the values do not exceed (nearest rank); None when empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * share))
        if self.exact is not None:
            return sorted(self.exact)[rank - 1]
        seen = 0
        for index in sorted(self.bins):
            seen += self.bins[index]
            if seen >= rank:
                return _middle(index)
        return None

    def dump(self) -> str:
        """For a database column; without the exact values."""
        return json.dumps([self.count, self.total, sorted(self.bins.items())], separators=(",", ":"))

    @classmethod
    def load(cls, text: str) -> Spread:
        count, total, pairs = json.loads(text)
        bins = Counter[int]()
        dict.update(bins, pairs)
        return cls(count, total, bins, None)


def _middle(index: int) -> float:
    """What stands for the values of one bin: as far, in per cent, from its lower bound as from its upper one."""
    if index in (0, len(BOUNDS_MS)):
        return BOUNDS_MS[min(index, len(BOUNDS_MS) - 1)]
    low, high = BOUNDS_MS[index - 1], BOUNDS_MS[index]
    return 2 * low * high / (low + high)


@dataclass(slots=True)
class Aggregate:
    """Calls of one backend, model, route and kind."""

    calls: int = 0
    requests: int = 0  # calls that were the first of their request
    spills: int = 0  # of them those that another backend got, because the first was too slow or cooling down
    successes: int = 0
    cancelled: int = 0
    fallbacks: int = 0  # calls that stood in for another backend
    input_tokens: int = 0
    output_tokens: int = 0
    counted: int = 0  # calls whose tokens are known
    priced: int = 0  # calls whose cost is known
    cost_usd: float = 0.0
    latency: Spread = field(default_factory=Spread)  # cancelled calls left out
    ttfb: Spread = field(default_factory=Spread)  # streams only

    def add(self, row: Any) -> None:
        """`row` has the columns of the table `metrics` as attributes.  Rows of the original program have no outcome."""
        outcome = row.outcome or ("ok" if row.ok else "error")
        self.calls += 1
        self.successes += outcome == "ok"
        self.cancelled += outcome == "cancelled"
        self.fallbacks += row.fallback_for is not None
        self.requests += row.reason != "fallback" if row.reason else row.fallback_for is None
        self.spills += row.reason in ("spill", "cooling")
        self.input_tokens += row.input_tokens or 0
        self.output_tokens += row.output_tokens or 0
        self.counted += row.input_tokens is not None and row.output_tokens is not None
        if row.cost_usd is not None:
            self.priced += 1
            self.cost_usd += row.cost_usd
        if outcome != "cancelled":
            self.latency.add(row.latency_ms)
        if row.ttfb_ms is not None:
            self.ttfb.add(row.ttfb_ms)

    def merge(self, other: Aggregate) -> None:
        self.calls += other.calls
        self.requests += other.requests
        self.spills += other.spills
        self.successes += other.successes
        self.cancelled += other.cancelled
        self.fallbacks += other.fallbacks
        self.input_tokens += other.input_tokens
        self.output_tokens += other.output_tokens
        self.counted += other.counted
        self.priced += other.priced
        self.cost_usd += other.cost_usd
        self.latency.merge(other.latency)
        self.ttfb.merge(other.ttfb)


COUNTS = (
    "calls", "requests", "spills", "successes", "cancelled", "fallbacks", "input_tokens", "output_tokens", "counted",
    "priced", "cost_usd",
)  # fmt: skip


def merged(aggregates: Iterable[Aggregate]) -> Aggregate:
    """The sum of some aggregates, as a new one."""
    total = Aggregate()
    for aggregate in aggregates:
        total.merge(aggregate)
    return total

"""Count calls in aggregates that can be added up.  Pure.

Percentiles come from a histogram with fixed bounds (the R20 series: 20 bins a decade, so the error is at most 7 %).
So aggregates of different times, workers and machines can be added up.  An aggregate of a few calls also keeps the
exact values.
"""

from __future__ import annotations

import bisect
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from itertools import accumulate, compress
from typing import NamedTuple

from app.types import Kind, Outcome, Reason, Verified

_R20 = (1.0, 1.12, 1.25, 1.4, 1.6, 1.8, 2.0, 2.24, 2.5, 2.8, 3.15, 3.55, 4.0, 4.5, 5.0, 5.6, 6.3, 7.1, 8.0, 9.0)
# 1 ms to 15 min
BOUNDS_MS: tuple[float, ...] = tuple(round(step * 10**decade, 2) for decade in range(6) for step in _R20)
_decode = json.JSONDecoder().raw_decode  # json.loads takes half as long again for texts of this length


Counts = tuple[int, int, int, int, int, int, int, int, int, int, float]  # the values of COUNTS


class Key(NamedTuple):
    """Name the calls that one aggregate counts."""

    backend: str
    model: str
    route: str
    kind: str
    verified: str = ""  # the result of the judgement of their answers; "" = they were not judged
    verified_reason: str = ""

    @property
    def is_set_aside(self) -> bool:
        """Return True for answers that clients did not get, because the requests were escalated."""
        return self.verified == Verified.ESCALATED


class CallRow(NamedTuple):
    """Hold the columns of one row of `metrics` that aggregates need."""

    id: int
    ts: int
    backend: str
    model: str | None
    route: str | None
    kind: str | None
    shadow: bool
    outcome: str | None  # None in rows of the original program
    ok: bool
    error: str | None
    fallback_for: str | None
    reason: str | None
    latency_ms: int
    ttfb_ms: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    wait_ms: int | None
    load_ms: int | None
    policy: str | None  # only the first call of a request has it, in rows that are not very old
    verified: str | None
    verified_reason: str | None
    held_ms: int | None

    @property
    def key(self) -> Key:
        """Return the key of its aggregate.  A model that does not exist has no aggregate of its own, because clients
        can name any model."""
        model = "" if self.error == "http_404" else self.model or ""
        kind = self.kind or (Kind.SHADOW if self.shadow else Kind.LIVE)
        return Key(self.backend, model, self.route or "", kind, self.verified or "", self.verified_reason or "")

    @property
    def is_first(self) -> bool:
        """Return True for the first call of a request.  An escalated call is the second one, except in a tool loop
        that was escalated before."""
        if self.reason == Reason.ESCALATED:
            return self.policy is not None
        return self.reason != Reason.FALLBACK if self.reason else self.fallback_for is None


class Dump(NamedTuple):
    """Represent a Spread as a column of the database holds it."""

    values: int  # how many
    total: float
    bins: Iterable[tuple[int, int]]  # index and number of the bins that are not empty

    @classmethod
    def parse(cls, text: str) -> Dump:
        document, _ = _decode(text)
        return cls._make(document)


@dataclass(slots=True)
class Spread:
    """Count milliseconds by ranges."""

    count: int = 0
    total: float = 0.0
    bins: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS_MS) + 1))  # by the bound at or above the value
    exact: list[float] | None = field(default_factory=list)  # None = too many, or not known

    def add(self, value_ms: float) -> None:
        self.count += 1
        self.total += value_ms
        self.bins[bisect.bisect_left(BOUNDS_MS, value_ms)] += 1
        if self.exact is not None:
            self.exact.append(value_ms)

    def merge(self, other: Spread) -> None:
        exact = self.exact + other.exact if self.exact is not None and other.exact is not None else None
        self.merge_dump(Dump(other.count, other.total, other.filled_bins()))
        self.exact = exact

    def merge_dump(self, other: Dump) -> None:
        self.count += other.values
        self.total += other.total
        bins = self.bins  # here a summary of many rows spends half of its time
        for index, number in other.bins:
            bins[index] += number
        self.exact = None

    def filled_bins(self) -> Iterator[tuple[int, int]]:
        """Yield index and number of the bins that are not empty."""
        return compress(enumerate(self.bins), self.bins)

    @property
    def average(self) -> float | None:
        return self.total / self.count if self.count else None

    def percentile(self, share: float) -> float | None:
        """Return the smallest value that at least `share` of the values do not exceed (nearest rank); None when
        empty."""
        if not self.count:
            return None
        rank = max(1, math.ceil(self.count * share))
        if self.exact is not None:
            return sorted(self.exact)[rank - 1]
        return _middle(bisect.bisect_left(list(accumulate(self.bins)), rank))

    def dump(self) -> str:
        """Return the text for a column of the database, which holds no exact values."""
        return json.dumps([self.count, self.total, list(self.filled_bins())], separators=(",", ":"))


def _middle(index: int) -> float:
    """Return the value that represents one bin: the harmonic mean of its bounds."""
    if index in (0, len(BOUNDS_MS)):
        return BOUNDS_MS[min(index, len(BOUNDS_MS) - 1)]
    low, high = BOUNDS_MS[index - 1], BOUNDS_MS[index]
    return 2 * low * high / (low + high)


@dataclass(slots=True)
class Aggregate:
    """Add up the calls of one key."""

    calls: int = 0
    requests: int = 0  # calls that were the first of their request
    spills: int = (
        0  # requests that another backend got first, because the route's was too slow, had a queue or an open circuit
    )
    successes: int = 0
    cancelled: int = 0
    fallbacks: int = 0  # calls instead of another backend
    input_tokens: int = 0
    output_tokens: int = 0
    counted: int = 0  # calls whose tokens are known
    priced: int = 0  # calls whose cost is known
    cost_usd: float = 0.0
    latency: Spread = field(default_factory=Spread)  # cancelled calls left out
    ttfb: Spread = field(default_factory=Spread)  # streams only
    wait: Spread = field(default_factory=Spread)  # calls that waited for a place
    load: Spread = field(default_factory=Spread)  # calls that waited for a load of known time
    held: Spread = field(default_factory=Spread)  # the time for which the client waited for the judgement

    def add(self, call: CallRow) -> None:
        outcome = call.outcome or (Outcome.OK if call.ok else Outcome.ERROR)
        self.calls += 1
        self.successes += outcome == Outcome.OK
        self.cancelled += outcome == Outcome.CANCELLED
        self.fallbacks += call.fallback_for is not None
        self.requests += call.is_first
        self.spills += call.reason in (Reason.SPILL, Reason.QUEUE, Reason.COOLING)
        self.input_tokens += call.input_tokens or 0
        self.output_tokens += call.output_tokens or 0
        self.counted += call.input_tokens is not None and call.output_tokens is not None
        if call.cost_usd is not None:
            self.priced += 1
            self.cost_usd += call.cost_usd
        if outcome != Outcome.CANCELLED:
            self.latency.add(call.latency_ms)
        for spread, value_ms in (
            (self.ttfb, call.ttfb_ms),
            (self.wait, call.wait_ms),
            (self.load, call.load_ms or None),
            (self.held, call.held_ms),
        ):
            if value_ms is not None:
                spread.add(value_ms)

    def merge(self, other: Aggregate) -> None:
        self.merge_counts(other)
        for spread, another in zip(self._spreads, other._spreads, strict=True):
            spread.merge(another)

    def merge_counts(self, other: Aggregate) -> None:
        """Add the counts alone, because to add distributions takes most of the time."""
        self._add_counts(other._counts())

    def merge_dump(self, counts: Counts, dumps: Iterable[Dump | None]) -> None:
        """Add an aggregate that was stored: the values of COUNTS and the distributions of SPREADS."""
        self._add_counts(counts)
        for spread, dump in zip(self._spreads, dumps, strict=True):
            if dump is not None:
                spread.merge_dump(dump)

    def dump(self) -> tuple[float | str | None, ...]:
        """Return the values of COUNTS and SPREADS, for the columns of the database.  Most calls do not wait, so an
        empty distribution is None there."""
        first, second, *others = self._spreads
        return (
            *self._counts(), first.dump(), second.dump(),
            *(spread.dump() if spread.count else None for spread in others),
        )  # fmt: skip

    @property
    def _spreads(self) -> tuple[Spread, Spread, Spread, Spread, Spread]:
        return self.latency, self.ttfb, self.wait, self.load, self.held

    def _counts(self) -> Counts:
        return (
            self.calls, self.requests, self.spills, self.successes, self.cancelled, self.fallbacks,
            self.input_tokens, self.output_tokens, self.counted, self.priced, self.cost_usd,
        )  # fmt: skip

    def _add_counts(self, counts: Counts) -> None:
        """Add the values of COUNTS, one by one: a loop over the names takes four times as long."""
        calls, requests, spills, successes, cancelled, fallbacks, tokens_in, tokens_out, counted, priced, usd = counts
        self.calls += calls
        self.requests += requests
        self.spills += spills
        self.successes += successes
        self.cancelled += cancelled
        self.fallbacks += fallbacks
        self.input_tokens += tokens_in
        self.output_tokens += tokens_out
        self.counted += counted
        self.priced += priced
        self.cost_usd += usd


SPREADS = ("latency", "ttfb", "wait", "load", "held")
COUNTS = tuple(column.name for column in fields(Aggregate) if column.name not in SPREADS)


def counted(aggregates: Iterable[Aggregate]) -> Aggregate:
    """Return the sum of the counts of some aggregates; its distributions are empty."""
    total = Aggregate()
    for aggregate in aggregates:
        total.merge_counts(aggregate)
    return total


def merged(aggregates: Iterable[Aggregate]) -> Aggregate:
    """Return the sum of some aggregates, as a new one."""
    total = Aggregate()
    for aggregate in aggregates:
        total.merge(aggregate)
    return total

"""Simulate A/B trials whose report is read after every pair.

A promotion needs two intervals (app/metrics/interval.py).  A bound is on one side of a number when the gamblers who bet
against this number are rich enough.  So their wealth is updated pair by pair, and the report is made only when both
bounds allow a promotion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from random import Random

from app.metrics.interval import BETS, RISK
from app.metrics.quality import MARGIN
from app.metrics.queries import Pair, SampledCall
from app.metrics.trial import ENOUGH_SAMPLES, PROMOTE, compared

_CONCENTRATION = 10  # of the doubts of the answers to one question, around their mean
_LATENCY_SPREAD = 0.4  # standard deviation of the logarithm


@dataclass(frozen=True)
class Trial:
    """Describe a candidate beside its primary."""

    more_doubt: float = 0.0  # the candidate's mean doubt minus the primary's
    time: float = 1.0  # the candidate's median time divided by the primary's
    cost: float | None = None  # the candidate's price divided by the primary's; None = no price is known

    def pairs(self, random: Random) -> Iterator[Pair]:
        while True:
            mean = 0.12 + 0.48 * random.betavariate(1.5, 2.5)  # of the question; on average 0.3
            live_doubt, doubt = _doubt(random, mean), _doubt(random, mean + self.more_doubt)
            live, shadow = _call("a", random, 1.0, self.cost and 1.0), _call("b", random, self.time, self.cost)
            yield Pair(live, shadow._replace(doubt=doubt, live_doubt=live_doubt, agreement=0.7))


def _doubt(random: Random, mean: float) -> float:
    return random.betavariate(mean * _CONCENTRATION, (1 - mean) * _CONCENTRATION)


def _call(backend: str, random: Random, time: float, price: float | None) -> SampledCall:
    latency_ms = round(1000 * time * random.lognormvariate(0, _LATENCY_SPREAD))
    tokens = round(100 * random.lognormvariate(0, _LATENCY_SPREAD))
    return SampledCall(backend, "m", latency_ms, "ok", tokens, "stop", 4 * tokens, price and price * tokens)


class _Gamblers:
    """Bet against the claim that the mean of values is at least `most`, and say when they have won enough."""

    def __init__(self, most: float) -> None:
        self._scale = 1 / (1 - most)
        self._wealths = [0.0] * len(BETS)
        self._enough = 2 / RISK * len(BETS)

    def add(self, value: float) -> bool:
        growth = (1 - value) * self._scale - 1
        self._wealths = [wealth + math.log1p(bet * growth) for wealth, bet in zip(self._wealths, BETS, strict=True)]
        return sum(math.exp(min(wealth, 100)) for wealth in self._wealths) >= self._enough


def first_promotion(pairs: Iterable[Pair], most: int) -> int | None:
    """Return after how many pairs the report says promote for the first time; None: never up to `most` pairs."""
    sampled: list[Pair] = []
    doubts, times, costs = _Gamblers(MARGIN), _Gamblers(0.0), _Gamblers(0.0)
    for pair in pairs:
        live, shadow = pair
        sampled.append(pair)
        is_no_worse = doubts.add((shadow.doubt or 0) - (shadow.live_doubt or 0))
        is_faster = times.add(_sign(shadow.latency_ms - live.latency_ms))
        is_cheaper = costs.add(_sign((shadow.cost_usd or 0) - (live.cost_usd or 0)))
        may_promote = len(sampled) >= ENOUGH_SAMPLES and is_no_worse and (is_faster or is_cheaper)
        if may_promote and compared("a", "b", sampled, ())["recommendation"] == PROMOTE:
            return len(sampled)
        if len(sampled) == most:
            return None
    return None


def promoted_in_window(pairs: Iterable[Pair], most: int, window: int, every: int) -> bool:
    """Return True when a report on the newest pairs, which is made again and again, ever says promote."""
    sampled = list(islice(pairs, most))
    ends = range(window, most + 1, every)
    return any(compared("a", "b", sampled[end - window : end], ())["recommendation"] == PROMOTE for end in ends)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)

"""Bound the mean of differences, so that the bounds may be read as often as one likes.  Pure.

With the usual interval, the operator who reads a report after every sample sees a difference sooner or later, even
when there is none.  These bounds hold for all numbers of samples at the same time: they form a confidence sequence.
They are made by betting (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", Journal
of the Royal Statistical Society B 86, 2024, section 4).  A gambler bets against the claim that the mean of values
that are not negative is at most m: a bet of the share g of the wealth multiplies it with `1 - g + g * value / m`.
When the claim is true, the wealth grows 1 / risk times with a probability of at most `risk`, ever (Ville's inequality).
So the lower bound is the largest m at which the wealth has grown so much.  Several gamblers begin with equal parts of
the wealth, because the best share depends on the values.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

RISK = 0.05  # the probability that the mean is ever outside of the interval; half of it on each side
BETS = (0.95, 0.8, 0.65, 0.5, 0.4, 0.3, 0.22, 0.16, 0.12, 0.08)  # suit 20 to 2,000 samples
_STEPS = 100  # between 0 and 1: equal steps are counted together, so the time does not grow with the samples
_HALVINGS = 14  # the bounds are exact to 1 / 8,000

Interval = tuple[float, float]


def interval(differences: Sequence[float]) -> Interval:
    """Return the bounds for the mean of differences from -1 to 1.  Each difference may depend on earlier ones, as long
    as its expected value does not."""
    above, below = _counted(1 + value for value in differences), _counted(1 - value for value in differences)
    return _lower_bound(above) - 1, 1 - _lower_bound(below)


def _counted(values: Iterable[float]) -> Mapping[float, float]:
    """Return the number of values at each step.  A value between two steps counts in part at both.  That makes the
    wealth smaller and never larger, because its logarithm is concave."""
    counts: defaultdict[int, float] = defaultdict(float)
    for value in values:
        step = math.floor(value * _STEPS + 1e-9)
        part = max(0.0, value * _STEPS - step)
        counts[step] += 1 - part
        if part:
            counts[step + 1] += part
    return {step / _STEPS: count for step, count in counts.items()}


def _lower_bound(counts: Mapping[float, float]) -> float:
    """Return the lower bound for the mean of values that are not negative; 0 is always one."""
    number = sum(counts.values())
    low, high = 0.0, sum(value * count for value, count in counts.items()) / number if number else 0.0
    enough = math.log(2 / RISK)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if middle and _log_wealth(counts, middle) >= enough:
            low = middle
        else:
            high = middle
    return low


def _log_wealth(counts: Mapping[float, float], mean: float) -> float:
    """Return the logarithm of the mean wealth of the gamblers, who bet against this mean."""
    wealths = [
        sum(count * math.log1p(bet * (value / mean - 1)) for value, count in counts.items()) for bet in BETS
    ]  # fmt: skip
    largest = max(wealths)
    return largest + math.log(sum(math.exp(wealth - largest) for wealth in wealths) / len(BETS))

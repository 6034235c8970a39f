"""Summarise the log-probabilities of an answer's tokens.

The whole answer counts: the first tokens alone told nothing about the answer of a small model.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_MOST_TOKENS = 20_000
_LEAST = -20.0  # a probability of 2e-9: servers write -9999 or -inf for 0
_QUANTILE = 0.1


@dataclass(frozen=True, slots=True)
class Confidence:
    """Hold the mean of the natural logarithms of the tokens' probabilities, and their 10 % quantile."""

    mean: float
    low: float

    @property
    def probability(self) -> float:
        """Return the geometric mean of the probabilities."""
        return math.exp(self.mean)


def confidence(logprobs: object) -> Confidence | None:
    """Return the confidence of a model in its answer; None without log-probabilities."""
    if not isinstance(logprobs, Iterable) or isinstance(logprobs, (str, bytes)):
        return None
    values = sorted(_values(logprobs))
    if not values:
        return None
    return Confidence(math.fsum(values) / len(values), values[int(_QUANTILE * (len(values) - 1))])


def _values(logprobs: Iterable[object]) -> Iterable[float]:
    for number, value in enumerate(logprobs):
        if number == _MOST_TOKENS:
            return
        if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
            yield float(min(0.0, max(_LEAST, value)))

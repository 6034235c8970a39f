"""Load the trained weights: a linear model with integer weights, from `weights.json` (built by training/train.py).

The weights of one feature are packed into one integer, one bit field for each label, so one addition adds them all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.routing.features import Key, Signals, parse_name

_FIELD_BITS = 32  # a weight needs 8 bits: a field holds the sum of millions of weights
_FIELD = 2**_FIELD_BITS
_HALF = _FIELD // 2  # larger values in a field are negative numbers


class Model:
    """Compute the points of every task from the features of a text."""

    def __init__(self, document: Mapping[str, object]) -> None:
        task, difficulty = document["task"], document["difficulty"]
        if not isinstance(task, dict) or not isinstance(difficulty, dict):
            raise TypeError("weights.json must hold the objects `task` and `difficulty`")
        self.labels: tuple[str, ...] = tuple(task["labels"])
        self.difficulty: dict[str, float] = dict(difficulty)
        self._unit = float(task["unit"])  # points of a weight of 1
        self.bias = [weight * self._unit for weight in task["bias"]]  # points of each label for a text without features
        self._weights: dict[str, list[int]] = task["weights"]
        self._packed: dict[str, dict[Key, int]] = {}
        for name, weights in self._weights.items():
            form, key = parse_name(name)
            self._packed.setdefault(form, {})[key] = _packed(weights)

    def points(self, signals: Signals) -> list[float]:
        """Return the points of each label, without the bias."""
        total = 0
        for form, keys in signals.items():
            weights = self._packed.get(form, {})
            total += sum(map(weights.__getitem__, weights.keys() & keys))
        return [weight * self._unit for weight in _unpacked(total, len(self.labels))]

    def margin(self, feature: str, label: str, other: str) -> float:
        """Return the points by which one feature prefers `label` to `other`."""
        weight = self._weights.get(feature)
        if weight is None:
            return 0.0
        return (weight[self.labels.index(label)] - weight[self.labels.index(other)]) * self._unit


def _packed(weights: Sequence[int]) -> int:
    return sum(weight << (index * _FIELD_BITS) for index, weight in enumerate(weights))


def _unpacked(total: int, count: int) -> list[int]:
    weights = []
    for _ in range(count):
        weight = (total + _HALF) % _FIELD - _HALF
        weights.append(weight)
        total = (total - weight) >> _FIELD_BITS
    return weights


def softmax(points: Sequence[float]) -> list[float]:
    """Return the probabilities that belong to the points."""
    top = max(points)
    powers = [math.exp(point - top) for point in points]
    total = sum(powers)
    return [power / total for power in powers]


MODEL = Model(json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8")))

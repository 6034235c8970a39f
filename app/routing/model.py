"""The trained weights: a linear model in whole numbers, read once from `weights.json` (built by training/train.py).

The weights of one feature are packed into one whole number, a field of bits for each label: one addition adds them all.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.routing.features import Key, Signals, parse_name

_FIELD_BITS = 32  # a weight has 7 and a sign: room for the sum of millions
_FIELD = 2**_FIELD_BITS
_HALF = _FIELD // 2  # what lies above it in a field stands for numbers below 0


class Model:
    """Points of every task for the features that spoke."""

    def __init__(self, document: Mapping[str, object]) -> None:
        task, cost = document["task"], document["difficulty"]
        if not isinstance(task, dict) or not isinstance(cost, dict):
            raise TypeError("weights.json is no model")
        self.labels: tuple[str, ...] = tuple(task["labels"])
        self.difficulty: dict[str, float] = dict(cost)
        self._unit = float(task["unit"])  # points of one step of a weight
        self.bias = [step * self._unit for step in task["bias"]]  # points of each label before anything spoke
        self._weights: dict[str, list[int]] = task["weights"]
        self._packed: dict[str, dict[Key, int]] = {}
        for name, weights in self._weights.items():
            form, key = parse_name(name)
            self._packed.setdefault(form, {})[key] = _packed(weights)

    def points(self, signals: Signals) -> list[float]:
        """Points of each label, without the bias."""
        total = 0
        for form, keys in signals.items():
            weights = self._packed.get(form, {})
            total += sum(map(weights.__getitem__, weights.keys() & keys))
        return [step * self._unit for step in _unpacked(total, len(self.labels))]

    def margin(self, feature: str, label: str, other: str) -> float:
        """What one feature says for `label` over `other`."""
        weight = self._weights.get(feature)
        if weight is None:
            return 0.0
        return (weight[self.labels.index(label)] - weight[self.labels.index(other)]) * self._unit


def _packed(weights: Sequence[int]) -> int:
    return sum(weight << (place * _FIELD_BITS) for place, weight in enumerate(weights))


def _unpacked(total: int, count: int) -> list[int]:
    weights = []
    for _ in range(count):
        weight = (total + _HALF) % _FIELD - _HALF
        weights.append(weight)
        total = (total - weight) >> _FIELD_BITS
    return weights


def likelihoods(points: Sequence[float]) -> list[float]:
    """Softmax."""
    top = max(points)
    powers = [math.exp(point - top) for point in points]
    total = sum(powers)
    return [power / total for power in powers]


MODEL = Model(json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8")))

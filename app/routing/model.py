"""The trained weights: a linear model in whole numbers, read once from `weights.json` (built by training/train.py)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path


class Model:
    """Points of every task for the features that spoke."""

    def __init__(self, document: Mapping[str, object]) -> None:
        task, cost = document["task"], document["difficulty"]
        if not isinstance(task, dict) or not isinstance(cost, dict):
            raise TypeError("weights.json is no model")
        self.labels: tuple[str, ...] = tuple(task["labels"])
        self.difficulty: dict[str, float] = dict(cost)
        self._unit = float(task["unit"])  # points of one step of a weight
        self._bias: tuple[int, ...] = tuple(task["bias"])
        self._weights: dict[str, list[int]] = task["weights"]

    def points(self, features: Iterable[str], share: float = 1.0) -> list[float]:
        """Points of each label, without the bias."""
        found = [weight for name in features if (weight := self._weights.get(name)) is not None]
        return [sum(column) * self._unit * share for column in zip(*found, strict=True)] or [0.0] * len(self.labels)

    def bias(self) -> list[float]:
        """Points of each label before anything spoke."""
        return [step * self._unit for step in self._bias]

    def margin(self, feature: str, label: str, other: str) -> float:
        """What one feature says for `label` over `other`."""
        weight = self._weights.get(feature)
        if weight is None:
            return 0.0
        return (weight[self.labels.index(label)] - weight[self.labels.index(other)]) * self._unit


def likelihoods(points: Sequence[float]) -> list[float]:
    """Softmax."""
    top = max(points)
    powers = [math.exp(point - top) for point in points]
    total = sum(powers)
    return [power / total for power in powers]


MODEL = Model(json.loads(Path(__file__).with_name("weights.json").read_text(encoding="utf-8")))

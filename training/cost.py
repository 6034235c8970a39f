"""The difficulty weights: chosen from a small grid, judged by leaving whole data sets out.

APGR is RouteLLM's average performance gap recovered (https://arxiv.org/abs/2406.18665): 0.5 for a random router, 1 for
one that sends the strong model exactly the prompts where it gains most.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np

PAIRS = {
    "Mixtral-8x7B -> GPT-4, MMLU": None,
    "Mistral-7B -> Nemotron-51B": "mistral-7b-instruct-v0.3",
    "Llama-3.1-8B -> Nemotron-51B": "llama-3.1-8b-instruct",
    "Gemma-2-9B -> Nemotron-51B": "gemma-2-9b-it",
}
STRONG = "llama-3.1-nemotron-51b-instruct"
GRID = {
    "size": (1.0,),
    "code": (0.5, 1.0, 1.5),
    "fact": (0.0, -0.4, -0.7, -1.0),
    "reading": (0.0, 0.3),
    "judgement": (0.0, 0.3),
    "science": (0.0, 0.2),
}


def results(row: dict[str, Any]) -> dict[str, tuple[float, float]]:
    """Pair -> how the weak and the strong model did."""
    if "weak" in row:
        return {next(iter(PAIRS)): (row["weak"], row["strong"])}
    return {pair: (row["scores"][weak], row["scores"][STRONG]) for pair, weak in PAIRS.items() if weak}


def dataset(row: dict[str, Any]) -> str:
    return row["group"] if "scores" in row else "mmlu"


def apgr(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> float:
    """Prompts of one score share a step, as if their order were random."""
    values, group = np.unique(-score, return_inverse=True)
    calls = np.concatenate([[0], np.bincount(group).cumsum() / len(score)])
    gained = np.concatenate([[0], np.bincount(group, weights=strong - weak, minlength=len(values)).cumsum()])
    recovered = np.interp(np.linspace(0, 1, 11), calls, gained) / gained[-1]
    return float((recovered[:-1] + recovered[1:]).sum() / 20)


class Cost:
    """The rows as arrays: signs, and results by pair."""

    def __init__(
        self, rows: Sequence[dict[str, Any]], signs: Sequence[dict[str, float]], fixed: dict[str, float]
    ) -> None:
        self.sets = np.array([dataset(row) for row in rows])
        self._signs = {name: np.array([found[name] for found in signs]) for name in (*GRID, *fixed)}
        self._fixed = sum((self._signs[name] * weight for name, weight in fixed.items()), np.zeros(len(rows)))
        self._pairs = {}
        for pair in PAIRS:
            here = np.array([pair in results(row) for row in rows])
            scores = np.array([results(row)[pair] for row in rows if pair in results(row)])
            self._pairs[pair] = (here, scores[:, 0], scores[:, 1])

    def score(self, weights: dict[str, float]) -> np.ndarray:
        return sum((self._signs[name] * weight for name, weight in weights.items()), self._fixed)

    def apgr(self, score: np.ndarray, kept: np.ndarray) -> dict[str, float]:
        """By pair, over the rows kept."""
        return {
            pair: apgr(score[here & kept], weak[kept[here]], strong[kept[here]])
            for pair, (here, weak, strong) in self._pairs.items()
            if (here & kept).any()
        }

    def choose(self, kept: np.ndarray) -> dict[str, float]:
        """The weights of the grid with the best mean APGR; the first of equals."""
        grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
        return max(grid, key=lambda weights: round(float(np.mean([*self.apgr(self.score(weights), kept).values()])), 6))

    def left_out(self) -> dict[str, float]:
        """APGR by pair when each data set is scored by weights chosen without it."""
        score = np.zeros(len(self.sets))
        for name in sorted(set(self.sets)):
            held = self.sets == name
            score[held] = self.score(self.choose(~held))[held]
        return self.apgr(score, np.ones(len(self.sets), dtype=bool))

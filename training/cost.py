"""Choose the difficulty weights from a small grid; evaluate them with whole data sets left out.

APGR is RouteLLM's average performance gap recovered (https://arxiv.org/abs/2406.18665): 0.5 for a random router, 1 for
a router that sends to the strong model exactly the prompts for which it is most useful.
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
    """Return for each pair the results of the weak and of the strong model."""
    if "weak" in row:
        return {next(iter(PAIRS)): (row["weak"], row["strong"])}
    return {pair: (row["scores"][weak], row["scores"][STRONG]) for pair, weak in PAIRS.items() if weak}


def dataset(row: dict[str, Any]) -> str:
    return row["group"] if "scores" in row else "mmlu"


def apgr(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> float:
    """Return the APGR.  Prompts with equal scores share a step, as if their order were random."""
    values, group = np.unique(-score, return_inverse=True)
    calls = np.concatenate([[0], np.bincount(group).cumsum() / len(score)])
    gain = np.concatenate([[0], np.bincount(group, weights=strong - weak, minlength=len(values)).cumsum()])
    recovered = np.interp(np.linspace(0, 1, 11), calls, gain) / gain[-1]
    return float((recovered[:-1] + recovered[1:]).sum() / 20)


class Cost:
    """Hold the rows as arrays: the signs, and the results by pair."""

    def __init__(
        self, rows: Sequence[dict[str, Any]], signs: Sequence[dict[str, float]], fixed: dict[str, float]
    ) -> None:
        self.sets = np.array([dataset(row) for row in rows])
        self._signs = {name: np.array([row[name] for row in signs]) for name in (*GRID, *fixed)}
        self._fixed = sum((self._signs[name] * weight for name, weight in fixed.items()), np.zeros(len(rows)))
        self._pairs = {}
        for pair in PAIRS:
            here = np.array([pair in results(row) for row in rows])
            scores = np.array([results(row)[pair] for row in rows if pair in results(row)])
            self._pairs[pair] = (here, scores[:, 0], scores[:, 1])

    def score(self, weights: dict[str, float]) -> np.ndarray:
        return sum((self._signs[name] * weight for name, weight in weights.items()), self._fixed)

    def apgr(self, score: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        """Return the APGR of each pair over some rows."""
        return {
            pair: apgr(score[here & rows], weak[rows[here]], strong[rows[here]])
            for pair, (here, weak, strong) in self._pairs.items()
            if (here & rows).any()
        }

    def choose(self, rows: np.ndarray) -> dict[str, float]:
        """Return the weights of the grid with the best mean APGR over some rows; the first of equals."""
        grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
        return max(grid, key=lambda weights: round(float(np.mean([*self.apgr(self.score(weights), rows).values()])), 6))

    def left_out(self) -> dict[str, float]:
        """Return the APGR of each pair when every data set is scored by weights that were chosen without it."""
        score = np.zeros(len(self.sets))
        for name in sorted(set(self.sets)):
            test = self.sets == name
            score[test] = self.score(self.choose(~test))[test]
        return self.apgr(score, np.ones(len(self.sets), dtype=bool))

"""Choose the difficulty weights from a small grid; evaluate them with whole data sets left out.

APGR is RouteLLM's average performance gap recovered (https://arxiv.org/abs/2406.18665): 0.5 for a random router, 1 for
a router that sends to the strong model exactly the prompts for which it is most useful.

Public results alone choose weights that read the formats of the data sets.  So the choice is limited: the grid holds
few values, every word list can only add difficulty (`fact` can only take it away), and the order of our own prompts
(difficulty.txt) counts as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

STRONG = "llama-3.1-nemotron-51b-instruct"
PAIRS = {  # name -> weak and strong model; the rows of RouteLLM name no other models
    "Mixtral-8x7B -> GPT-4, MMLU": ("weak", "strong"),
    "Mistral-7B -> Nemotron-51B": ("mistral-7b-instruct-v0.3", STRONG),
    "Llama-3.1-8B -> Nemotron-51B": ("llama-3.1-8b-instruct", STRONG),
    "Gemma-2-9B -> Nemotron-51B": ("gemma-2-9b-it", STRONG),
    "Llama-3.1-8B -> Gemini-1.5-pro, MMLU-Pro": ("Meta-Llama-3_1-8B-Instruct", "gemini-1.5-pro-002"),
    "Phi-3-mini -> Llama-3.1-70B, MMLU-Pro": ("Phi-3-mini-4k-instruct", "Meta-Llama-3_1-70B-Instruct"),
}
GRID = {
    "size": (1.0,),
    "code": (0.7, 1.0),
    "fact": (-0.4, -0.7, -1.0),
    "reading": (0.2, 0.4),
    "judgement": (0.2, 0.5),
    "science": (0.2, 0.4),
    "mathematics": (0.1, 0.3),
    "steps": (0.2, 0.5),
    "hard": (0.8, 1.0, 1.2),
}
OWN_SHARE = 0.25
MIN_ROWS = 100  # a smaller data set has no figure of its own
MIN_GAIN = 0.1  # … nor one on which the strong model is hardly stronger

Weights = Mapping[str, float]


def results(row: Mapping[str, Any]) -> Mapping[str, float]:
    """Return the result of each model."""
    return row.get("scores", row)


def dataset(row: Mapping[str, Any]) -> str:
    """Return the data set of a row: what is left out as a whole."""
    return row["group"] if row["dataset"] == "llmrouter_open9" else row["dataset"].removeprefix("routellm_")


def apgr(score: np.ndarray, weak: np.ndarray, strong: np.ndarray) -> float:
    """Return the APGR.  Prompts with equal scores share a step, as if their order were random."""
    values, group = np.unique(-score, return_inverse=True)
    calls = np.concatenate([[0], np.bincount(group).cumsum() / len(score)])
    gain = np.concatenate([[0], np.bincount(group, weights=strong - weak, minlength=len(values)).cumsum()])
    recovered = np.interp(np.linspace(0, 1, 11), calls, gain) / gain[-1]
    return float((recovered[:-1] + recovered[1:]).sum() / 20)


def auroc(higher: np.ndarray, lower: np.ndarray) -> float:
    """Return the share of the pairs in which the first has the higher score; equal scores count half."""
    return float((np.sign(higher[:, None] - lower[None]) + 1).mean() / 2)


class Own:
    """Hold our own prompts as arrays: the signs, by the model that they need."""

    def __init__(self, signs: Mapping[str, Sequence[Weights]]) -> None:
        self._levels = [
            {name: np.array([row[name] for row in signs[level]]) for name in GRID}
            for level in ("easy", "thought", "expert")
        ]

    def order(self, weights: Weights) -> float:
        """Return how well the score orders the levels: the mean AUROC of their pairs."""
        easy, thought, expert = (sum(level[name] * weights[name] for name in weights) for level in self._levels)
        return (auroc(thought, easy) + auroc(expert, thought) + auroc(expert, easy)) / 3


class Cost:
    """Hold the rows as arrays: the signs, and the results by pair."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], signs: Sequence[Weights], own: Own) -> None:
        self.sets = np.array([dataset(row) for row in rows])
        self._own = own
        self._signs = {name: np.array([row[name] for row in signs]) for name in GRID}
        self._pairs = {}
        for pair, (weak, strong) in PAIRS.items():
            here = np.array([weak in results(row) and strong in results(row) for row in rows])
            scores = [
                (results(row)[weak], results(row)[strong]) for row, is_here in zip(rows, here, strict=True) if is_here
            ]
            self._pairs[pair] = (here, *np.array(scores).T)

    def score(self, weights: Weights) -> np.ndarray:
        return np.sum([self._signs[name] * weight for name, weight in weights.items()], axis=0)

    def apgr(self, score: np.ndarray, rows: np.ndarray) -> dict[str, float]:
        """Return the APGR of each pair over some rows."""
        return {
            pair: apgr(score[here & rows], weak[rows[here]], strong[rows[here]])
            for pair, (here, weak, strong) in self._pairs.items()
            if (here & rows).any()
        }

    def choose(self, rows: np.ndarray) -> dict[str, float]:
        """Return the weights of the grid with the best APGR and order of own prompts; the first of equals."""
        grid = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
        return max(grid, key=lambda weights: round(self._quality(weights, rows), 6))

    def _quality(self, weights: Weights, rows: np.ndarray) -> float:
        return float(np.mean([*self.apgr(self.score(weights), rows).values()])) + OWN_SHARE * self._own.order(weights)

    def left_out_score(self) -> np.ndarray:
        """Return the score of every row by weights that were chosen without its data set."""
        score = np.zeros(len(self.sets))
        for name in sorted(set(self.sets)):
            test = self.sets == name
            score[test] = self.score(self.choose(~test))[test]
        return score

    def by_set(self, score: np.ndarray) -> dict[str, float]:
        """Return the mean APGR within each data set that is large enough, over the pairs with a gain."""
        means = {}
        for name in sorted(set(self.sets)):
            rows = self.sets == name
            values = [
                apgr(score[here & rows], weak[rows[here]], strong[rows[here]])
                for here, weak, strong in self._pairs.values()
                if (here & rows).sum() >= MIN_ROWS and (strong - weak)[rows[here]].mean() >= MIN_GAIN
            ]
            if values:
                means[name] = float(np.mean(values))
        return means

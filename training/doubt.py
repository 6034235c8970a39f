"""Build app/routing/doubt_weights.json from answers with known correctness.

    python training/doubt.py DATA_FOLDER        # it also writes the weights into docs/verify.md

DATA_FOLDER holds doubt_dev.jsonl and mmlupro_answers.jsonl (benchmarks/verify.py says what a row is).  Run it from the
project's folder, with training/requirements.txt installed.  The same data give the same bytes.  It also writes
training/doubt_left_out.json: the weights without each data set and without each model, for `make bench-verify`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from app.routing import doubt  # noqa: E402
from app.routing.answer.agreement import Comparison  # noqa: E402
from app.routing.answer.signs import NAMES  # noqa: E402
from benchmarks.verify import Row, group_of, letters, more_opinions, rows  # noqa: E402

ARTEFACT = HOME / "app" / "routing" / "doubt_weights.json"
DOCS = HOME / "docs" / "verify.md"
LEFT_OUT = HOME / "training" / "doubt_left_out.json"
# A weight stays near its prior until the data say otherwise: few sets teach little about tasks that are not in them.
PRIORS = {
    "length": 0.3, "no final answer": 1.0, "no reasons": 0.8, "open end": 1.0, "hedges": 0.3, "false arithmetic": 2.5,
    "unchecked": 0.7, "not derived": 0.6, "calculation": 0.1, "notation": 0.3, "numbers": 0.1, "difficulty": 0.5,
}  # fmt: skip
# The log-odds of an agreement when the answer is right and when it is wrong, and how fast they fall with its doubt.
OPINION = {"right": 0.5, "right and harder": 0.7, "wrong": -2.0, "wrong and harder": 0.3}
SAMPLE = {"right": 0.5, "right and harder": 0.7, "wrong": -1.2, "wrong and harder": 0.3}
SIGNS = np.array([1, 1, -1, 1])  # of these weights
ROWS_OF_PRIOR = 20.0
SEVERAL = 0.5  # the power of the number of opinions, without data
STRENGTH = 0.05  # of the priors
DIGITS = 3

Weights = dict[str, dict[str, float]]
Array = np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with doubt_dev.jsonl and mmlupro_answers.jsonl")
    with threadpool_limits(1):
        build(parser.parse_args().data)


def build(folder: Path) -> None:
    data = Data(rows(folder), letters(folder))
    weights = data.fit(np.ones(len(data.rows), dtype=bool))
    ARTEFACT.write_text(lines(weights), encoding="utf-8")
    page = DOCS.read_text("utf-8")
    before, mark, rest = page.partition('```json\n{"answer"')
    DOCS.write_text(f"{before}```json\n{lines(weights)}```{rest.partition('```')[2]}" if mark else page, "utf-8")
    groups = sorted({group_of(row) for row in data.rows})
    models = sorted({row.model for row in data.rows})
    left_out = {name: data.fit(data.of(lambda row, name=name: group_of(row) != name)) for name in groups}
    left_out |= {name: data.fit(data.of(lambda row, name=name: row.model != name)) for name in models}
    LEFT_OUT.write_text(lines(left_out), encoding="utf-8")
    print(f"{ARTEFACT.name}: {len(data.rows)} answers\n{lines(weights)}")


def lines(document: dict[str, Any]) -> str:
    """Return JSON with one member a line, so that a change of the weights is a readable diff."""
    members = (f"{json.dumps(name)}: {json.dumps(value)}" for name, value in document.items())
    return "{" + ",\n".join(members) + "}\n"


class Data:
    """Hold the evidence of all rows as arrays, and fit the weights on some of them."""

    def __init__(self, all_rows: Sequence[Row], chosen: dict[str, dict[str, str]]) -> None:
        self.rows = all_rows
        self.wrong = np.array([1.0 - row.correct for row in all_rows])
        cells = [(row.set, row.model) for row in all_rows]
        counts = {cell: cells.count(cell) for cell in set(cells)}
        self._share = np.array(
            [counts[cell] ** -0.5 for cell in cells]
        )  # a large set counts more, but not in proportion
        evidence = [row.evidence() for row in all_rows]
        self._signs = np.array([[one.signs[name] for name in NAMES] for one in evidence])
        self._space = np.array([one.space for one in evidence])
        self._comparisons = [one.comparisons for one in evidence]
        self._more = [
            [*one.comparisons, *more_opinions(row, one.option, chosen)]
            for row, one in zip(all_rows, evidence, strict=True)
        ]
        self._confidence = np.array(
            [(min(3.0, -c.mean), min(6.0, -c.low)) if (c := one.confidence) else (0.0, 0.0) for one in evidence]
        )
        self._has_logprobs = np.array([one.confidence is not None for one in evidence])
        self._is_sample = np.array([row.sampled for row in all_rows])

    def of(self, condition: Callable[[Row], bool]) -> Array:
        """Return a mask of the rows that meet a condition."""
        return np.array([condition(row) for row in self.rows])

    def fit(self, mask: Array) -> Weights:
        """Return the weights that fit the rows of a mask, each part given the one before it."""
        answer = self._answer(mask)
        points = answer["bias"] + self._signs @ np.array([answer[name] for name in NAMES])
        weights: Weights = {"answer": answer}
        weights["opinion"] = self._opinion(mask & ~self._is_sample, points, OPINION)
        weights["opinion"]["several"] = self._several(mask & ~self._is_sample, points, weights["opinion"])
        weights["sample"] = self._opinion(mask & self._is_sample, points, SAMPLE) | {"several": SEVERAL}
        weights["confidence"] = self._logprobs(mask & self._has_logprobs, points)
        return {part: {name: round(float(x), DIGITS) for name, x in own.items()} for part, own in weights.items()}

    def _loss(self, points: Array, mask: Array) -> float:
        """Return the mean logistic loss of the rows of a mask."""
        signed = np.where(self.wrong[mask] == 1, -points, points)
        return float(np.average(np.logaddexp(0, signed), weights=self._share[mask]))

    def _answer(self, mask: Array) -> dict[str, float]:
        priors = np.array([PRIORS[name] for name in NAMES])

        def loss(values: Array) -> float:
            penalty = STRENGTH * float(((values[1:] - priors) ** 2).sum())
            return self._loss(values[0] + self._signs[mask] @ values[1:], mask) + penalty

        bounds = [(None, None), *[(0, None)] * len(NAMES)]  # more of a sign never lowers the doubt
        result = minimize(loss, np.array([-1.5, *priors]), bounds=bounds, method="L-BFGS-B")
        return dict(zip(("bias", *NAMES), result.x.tolist(), strict=True))

    def _opinion(self, mask: Array, points: Array, prior: dict[str, float]) -> dict[str, float]:
        """Fit how often two answers agree when the first is right, and when it is wrong."""
        indices = [i for i in np.flatnonzero(mask) if self._comparisons[i]]
        if not indices:
            return dict(prior)
        start = np.array([*prior.values()])
        wrong, share = self.wrong[indices], self._share[indices]

        def loss(values: Array) -> float:
            weights = {"opinion": dict(zip(prior, np.maximum(0, values) * SIGNS, strict=True)) | {"several": 1.0}}
            added = [self._added(i, self._comparisons[i][:1], points[i], weights) for i in indices]
            total = points[indices] + np.array(added)
            penalty = ROWS_OF_PRIOR / len(indices) * float(((values - start * SIGNS) ** 2).sum())
            return float(np.average(np.logaddexp(0, np.where(wrong == 1, -total, total)), weights=share)) + penalty

        best = minimize(loss, start * SIGNS, method="Nelder-Mead", options={"maxiter": 80})
        return dict(zip(prior, (np.maximum(0, best.x) * SIGNS).tolist(), strict=True))

    def _added(self, i: int, comparisons: Sequence[Comparison], alone: float, weights: Weights) -> float:
        return doubt.agreement_points(comparisons, int(self._space[i]), float(alone), weights=weights)

    def _several(self, mask: Array, points: Array, own: dict[str, float]) -> float:
        """Choose the power of the number of opinions."""
        mask = mask & np.array([len(more) > 2 for more in self._more])
        if not mask.any():
            return SEVERAL
        indices = np.flatnonzero(mask)

        def loss(power: float) -> float:
            weights = {"opinion": own | {"several": power}}
            added = [self._added(i, self._more[i][:3], points[i], weights) for i in indices]
            return self._loss(points[mask] + np.array(added), mask)

        return min(np.arange(0.2, 1.01, 0.1).tolist(), key=loss)

    def _logprobs(self, mask: Array, points: Array) -> dict[str, float]:
        prior = np.array([1.0, 0.3])
        if not mask.any():
            return {"bias": -1.0, "mean": 1.0, "low": 0.3}

        def loss(values: Array) -> float:
            penalty = STRENGTH * float(((values[1:] - prior) ** 2).sum())
            return self._loss(points[mask] + values[0] + self._confidence[mask] @ values[1:], mask) + penalty

        result = minimize(
            loss, np.array([-1.0, *prior]), bounds=[(None, None), (0, None), (0, None)], method="L-BFGS-B"
        )
        return dict(zip(("bias", "mean", "low"), result.x.tolist(), strict=True))


if __name__ == "__main__":
    main()

"""Train the task model: a multinomial logistic regression over feature names; evaluate it with sources left out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from data import Prompt
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

LABELS = ("code", "web_search", "summarisation", "classification", "general")
C = 0.5
MIN_ROWS = 4
MIN_SOURCES = {"word": 4, "other": 2}  # a word that few sources use identifies the source, not the task
# The regularisation of each kind of feature: a smaller scale pulls its weights more strongly towards 0.
SCALES = {"word": 0.35, "pair": 0.3, "shape": 0.3, "list": 1.0}
# Real traffic has more chat than the data, and chat that counts as code goes to a model that is bad at chat.
BIAS = {"code": -0.3, "web_search": -0.2, "summarisation": -0.2, "classification": -0.65, "general": 0.25}
BANDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.01)  # of confidence
CERTAIN = 0.9  # the confidence from which on a policy may trust a label
# Facts that the data hardly show: (feature, label, points).
PRIOR = (("#fence", "code", 1.5),)

Matrix = csr_matrix
Names = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Fitted:
    columns: dict[str, int]
    weights: np.ndarray  # label x feature
    bias: np.ndarray

    def points(self, names: Names) -> np.ndarray:
        rows = [[self.weights[:, self.columns[name]] for name in row if name in self.columns] for row in names]
        return np.array([np.sum(row, axis=0) + self.bias if row else self.bias for row in rows])


def kind(name: str) -> str:
    """Return the kind of a feature by its name."""
    if name[0] == "=":
        return "word"
    if name == "#fence":
        return "list"  # it is enough to decide, unlike other shapes
    if name[0] == "#":
        return "shape"
    return "pair" if "+" in name else "list"


def fit(prompts: Sequence[Prompt], names: Names) -> Fitted:
    """Train the model.  A source counts by the square root of its size; all labels have the same weight."""
    columns = _columns(prompts, names)
    scales = np.array([SCALES[kind(name)] for name in columns])
    counts = Counter((p.source, p.task) for p in prompts)
    weight = np.array([counts[p.source, p.task] ** -0.5 for p in prompts])
    tasks = np.array([LABELS.index(p.task) for p in prompts])
    for task in range(len(LABELS)):
        weight[tasks == task] /= weight[tasks == task].sum()
    model = LogisticRegression(C=C, max_iter=500, tol=1e-5)
    model.fit(_matrix(names, columns, scales), tasks, sample_weight=weight * len(prompts) / weight.sum())
    bias = model.intercept_ + np.array([BIAS.get(label, 0.0) for label in LABELS])
    weights = model.coef_ * scales
    for name, label, points in PRIOR:
        if name in columns:
            weights[LABELS.index(label), columns[name]] += points
    return Fitted(columns, weights, bias)


def left_out(prompts: Sequence[Prompt], own: Sequence[Prompt], names: Names, own_names: Names) -> np.ndarray:
    """Return the points of every public prompt by a model that was trained without its source."""
    points = np.zeros((len(prompts), len(LABELS)))
    for source in sorted({p.source for p in prompts}):
        training = [i for i, p in enumerate(prompts) if source not in p.touches]
        test = [i for i, p in enumerate(prompts) if p.source == source]
        model = fit([*(prompts[i] for i in training), *own], [*(names[i] for i in training), *own_names])
        points[test] = model.points([names[i] for i in test])
    return points


def report(prompts: Sequence[Prompt], points: np.ndarray) -> list[str]:
    """Return the confusion matrix, F1 and the accuracy by source, as lines of Markdown."""
    predicted = points.argmax(axis=1)
    truth = np.array([LABELS.index(p.task) for p in prompts])
    lines = ["| true \\ predicted | " + " | ".join(LABELS) + " | precision | recall | F1 |", "|---|" + "---|" * 8]
    scores = []
    for task, label in enumerate(LABELS):
        hits = int(((truth == task) & (predicted == task)).sum())
        precision, recall = hits / max(1, int((predicted == task).sum())), hits / max(1, int((truth == task).sum()))
        scores.append(2 * precision * recall / max(1e-9, precision + recall))
        row = [str(int(((truth == task) & (predicted == other)).sum())) for other in range(len(LABELS))]
        lines.append(f"| {label} | {' | '.join(row)} | {precision:.3f} | {recall:.3f} | {scores[-1]:.3f} |")
    accuracy = (predicted == truth).mean()
    lines += [
        "",
        f"macro-F1 {np.mean(scores):.3f}, accuracy {accuracy:.3f}",
        "",
        "| source left out | prompts | accuracy |",
    ]
    lines.append("|---|---|---|")
    for source in sorted({p.source for p in prompts}):
        test = np.array([p.source == source for p in prompts])
        lines.append(f"| {source} | {test.sum()} | {(predicted[test] == truth[test]).mean():.3f} |")
    return lines


def reliability(prompts: Sequence[Prompt], points: np.ndarray) -> list[str]:
    """Return the accuracy by confidence, and by source from CERTAIN on, as lines of Markdown."""
    powers = np.exp(points - points.max(axis=1, keepdims=True))
    confidence = (powers / powers.sum(axis=1, keepdims=True)).max(axis=1)
    is_right = points.argmax(axis=1) == np.array([LABELS.index(p.task) for p in prompts])
    lines = ["| confidence | prompts | mean confidence | accuracy |", "|---|---|---|---|"]
    for low, high in pairwise(BANDS):
        here = (confidence >= low) & (confidence < high)
        numbers = f"{here.sum()} | {confidence[here].mean():.3f} | {is_right[here].mean():.3f}"
        lines.append(f"| {low} to {min(high, 1.0)} | {numbers} |")
    certain = confidence >= CERTAIN
    lines += ["", f"| source left out | prompts at {CERTAIN} or more | accuracy there |", "|---|---|---|"]
    for source in sorted({p.source for p in prompts}):
        here = np.array([p.source == source for p in prompts]) & certain
        lines.append(f"| {source} | {here.sum()} | {is_right[here].mean():.3f} |")
    return lines


def _columns(prompts: Sequence[Prompt], names: Names) -> dict[str, int]:
    rows: Counter[str] = Counter()
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, features in zip(prompts, names, strict=True):
        rows.update(features)
        for name in features:
            sources[name].add(prompt.source)
    columns = [
        name
        for name in sorted(rows)
        if rows[name] >= MIN_ROWS and len(sources[name]) >= MIN_SOURCES.get(kind(name), MIN_SOURCES["other"])
    ]
    return {name: column for column, name in enumerate(columns)}


def _matrix(names: Names, columns: dict[str, int], scales: np.ndarray) -> Matrix:
    indptr, indices = [0], []
    for features in names:
        indices += sorted(columns[name] for name in features if name in columns)
        indptr.append(len(indices))
    return csr_matrix((scales[indices], indices, indptr), shape=(len(names), len(columns)))

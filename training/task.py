"""The task model: multinomial logistic regression over feature names, judged by leaving whole sources out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from data import Prompt
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

LABELS = ("code", "web_search", "summarisation", "classification", "general")
C = 0.5
MIN_ROWS = 4
MIN_SOURCES = {"word": 4, "other": 2}  # a word that few sources use tells the source, not the task
# How far a kind of feature is trusted; a smaller scale is a stronger pull towards 0.
SCALES = {"word": 0.35, "pair": 0.3, "shape": 0.3, "list": 1.0}
# Natural chat holds more talk than the sets do, and calling talk code sends it to a model that talks badly.
BIAS = {"code": -0.3, "web_search": -0.25, "classification": 0.1, "general": 0.1}
# Known, though the sets hardly show it: (feature, label, points).
PRIOR = (("#fence", "code", 1.5),)

Matrix = csr_matrix
Names = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Fitted:
    columns: dict[str, int]
    weights: np.ndarray  # label x feature
    bias: np.ndarray

    def points(self, names: Names) -> np.ndarray:
        rows = [[self.weights[:, self.columns[n]] for n in found if n in self.columns] for found in names]
        return np.array([np.sum(row, axis=0) + self.bias if row else self.bias for row in rows])


def kind(name: str) -> str:
    """Which sort of feature a name stands for."""
    if "=" in name and name[0] in "=<":
        return "word"
    if name == "#fence":
        return "list"  # decides by itself, unlike other shapes
    if name[0] == "#":
        return "shape"
    return "pair" if "+" in name else "list"


def fit(prompts: Sequence[Prompt], names: Names) -> Fitted:
    """Every source counts by the root of its size, every label the same."""
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
    """Points for every public prompt from a model that saw nothing of its source."""
    points = np.zeros((len(prompts), len(LABELS)))
    for source in sorted({p.source for p in prompts}):
        seen = [i for i, p in enumerate(prompts) if source not in p.touches]
        held = [i for i, p in enumerate(prompts) if p.source == source]
        model = fit([*(prompts[i] for i in seen), *own], [*(names[i] for i in seen), *own_names])
        points[held] = model.points([names[i] for i in held])
    return points


def report(prompts: Sequence[Prompt], points: np.ndarray) -> list[str]:
    """Confusion, F1 and accuracy by source, as lines of Markdown."""
    said = points.argmax(axis=1)
    truth = np.array([LABELS.index(p.task) for p in prompts])
    lines = ["| true \\ said | " + " | ".join(LABELS) + " | precision | recall | F1 |", "|---|" + "---|" * 8]
    scores = []
    for task, label in enumerate(LABELS):
        hits = int(((truth == task) & (said == task)).sum())
        precision, recall = hits / max(1, int((said == task).sum())), hits / max(1, int((truth == task).sum()))
        scores.append(2 * precision * recall / max(1e-9, precision + recall))
        row = [str(int(((truth == task) & (said == other)).sum())) for other in range(len(LABELS))]
        lines.append(f"| {label} | {' | '.join(row)} | {precision:.3f} | {recall:.3f} | {scores[-1]:.3f} |")
    accuracy = (said == truth).mean()
    lines += [
        "",
        f"macro-F1 {np.mean(scores):.3f}, accuracy {accuracy:.3f}",
        "",
        "| source left out | prompts | accuracy |",
    ]
    lines.append("|---|---|---|")
    for source in sorted({p.source for p in prompts}):
        held = np.array([p.source == source for p in prompts])
        lines.append(f"| {source} | {held.sum()} | {(said[held] == truth[held]).mean():.3f} |")
    return lines


def _columns(prompts: Sequence[Prompt], names: Names) -> dict[str, int]:
    rows: Counter[str] = Counter()
    sources: defaultdict[str, set[str]] = defaultdict(set)
    for prompt, found in zip(prompts, names, strict=True):
        rows.update(found)
        for name in found:
            sources[name].add(prompt.source)
    kept = [
        name
        for name in sorted(rows)
        if rows[name] >= MIN_ROWS and len(sources[name]) >= MIN_SOURCES.get(kind(name), MIN_SOURCES["other"])
    ]
    return {name: column for column, name in enumerate(kept)}


def _matrix(names: Names, columns: dict[str, int], scales: np.ndarray) -> Matrix:
    indptr, indices = [0], []
    for found in names:
        indices += sorted(columns[name] for name in found if name in columns)
        indptr.append(len(indices))
    return csr_matrix((scales[indices], indices, indptr), shape=(len(names), len(columns)))

"""Measure `doubt` on answers with known correctness: what would asking the strong model for doubtful answers give?

    make bench-verify DATA=FOLDER       # or with the folder in LLR_VERIFY_DATA

FOLDER holds doubt_dev.jsonl.  A row has `id`, `set`, `group`, `question`, `model`, `answer`, `second` or `samples` (the
same model again), `correct` and `strong_correct` (0 to 1), and may have `finish` and `logprobs` (natural logarithms).
A file mmlupro_answers.jsonl beside it has the letters of more models: `id` and `answers`, {model: [letter, ...]}.

Weights are judged by what they have not seen: a row is judged with those of a training without its set, or without its
model (training/doubt_left_out.json, by training/doubt.py).
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.routing import doubt
from app.routing.answer.agreement import Comparison, asked, compare
from app.routing.answer.confidence import Confidence, confidence
from app.routing.answer.signs import signs
from app.routing.answer.structure import structure
from app.routing.answer.value import final_of
from app.routing.classify import difficulty_text

DATA, LETTERS = "doubt_dev.jsonl", "mmlupro_answers.jsonl"
LEFT_OUT = Path(__file__).resolve().parent.parent / "training" / "doubt_left_out.json"
OTHER_MODELS = (  # whose letters are further opinions
    "Phi-3-mini-4k-instruct", "Meta-Llama-3_1-8B-Instruct", "Mistral-7B-Instruct-v0.2", "Qwen1.5-7B-Chat",
    "Mistral-7B-Instruct-v0.1", "Yi-6b-Chat",
)  # fmt: skip
BINS = 10  # of the expected calibration error
SHARES = (50, 80, 95)  # percent of the gap


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hold all that is known of one answer, before weights."""

    signs: Mapping[str, float]
    fault: str | None
    space: int
    option: str
    difficulty: float
    comparisons: tuple[Comparison, ...]
    confidence: Confidence | None

    def doubt(self, opinions: Sequence[Comparison], sampled: bool, logprobs: bool, weights: doubt.Weights) -> float:
        """Return the doubt with some of the evidence."""
        alone = doubt.answer_points(self.signs, weights)
        points = alone + doubt.agreement_points(opinions, self.space, alone, sampled, weights)
        points += doubt.confidence_points(self.confidence if logprobs else None, weights)
        value = doubt.probability(points)
        return max(value, doubt.FAULTY) if self.fault else value


@dataclass(frozen=True, slots=True)
class Row:
    """Hold one answer with its correctness."""

    id: str
    set: str
    group: str
    model: str
    question: str
    answer: str
    others: tuple[str, ...]
    second_model: str
    sampled: bool  # the others are samples of the same model
    correct: float
    strong: float
    finish: str = ""
    logprobs: Sequence[float] = field(default=())

    @property
    def question_id(self) -> str:
        """Return the id without the model."""
        return "/".join(self.id.split("/")[:2])

    def evidence(self) -> Evidence:
        """Return the evidence of the answer."""
        ask = asked(self.question, None)
        final, hardness = final_of(ask, self.answer), difficulty_text(ask.text)
        return Evidence(
            signs=signs(ask, final, self.finish, hardness),
            fault=structure({"messages": [{"role": "user", "content": self.question}]}, self.answer, self.finish),
            space=doubt.answer_space(ask, final.value),
            option=final.value.option,
            difficulty=hardness,
            comparisons=tuple(compare(ask, final, final_of(ask, other)) for other in self.others),
            confidence=confidence(self.logprobs) if self.logprobs else None,
        )


def rows(folder: Path) -> list[Row]:
    """Return the rows of a data folder."""
    with (folder / DATA).open(encoding="utf-8") as file:
        return [row_of(json.loads(line)) for line in file if line.strip()]


def row_of(row: Mapping[str, Any]) -> Row:
    others = row.get("samples") or ([row["second"]] if row.get("second") else [])
    return Row(
        id=row["id"],
        set=row["set"],
        group=row["group"],
        model=row["model"],
        question=row["question"],
        answer=row["answer"],
        others=tuple(others),
        second_model=row.get("second_model") or "",
        sampled="samples" in row,
        correct=float(row["correct"]),
        strong=float(row["strong_correct"]),
        finish=row.get("finish") or "",
        logprobs=row.get("logprobs") or (),
    )


def letters(folder: Path) -> dict[str, dict[str, str]]:
    """Return for each question of MMLU-Pro the letters that many models chose; nothing without the file."""
    if not (folder / LETTERS).exists():
        return {}
    with (folder / LETTERS).open(encoding="utf-8") as file:
        entries = map(json.loads, file)
        return {entry["id"]: {model: answer[0] for model, answer in entry["answers"].items()} for entry in entries}


def more_opinions(row: Row, option: str, chosen: Mapping[str, Mapping[str, str]]) -> list[Comparison]:
    """Return for each further model whether it chose the same letter."""
    answers = chosen.get(row.question_id, {})
    models = [name for name in OTHER_MODELS if name in answers and name not in (row.model, row.second_model)]
    return [Comparison(float(bool(option) and answers[name] == option)) for name in models]


def group_of(row: Row) -> str:
    """Return the set that is left out together: a subject of MMLU-Pro, or a whole set."""
    return f"{row.set} {row.group}" if row.set == "mmlu-pro" else row.set


# --- figures ------------------------------------------------------------------------------------


def recovered(scores: Sequence[float], weak: Sequence[float], strong: Sequence[float]) -> Callable[[float], float]:
    """Return the share of the gap between both models that is recovered when a share of the calls, those with the
    highest scores, goes to the strong one.  Equal scores share a step, as if their order were random."""
    gains: dict[float, list[float]] = {}
    for score, low, high in zip(scores, weak, strong, strict=True):
        gains.setdefault(score, []).append(high - low)
    calls, total = [0.0], [0.0]
    for score in sorted(gains, reverse=True):
        calls.append(calls[-1] + len(gains[score]) / len(scores))
        total.append(total[-1] + sum(gains[score]))

    def at(share: float) -> float:
        right = next((i for i in range(1, len(calls)) if calls[i] >= share - 1e-12), len(calls) - 1)
        step = (share - calls[right - 1]) / (calls[right] - calls[right - 1])
        return (total[right - 1] + (total[right] - total[right - 1]) * min(1.0, max(0.0, step))) / total[-1]

    return at


def apgr(at: Callable[[float], float]) -> float:
    """Return the average performance gap recovered (RouteLLM, https://arxiv.org/abs/2406.18665); 0.5 = at random."""
    values = [at(step / 10) for step in range(11)]
    return sum(one + two for one, two in itertools.pairwise(values)) / 20


def calls_for(at: Callable[[float], float], percent: int) -> float:
    """Return the share of strong calls, in percent, that recovers a percentage of the gap."""
    return next(call / 10 for call in range(1001) if at(call / 1000) >= percent / 100 - 1e-9)


def calibration_error(doubts: Sequence[float], wrong: Sequence[float]) -> float:
    """Return the expected calibration error in bins of equal width."""
    bins: dict[int, list[tuple[float, float]]] = {}
    for value, is_wrong in zip(doubts, wrong, strict=True):
        bins.setdefault(min(BINS - 1, int(value * BINS)), []).append((value, is_wrong))
    gaps = (abs(sum(value - is_wrong for value, is_wrong in entries)) for entries in bins.values())
    return sum(gaps) / len(doubts)


def auroc(scores: Sequence[float], wrong: Sequence[float]) -> float:
    """Return the probability that a wrong answer has a higher score than a right one."""
    order = sorted(range(len(scores)), key=scores.__getitem__)
    ranks, at = 0.0, 0
    while at < len(order):
        end = at
        while end < len(order) and scores[order[end]] == scores[order[at]]:
            end += 1
        ranks += sum(wrong[index] for index in order[at:end]) * (at + end + 1) / 2
        at = end
    count = sum(wrong)
    return (ranks - count * (count + 1) / 2) / (count * (len(scores) - count))


# --- the table ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Judged:
    """Hold a row with its doubts by kind of evidence; a kind that the row lacks is absent."""

    row: Row
    doubts: Mapping[str, float]


KINDS = (
    "prompt alone",
    "the answer",
    "+ confidence",
    "+ one opinion",
    "+ two opinions",
    "+ confidence and two opinions",
)


def judged(row: Row, known: Evidence, more: Sequence[Comparison], weights: doubt.Weights) -> Judged:
    opinions = (*known.comparisons, *more)
    doubts = {KINDS[0]: known.difficulty, KINDS[1]: known.doubt((), row.sampled, False, weights)}
    if known.confidence:
        doubts[KINDS[2]] = known.doubt((), row.sampled, True, weights)
        doubts[KINDS[5]] = known.doubt(opinions[:2], row.sampled, True, weights)
    for count in (1, 2):
        if len(opinions) >= count:
            doubts[KINDS[2 + count]] = known.doubt(opinions[:count], row.sampled, False, weights)
    return Judged(row, doubts)


def lines(title: str, entries: Sequence[Judged]) -> Iterator[str]:
    """Yield the lines of a table for some rows: one for each kind of evidence that all of them have."""
    for kind in KINDS:
        own = [entry for entry in entries if kind in entry.doubts]
        if len(own) < len(entries):
            continue
        scores = [entry.doubts[kind] for entry in own]
        wrong = [1 - entry.row.correct for entry in own]
        at = recovered(scores, [entry.row.correct for entry in own], [entry.row.strong for entry in own])
        shares = " | ".join(f"{calls_for(at, percent):.0f} %" for percent in SHARES)
        error = f"{calibration_error(scores, wrong):.3f}" if kind != KINDS[0] else "-"
        yield f"| {title} | {kind} | {apgr(at):.3f} | {shares} | {auroc(scores, wrong):.3f} | {error} |"


def table(name: str, entries: Sequence[Judged], group: Callable[[Row], str]) -> Iterator[str]:
    """Yield a table with a part for all rows and one for each group."""
    yield f"\n{name}\n"
    yield "| answers | judged by | APGR | 50 % of the gap | 80 % | 95 % | AUROC | ECE |"
    yield "|---|---|---|---|---|---|---|---|"
    yield from lines(f"all ({len(entries)})", entries)
    for title in sorted({group(entry.row) for entry in entries}):
        own = [entry for entry in entries if group(entry.row) == title]
        wrong = 1 - sum(entry.row.correct for entry in own) / len(own)
        yield from lines(f"{title} ({len(own)}, {100 * wrong:.0f} % wrong)", own)


def microseconds(all_rows: Iterable[Row]) -> list[float]:
    """Return the CPU time of `doubt` with one opinion, for each row, sorted."""
    times = []
    for row in all_rows:
        start = time.process_time()
        doubt.doubt(row.question, row.answer, second=row.others[0] if row.others else None, finish=row.finish)
        times.append(1e6 * (time.process_time() - start))
    return sorted(times)


def main() -> None:
    """Print the tables for the data folder."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LLR_VERIFY_DATA", ""))
    if not (folder / DATA).is_file():
        print(f"{folder / DATA} is not there: make bench-verify DATA=FOLDER, with {DATA} in it", file=sys.stderr)
        sys.exit(2)
    all_rows, chosen = rows(folder), letters(folder)
    left_out: Mapping[str, doubt.Weights] = json.loads(LEFT_OUT.read_text("utf-8"))
    evidence = [row.evidence() for row in all_rows]
    more = [more_opinions(row, own.option, chosen) for row, own in zip(all_rows, evidence, strict=True)]
    known = list(zip(all_rows, evidence, more, strict=True))
    by_set = [judged(row, own, others, left_out[group_of(row)]) for row, own, others in known]
    by_model = [judged(row, own, others, left_out[row.model]) for row, own, others in known]
    tables = (
        *table("Weights of a training without the set (of MMLU-Pro: without the subject)", by_set, lambda row: row.set),
        *table("The same, by what was left out", by_set, group_of),
        *table("Weights of a training without the model", by_model, lambda row: f"{row.set}, {row.model}"),
    )
    print("\n".join(tables))
    times = microseconds(all_rows[::5])
    middle, slow = times[len(times) // 2], times[int(0.99 * len(times))]
    print(f"\nCPU time with one opinion: median {middle:.0f} µs, p99 {slow:.0f} µs")


if __name__ == "__main__":
    main()

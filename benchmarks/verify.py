"""Measure `doubt` on answers with known correctness: what would asking the strong model for doubtful answers give?

    make bench-verify DATA=FOLDER       # or: LLR_VERIFY_DATA=FOLDER make bench-verify

FOLDER holds doubt_dev.jsonl.  A row has `id`, `set`, `group`, `question`, `model`, `answer`, `second` or `samples`
(the same model again), `correct` and `strong_correct` (0 to 1), and may have `finish` and `logprobs` (natural
logarithms).

The weights of a row come from training without its set (training/doubt_left_out.json, by training/doubt.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.routing import doubt
from app.routing.answer.agreement import agreement_of, asked
from app.routing.answer.confidence import Confidence, confidence
from app.routing.answer.final import statement
from app.routing.answer.reading import read_answer
from app.routing.answer.signs import signs
from app.routing.answer.value import value_of
from app.routing.classify import difficulty_text

DATA = "doubt_dev.jsonl"
LEFT_OUT = Path(__file__).resolve().parent.parent / "training" / "doubt_left_out.json"
BINS = 10  # of the expected calibration error


@dataclass(frozen=True, slots=True)
class Evidence:
    """Hold all that is known of one answer, before weights."""

    signs: Mapping[str, float]
    space: int
    option: str
    difficulty: float
    agreements: tuple[float, ...]
    confidence: Confidence | None


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
        ask, answer = asked(self.question, None), read_answer(self.answer)
        final = statement(answer.text)
        value, hardness = value_of(ask, final), difficulty_text(ask.text)
        return Evidence(
            signs=signs(ask, answer.text, final, value, self.finish, hardness),
            space=doubt.answer_space(ask, value),
            option=value.option,
            difficulty=hardness,
            agreements=tuple(agreement_of(ask, answer, read_answer(other)) for other in self.others),
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
        sampled="samples" in row,
        correct=float(row["correct"]),
        strong=float(row["strong_correct"]),
        finish=row.get("finish") or "",
        logprobs=row.get("logprobs") or (),
    )


def group_of(row: Row) -> str:
    """Return the set that is left out together: a subject of MMLU-Pro, or a whole set."""
    return f"{row.set} {row.group}" if row.set == "mmlu-pro" else row.set

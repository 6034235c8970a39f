"""Estimate the doubt of an answer: how likely it is wrong, 0 to 1, from all evidence that there is.

The parts add up as log-odds: signs in the answer and the difficulty of its question, the agreement with other
opinions, and the model's own log-probabilities.  The weights come from doubt_weights.json (see training/doubt.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.routing.answer.agreement import agreement_of, asked
from app.routing.answer.ask import OPEN, Ask
from app.routing.answer.confidence import Confidence, confidence
from app.routing.answer.final import statement
from app.routing.answer.reading import read_answer
from app.routing.answer.signs import NAMES, signs
from app.routing.answer.value import Value, value_of
from app.routing.classify import difficulty_text
from app.types import JsonObject

WEIGHTS: Mapping[str, Mapping[str, float]] = json.loads(
    Path(__file__).with_name("doubt_weights.json").read_text("utf-8")
)
EQUAL, DIFFERENT = 0.9, 0.4  # agreement from which answers are the same, and up to which they are not
_MOST_OPINIONS = 8
_LEAST, _MOST = 0.01, 0.99


@dataclass(frozen=True, slots=True)
class Assessment:
    """Hold the doubt of an answer and its parts.  None = no such evidence."""

    doubt: float
    difficulty: float
    signs: Mapping[str, float]
    agreement: float | None = None  # the mean over all opinions
    confidence: float | None = None  # the geometric mean of the tokens' probabilities
    points: Mapping[str, float] = field(default_factory=dict)  # log-odds that each part adds

    @property
    def reason(self) -> str:
        """Return the part that adds most to the doubt: agreement, confidence or difficulty."""
        agreement, certainty = self.points.get("agreement", 0.0), self.points.get("confidence", 0.0)
        if max(agreement, certainty) <= 0:
            return "difficulty"
        return "agreement" if agreement >= certainty else "confidence"


def doubt(
    question: str,
    answer: object,
    *,
    second: object = None,
    logprobs: object = None,
    request: JsonObject | None = None,
    finish: str | None = None,
    difficulty: float | None = None,
    sampled: bool = False,
) -> float:
    """Return how likely an answer is wrong, 0 to 1.

    `answer` and `second` are texts or messages of the assistant; `second` may be a list of several.  `sampled` tells
    that they come from the same model, which counts less.  `logprobs` are natural logarithms.
    """
    return assess(
        question, answer, second=second, logprobs=logprobs, request=request, finish=finish, difficulty=difficulty,
        sampled=sampled,
    ).doubt  # fmt: skip


def assess(
    question: str,
    answer: object,
    *,
    second: object = None,
    logprobs: object = None,
    request: JsonObject | None = None,
    finish: str | None = None,
    difficulty: float | None = None,
    sampled: bool = False,
) -> Assessment:
    """Return the doubt of an answer with its parts."""
    ask, first = asked(question, request), read_answer(answer)
    if difficulty is None:
        difficulty = difficulty_text(ask.text)
    final = statement(first.text)
    value = value_of(ask, final)
    values = signs(ask, first.text, final, value, finish or "", difficulty)
    agreements = [agreement_of(ask, first, read_answer(other)) for other in opinions(second)]
    certainty = confidence(logprobs)
    points = {
        "answer": WEIGHTS["answer"]["bias"] + sum(WEIGHTS["answer"][name] * values[name] for name in NAMES),
        "agreement": points_of(agreements, answer_space(ask, value), WEIGHTS["sample" if sampled else "opinion"]),
        "confidence": confidence_points(certainty),
    }
    return Assessment(
        doubt=probability(sum(points.values())),
        difficulty=difficulty,
        signs=values,
        agreement=sum(agreements) / len(agreements) if agreements else None,
        confidence=certainty.probability if certainty else None,
        points=points,
    )


def opinions(second: object) -> list[object]:
    """Return the other answers: none, one, or several."""
    if second is None:
        return []
    if isinstance(second, Sequence) and not isinstance(second, (str, bytes)):
        return [other for other in second if other is not None][:_MOST_OPINIONS]
    return [second]


def answer_space(ask: Ask, value: Value) -> int:
    """Return how many answers are likely to be given at all: two answers out of two agree by chance, two free numbers
    do not."""
    if ask.space:
        return ask.space
    if value.number is not None and ask.wants != "number" and not ask.noun:
        candidates = ask.numbers
        if f"{value.number.value:g}" in {f"{number:g}" for number in candidates} and len(candidates) > 1:
            return len(candidates)
    return OPEN


def points_of(agreements: Sequence[float], space: int, weights: Mapping[str, float]) -> float:
    """Return the log-odds of the agreements.  Several opinions make the same mistakes, so each one counts less.

    A wrong answer gets the same wrong answer beside it by a shared mistake, or by chance when few answers are possible.
    """
    if not agreements:
        return 0.0
    right, shared = weights["agree when right"], weights["shared mistakes"]
    wrong = shared + (1 - shared) / space if space else shared
    wrong = min(wrong, 0.95 * right)  # agreement never adds doubt
    same, other = math.log(wrong / right), math.log((1 - wrong) / (1 - right))
    shares = (min(1.0, max(0.0, (value - DIFFERENT) / (EQUAL - DIFFERENT))) for value in agreements)
    total = sum(share * same + (1 - share) * other for share in shares)
    return total * math.pow(len(agreements), weights["several"] - 1)


def confidence_points(certainty: Confidence | None) -> float:
    """Return the log-odds of the tokens' probabilities."""
    if certainty is None:
        return 0.0
    weights = WEIGHTS["confidence"]
    return weights["bias"] + weights["mean"] * min(3.0, -certainty.mean) + weights["low"] * min(6.0, -certainty.low)


def probability(points: float) -> float:
    """Return the doubt that belongs to log-odds."""
    return min(_MOST, max(_LEAST, 1 / (1 + math.exp(-max(-30.0, min(30.0, points))))))

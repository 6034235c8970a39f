"""Estimate the doubt of an answer: how likely it is wrong, 0 to 1, from all evidence that there is.

The parts add up as log-odds: signs in the answer and the difficulty of its question, the agreement with other
opinions, and the model's own log-probabilities.  The weights come from doubt_weights.json (see training/doubt.py).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.routing.answer.agreement import Comparison, asked, compare
from app.routing.answer.ask import OPEN, Ask
from app.routing.answer.confidence import Confidence, confidence
from app.routing.answer.numbers import read_number
from app.routing.answer.signs import NAMES, signs
from app.routing.answer.structure import structure
from app.routing.answer.value import Value, final_of
from app.routing.classify import difficulty_text
from app.types import JsonObject

Weights = Mapping[str, Mapping[str, float]]
WEIGHTS: Weights = json.loads(Path(__file__).with_name("doubt_weights.json").read_text("utf-8"))
EQUAL, DIFFERENT = 0.9, 0.4  # agreement from which answers are the same, and up to which they are not
UNLIKE, LIKE = 0.1, 0.5  # the same for answers that are compared by their words only …
LIKENESS_SHARE = 0.25  # … which tells little
FAULTY = 0.9  # the least doubt of an answer with a fault in its structure: 92 % of them were wrong
_MOST_OPINIONS = 8
_LEAST, _MOST = 0.01, 0.99


@dataclass(frozen=True, slots=True)
class Assessment:
    """Hold the doubt of an answer and its parts.  None = no such evidence."""

    doubt: float
    difficulty: float
    signs: Mapping[str, float]  # in the answer
    points: Mapping[str, float]  # the log-odds that each part adds: answer, agreement, confidence
    agreement: float | None = None  # the mean over all opinions
    confidence: float | None = None  # the geometric mean of the tokens' probabilities


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
    """Return how likely an answer is wrong, 0 to 1, from its structure and all evidence that there is.

    `answer` and `second` are texts or messages of the assistant; `second` may be a list of several.  `sampled` tells
    that they come from the same model, which counts less.  `logprobs` are natural logarithms.
    """
    parts = assess(
        question, answer, second=second, logprobs=logprobs, request=request, finish=finish, difficulty=difficulty,
        sampled=sampled,
    )  # fmt: skip
    body = request if isinstance(request, Mapping) else {"messages": [{"role": "user", "content": question}]}
    return max(parts.doubt, FAULTY) if structure(body, answer, finish) else parts.doubt


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
    """Return the doubt of an answer with its parts, but without its structure."""
    ask = asked(question, request)
    if difficulty is None:
        difficulty = difficulty_text(ask.text)
    final = final_of(ask, answer)
    values = signs(ask, final, finish or "", difficulty)
    comparisons = [compare(ask, final, final_of(ask, other)) for other in opinions(second)]
    certainty = confidence(logprobs)
    alone = answer_points(values)
    points = {
        "answer": alone,
        "agreement": agreement_points(comparisons, answer_space(ask, final.value), alone, sampled),
        "confidence": confidence_points(certainty),
    }
    return Assessment(
        doubt=probability(sum(points.values())),
        difficulty=difficulty,
        signs=values,
        points=points,
        agreement=sum(one.agreement for one in comparisons) / len(comparisons) if comparisons else None,
        confidence=certainty.probability if certainty else None,
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
    if value.number is not None and not ask.noun and len(ask.numbers) > 1:
        candidates = {read_number(text)[0] for text in ask.numbers}
        return len(candidates) if value.number.value in candidates else OPEN
    return OPEN


def answer_points(values: Mapping[str, float], weights: Weights = WEIGHTS) -> float:
    """Return the log-odds of the signs in an answer."""
    own = weights["answer"]
    return own["bias"] + sum(own[name] * values[name] for name in NAMES)


def agreement_points(
    comparisons: Sequence[Comparison], space: int, alone: float, sampled: bool = False, weights: Weights = WEIGHTS
) -> float:
    """Return the log-odds of the comparisons with other opinions.  `alone` are the log-odds without them.

    A right answer is agreed with when the other model knows it too: often when it is easy.  A wrong answer is agreed
    with by a shared mistake.  Both happen by chance as well, when few answers are possible.  Several opinions make the
    same mistakes, so each one counts less.
    """
    if not comparisons:
        return 0.0
    own = weights["sample" if sampled else "opinion"]
    right = _with_chance(_logistic(own["right"] - own["right and harder"] * alone), space)
    wrong = _with_chance(_logistic(own["wrong"] - own["wrong and harder"] * alone), space)
    wrong = min(wrong, 0.95 * right)  # agreement never adds doubt
    same, other = math.log(wrong / right), math.log((1 - wrong) / (1 - right))
    total = sum(_points_of(comparison, same, other) for comparison in comparisons)
    return total * math.pow(len(comparisons), own["several"] - 1)


def _with_chance(share: float, space: int) -> float:
    """Return a share with those that meet by chance in a number of possible answers."""
    share = min(0.98, max(0.02, share))
    return share + (1 - share) / space if space else share


def _points_of(comparison: Comparison, same: float, other: float) -> float:
    least, most = (DIFFERENT, EQUAL) if comparison.has_values else (UNLIKE, LIKE)
    share = min(1.0, max(0.0, (comparison.agreement - least) / (most - least)))
    return (share * same + (1 - share) * other) * (1.0 if comparison.has_values else LIKENESS_SHARE)


def confidence_points(certainty: Confidence | None, weights: Weights = WEIGHTS) -> float:
    """Return the log-odds of the tokens' probabilities."""
    if certainty is None:
        return 0.0
    own = weights["confidence"]
    return own["bias"] + own["mean"] * min(3.0, -certainty.mean) + own["low"] * min(6.0, -certainty.low)


def probability(points: float) -> float:
    """Return the doubt that belongs to log-odds."""
    return min(_MOST, max(_LEAST, _logistic(points)))


def _logistic(points: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, points))))

"""Estimate how likely a small local model is not enough: seven signs, a weight for each, and one logistic curve.

The signs are few and simple for a reason: a large feature set that was trained on one set of questions ranked the
prompts of other sets worse than the length of the prompt alone did.  The weights come from weights.json (see
training/), except that of `hard`: public results cannot teach it, because the strong models of our data fail on proofs
as well.
"""

from __future__ import annotations

import math
from pathlib import Path

from app.routing.lexicon import Lexicon, tokens
from app.routing.memo import Memo

LEXICON = Lexicon(Path(__file__).with_name("lexicon_difficulty.txt"))
READ_CHARS = 1_500
FACT_CHARS = 160
LENGTH_CHARS = 8_000
HARD_ALONE = frozenset({"proof", "systems", "advanced"})  # one word of these lists is enough …
HARD_LISTS = (*sorted(HARD_ALONE), "advmath", "demand")  # … of the others, two words are needed
HARD_WEIGHT = 1.9
SLOPE, CENTRE = 1.03, 1.6  # so that the default cuts, 0.35 and 0.65, stand at 1.0 and 2.2 points


def signs(text: str, task: str, code: float) -> dict[str, float]:
    """Return the value of each sign that a strong model is needed; 0 = the sign is absent.

    `code` is the probability that the task is code.  It counts squared, so an uncertain guess adds little.
    """
    lists = _lists_of(text)
    length = math.log(min(len(text), LENGTH_CHARS) + 20) - 5
    if task == "summarisation":
        length = min(length, 0) + 0.4 * max(length, 0)  # the document makes it long, not the task
    return {
        "size": length,
        "code": code**2,
        "fact": float("lookup" in lists and len(text) < FACT_CHARS),
        "reading": float("reading" in lists),
        "judgement": float("law" in lists or "morals" in lists),
        "science": float("science" in lists or "medicine" in lists or "economics" in lists),
        "hard": _hard(lists),
    }


@Memo
def _lists_of(text: str) -> dict[str, int]:
    beginning = text[:READ_CHARS]
    return LEXICON.count(tokens(beginning), beginning)


_LISTS = {
    "fact": ("lookup",),
    "reading": ("reading",),
    "judgement": ("law", "morals"),
    "science": ("science", "medicine", "economics"),
    "hard": HARD_LISTS,
}


def words_of(sign: str, text: str) -> tuple[str, ...]:
    """Return the words of `text` that made a sign present; none for `size` and `code`."""
    beginning = text[:READ_CHARS]
    words = tokens(beginning)
    return tuple(entry for name in _LISTS.get(sign, ()) for entry in LEXICON.entries(name, words, beginning))


def _hard(lists: dict[str, int]) -> float:
    count = min(4, sum(lists.get(name, 0) for name in HARD_LISTS))
    return math.sqrt(count) if count > 1 or HARD_ALONE & lists.keys() else 0.0


def difficulty(points: float) -> float:
    """Return the difficulty, 0 to 1, that belongs to the points."""
    return 1 / (1 + math.exp(-SLOPE * (points - CENTRE)))

"""Estimate how likely a small local model is not enough: nine signs, a weight for each, and one logistic curve.

The signs are few and simple for a reason: a large feature set that was trained on one set of questions ranked the
prompts of other sets worse than the length of the prompt alone did.  The weights come from weights.json (see
training/).
"""

from __future__ import annotations

import math
import re
from pathlib import Path

from app.routing.lexicon import Lexicon, tokens
from app.routing.memo import Memo

LEXICON = Lexicon(Path(__file__).with_name("lexicon_difficulty.txt"))
READ_CHARS = 1_500
FACT_CHARS = 160
LENGTH_CHARS = 8_000
HARD_ALONE = frozenset({"proof", "systems", "advanced"})  # one word of these lists is enough …
DOMAINS = frozenset({"law"})  # work on it, not a question about it, is hard
HARD_LISTS = (*sorted(HARD_ALONE), "advmath", "demand")  # … of the others, two words are needed
MAX_HARD = 6  # words that count: more of them make a prompt longer, not harder
OPTIONS_CHARS, MIN_QUESTION_CHARS = 3_000, 20
SLOPE, CENTRE = 1.376, 1.18  # so that the default cuts, 0.35 and 0.65, stand at 0.73 and 1.63 points

_OPTION = re.compile(r"(?:^|\s)\(?([A-J])[).:]\s")  # A) … B) …
_THREE_BYTES = bytes(range(0xE0, 0xF0))  # the first byte of a character of three
_MATH_MARKS = ("\\frac", "\\sum", "\\int", "\\sqrt", "^2", "x^", "= 0")


def signs(text: str, task: str, code: float) -> dict[str, float]:
    """Return the value of each sign that a strong model is needed; 0 = the sign is absent.

    `code` is the probability that the task is code.  It counts squared, so an uncertain guess adds little.
    """
    question = without_options(text)
    lists = _lists_of(question)
    length = math.log(_length(question[:LENGTH_CHARS]) + 20) - 5
    if task == "summarisation":
        length = min(length, 0) + 0.4 * max(length, 0)  # the document makes it long, not the task
    return {
        "size": length,
        "code": code**2,
        "fact": float("lookup" in lists and len(question) < FACT_CHARS),
        "reading": float("reading" in lists),
        "judgement": float("law" in lists or "morals" in lists),
        "science": float("science" in lists or "medicine" in lists or "economics" in lists),
        "mathematics": float(lists.get("quantity", 0) > 1 or any(mark in question for mark in _MATH_MARKS)),
        "steps": min(4, max(0, lists.get("steps", 0) - 1)) / 4,
        "hard": _hard(lists),
    }


def without_options(text: str) -> str:
    """Return the text up to the options of a multiple-choice question: they make it longer, not harder."""
    beginning = text[:OPTIONS_CHARS]
    if "B" not in beginning or "C" not in beginning:
        return text
    starts = {option[1]: option.start() for option in reversed(list(_OPTION.finditer(beginning)))}
    if {"A", "B", "C"} <= starts.keys() and starts["A"] >= MIN_QUESTION_CHARS:
        return text[: starts["A"]]
    return text


def _length(text: str) -> float:
    """Return the characters; one of three bytes, such as a Chinese one, says as much as 2.5 of English."""
    if text.isascii():
        return len(text)
    data = text.encode("utf-8", "replace")
    return len(text) + 1.5 * (len(data) - len(data.translate(None, _THREE_BYTES)))


@Memo
def _lists_of(text: str) -> dict[str, int]:
    beginning = text[:READ_CHARS]
    return LEXICON.count(tokens(beginning), beginning)


_LISTS = {
    "fact": ("lookup",),
    "reading": ("reading",),
    "judgement": ("law", "morals"),
    "science": ("science", "medicine", "economics"),
    "mathematics": ("quantity",),
    "steps": ("steps",),
    "hard": HARD_LISTS,
}


def words_of(sign: str, text: str) -> tuple[str, ...]:
    """Return the words of `text` that made a sign present; none for `size` and `code`."""
    beginning = without_options(text)[:READ_CHARS]
    words = tokens(beginning)
    return tuple(entry for name in _LISTS.get(sign, ()) for entry in LEXICON.entries(name, words, beginning))


def _hard(lists: dict[str, int]) -> float:
    count = min(MAX_HARD, sum(lists.get(name, 0) for name in HARD_LISTS))
    count += "demand" in lists and not DOMAINS.isdisjoint(lists)
    return math.sqrt(count) if count > 1 or HARD_ALONE & lists.keys() else 0.0


def difficulty(points: float) -> float:
    """Return the difficulty, 0 to 1, that belongs to the points."""
    return 1 / (1 + math.exp(-SLOPE * (points - CENTRE)))

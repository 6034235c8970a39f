"""How likely is a small local model not enough?  A handful of signs, a weight each, one logistic curve.

Few and plain on purpose: what a large feature set learned from one set of questions ranked other sets worse than the
length of the prompt alone.  The weights come from the artefact (see training/), `hard` excepted: public results
cannot teach it, since on proofs the strong models of our data fail as well.
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
HARD_ALONE = frozenset({"proof", "systems", "advanced"})  # these speak for themselves …
HARD_LISTS = (*sorted(HARD_ALONE), "advmath", "demand")  # … the others only in company
HARD_WEIGHT = 1.9
SLOPE, CENTRE = 1.03, 1.6  # puts the default cuts, 0.35 and 0.65, at 1.0 and 2.2 points


def signs(text: str, task: str, code: float) -> dict[str, float]:
    """What speaks for, or against, the need of a strong model; a sign that is absent is 0.

    `code` is the chance that code is asked for: a guess at code is no sign of difficulty.
    """
    lists = _lists_of(text)
    length = math.log(min(len(text), LENGTH_CHARS) + 20) - 5
    if task == "summarisation":
        length = min(length, 0) + 0.4 * max(length, 0)  # long, because a document came along
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
    read = text[:READ_CHARS]
    return LEXICON.count(tokens(read), read)


_LISTS = {
    "fact": ("lookup",),
    "reading": ("reading",),
    "judgement": ("law", "morals"),
    "science": ("science", "medicine", "economics"),
    "hard": HARD_LISTS,
}


def words_of(sign: str, text: str) -> tuple[str, ...]:
    """The words of `text` that made a sign speak; none for `size` and `code`."""
    read = text[:READ_CHARS]
    return tuple(entry for name in _LISTS.get(sign, ()) for entry in LEXICON.entries(name, tokens(read), read))


def _hard(lists: dict[str, int]) -> float:
    found = min(4, sum(lists.get(name, 0) for name in HARD_LISTS))
    return math.sqrt(found) if found > 1 or HARD_ALONE & lists.keys() else 0.0


def difficulty(points: float) -> float:
    """0 to 1."""
    return 1 / (1 + math.exp(-SLOPE * (points - CENTRE)))

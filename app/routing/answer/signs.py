"""Find the signs of a wrong answer in the answer itself: 0 = absent, and more of a sign never lowers the doubt."""

from __future__ import annotations

import math

from app.routing.answer.arithmetic import shown
from app.routing.answer.ask import Ask
from app.routing.answer.final import bounded
from app.routing.answer.lists import WORDS
from app.routing.answer.normal import folded
from app.routing.answer.value import Final, Value

NAMES = (
    "length", "no final answer", "no reasons", "open end", "hedges", "false arithmetic", "unchecked", "not derived",
    "calculation", "notation", "numbers", "difficulty",
)  # fmt: skip
_ENDS = (".", "!", "?", "}", "]", ")", '"', "'", "`", "*", "。", "！", "？", "」", "|", ">", ":", "$", "…")
_LONG_CHARS = 200


def signs(ask: Ask, final: Final, finish: str, difficulty: float) -> dict[str, float]:
    """Return the value of each sign of an answer."""
    text = final.answer.text
    part = bounded(text)
    is_open = finish == "length" or (len(text) > _LONG_CHARS and not text.rstrip().endswith(_ENDS))
    true, false = shown(text, is_open)
    return {
        "length": min(8.0, max(4.0, math.log(len(text) + 20))) - 4.0,
        "no final answer": float(_is_missing(ask, final.value)),
        "no reasons": float(final.statement.is_whole),
        "open end": float(is_open),
        "hedges": float(min(3, _hedges(part))),
        "false arithmetic": float(min(2, false)),
        "unchecked": float(not true or false > 0),
        "not derived": _absence(ask, final.value, part),
        "calculation": math.log1p(min(20, part[-4_000:].count("="))),
        "notation": math.log1p(min(20, _notation(part[-4_000:]) + _notation(ask.text[:1_200]))),
        "numbers": math.log1p(min(12, len(ask.numbers))),
        "difficulty": difficulty,
    }


def _is_missing(ask: Ask, value: Value) -> bool:
    """Return True when a question with a short answer got none."""
    if ask.wants == "choice":
        return not value.option
    if ask.wants == "label":
        return not value.label
    if ask.wants == "yes_no":
        return not value.verdict
    if ask.wants in ("number", "date"):
        return not (value.number or value.moment)
    return False


def _notation(text: str) -> int:
    """Count the signs of formulas."""
    return text.count("\\") + text.count("^") + text.count("_{") + text.count("√") + text.count("π")


def _hedges(text: str) -> int:
    lower = text[-2_000:].lower()
    return sum(lower.count(words) for words in WORDS["hedge"])


def _absence(ask: Ask, value: Value, text: str) -> float:
    """Return 1 when an answer that reasons never mentions what it chooses, the option's numbers or its words."""
    chosen = next((option for option in ask.options if option.mark == value.option), None)
    if chosen is None or len(text) < _LONG_CHARS:
        return 0.0
    words = chosen.phrase.split()
    words = [word for word in words if word[0].isdigit()] or words
    lower = folded(text)
    return float(bool(words) and not any(word in lower for word in words))

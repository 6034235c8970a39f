"""Compare two answers to one question by their final answers: 1 = the same, 0 = another one.

Answers without a comparable value are compared by their words.  Unequal values give at most UNEQUAL, so that 0.5 always
tells the same from another.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.routing.answer.ask import QUOTED, Ask, ask_of
from app.routing.answer.code import code_tokens, is_code
from app.routing.answer.dates import same_moment
from app.routing.answer.final import bounded, fenced, parsed
from app.routing.answer.lists import WORDS
from app.routing.answer.normal import folded, normal_words
from app.routing.answer.numbers import Quantity, same_number
from app.routing.answer.plain import tokens
from app.routing.answer.reading import ToolCall, read_question, text_of
from app.routing.answer.value import Final, Value, final_of
from app.types import JsonObject

UNEQUAL = 0.4
_SHORT_WORDS = 30
_RANGE_CHARS = 60
_FEW_WORDS = 4
_YEAR_DIGITS = 4  # a year may be told beside a name
_SHORT_CHARS = 400
_ENDS_CHARS = 1_200  # of long texts
_MOST_LEAVES = 500
_NEGATIONS = frozenset(map(folded, WORDS["negation"]))


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold the result of a comparison of two answers."""

    agreement: float  # 0 to 1
    has_values: bool = True  # they were compared by value; long prose and code are not


def agreement(question: str, answer: object, second: object, request: JsonObject | None = None) -> float:
    """Return how much two answers (texts or messages) agree, 0 to 1."""
    ask = asked(question, request)
    return compare(ask, final_of(ask, answer), final_of(ask, second)).agreement


def asked(question: object, request: JsonObject | None) -> Ask:
    """Return what a question asks for; without a question, what the chat body asks for."""
    return ask_of(text_of(question) or read_question(request).ask, request)


def compare(ask: Ask, first: Final, second: Final) -> Comparison:
    """Return how much two answers agree, and whether they were compared by value."""
    one, two = first.answer, second.answer
    if one.calls or two.calls:
        return Comparison(_calls(one.calls, two.calls))
    if one.is_blank or two.is_blank:
        return Comparison(float(one.is_blank and two.is_blank))
    for values in (_documents, _code, _values, _statements):
        if (result := values(ask, first, second)) is not None:
            return Comparison(result, has_values=values is not _code or result == 1)
    return Comparison(_likeness(one.text, two.text), has_values=False)


def _values(ask: Ask, first: Final, second: Final) -> float | None:
    """Return 1 or 0 when both answers have a value of the same kind, else None."""
    one, two = first.value, second.value
    if one.option and two.option:
        return float(one.option == two.option)
    if one.label and two.label:
        return float(one.label == two.label)
    closed = ask.wants == "yes_no" or not (ask.options or ask.labels)
    if closed and one.verdict and two.verdict and ask.wants not in ("number", "date"):
        return float(one.verdict == two.verdict)
    if _normal(first.statement.text) == _normal(second.statement.text) != "":
        return 1.0
    if _is_formula(first.statement.text) and _is_formula(second.statement.text):
        return _formulas(ask, first, second)
    if one.moment and two.moment and ask.wants != "number":
        return float(same_moment(one.moment, two.moment))
    if "year" in ask.text.lower() and (_is_year(one, two) or _is_year(two, one)):
        return 1.0
    ranges = _range(first.statement.text), _range(second.statement.text)
    if all(ranges):
        return float(ranges[0] == ranges[1])
    if _has_day(one) != _has_day(two) and ask.wants != "number":
        return None
    return _numbers(ask, one, two) if _is_numeric(ask, first) and _is_numeric(ask, second) else None


def _range(text: str) -> list[str]:
    """Return both numbers of a range or a ratio, such as 40-50 or "between 40 and 50"; nothing for other texts."""
    words = [
        token.text for token in tokens(text[:_RANGE_CHARS]) if token.text not in ("between", "from", "zwischen", ".")
    ]
    is_range = len(words) == 3 and words[0][0].isdigit() and words[2][0].isdigit()
    is_range = is_range and words[1] in ("-", ":", "to", "and", "bis", "und", "à", "a")
    return [words[0], words[2], ":" if words[1] == ":" else "-"] if is_range else []


def _has_day(value: Value) -> bool:
    return value.moment is not None and bool(value.moment.days)


def _is_year(date: Value, number: Value) -> bool:
    """Return True when one answer is the year of the other's date."""
    if not date.moment or not number.number:
        return False
    return any(day[0] == number.number.value for day in date.moment.days)


def _is_numeric(ask: Ask, final: Final) -> bool:
    """Return True when a number is what an answer says."""
    value = final.value
    if value.number is None or (final.statement.text.strip()[:1] in ("[", "(", "{") and "," in final.statement.text):
        return False
    if ask.wants == "number" or (ask.labels and all(label[:1].isdigit() for label in ask.labels)):
        return True
    return value.words <= 3 + 2 * value.count and value.count <= 3


def _numbers(ask: Ask, first: Value, second: Value) -> float:
    """Compare numbers.  Where the question tells one of them, a rounded number is another one."""
    if first.number is None or second.number is None:
        return 0.0
    exact = any(_written(number) in ask.numbers for number in (first.number, second.number))
    return float(same_number(first.number, second.number, exact))


def _written(number: Quantity) -> str:
    if math.isinf(number.value) or math.isnan(number.value):
        return ""
    return f"{number.value:.{max(0, number.decimals)}f}"


def _normal(text: str) -> str:
    """Return an expression or a short text without blanks, quotes, case and "x =" in front of it."""
    compact = "".join(folded(text).split()).rpartition("==")[2].strip(".,;:!?\"'`$")
    name, mark, rest = compact.partition("=")
    compact = rest if mark and len(name) <= 4 and rest and "=" not in rest else compact
    compact = compact.replace("'", "").replace("*", "").replace('"', "")
    return "null" if compact == "none" else compact


def _is_formula(text: str) -> bool:
    """Return True for an expression, a list or a point: its signs and their order matter."""
    words = [token.text for token in tokens(text) if token.is_word]
    has_signs = any(sign in text for sign in "^[](){}√+") or "=" in text or " - " in text
    return has_signs and sum(len(word) > 2 for word in words) <= 2 + text.count(",") + text.count("'") + text.count('"')


def _formulas(ask: Ask, first: Final, second: Final) -> float:
    """Compare expressions that are not written in the same way: by value when each is one number."""
    if _is_numeric(ask, first) and _is_numeric(ask, second) and not (first.value.words or second.value.words):
        return _numbers(ask, first.value, second.value)
    one, two = (_literal(final.statement.text) for final in (first, second))
    if one is not None and two is not None and _canonical(one) == _canonical(two):
        return 1.0
    return UNEQUAL * overlap(_normal(first.statement.text), _normal(second.statement.text))


def _literal(text: str) -> object:
    """Return the list or the object that a text is in Python, or None."""
    for name, value in (("True", "true"), ("False", "false"), ("None", "null"), ("'", '"')):
        text = text.replace(name, value)
    return parsed(text) if text.strip()[:1] in ("[", "{") else None


def _calls(first: Sequence[ToolCall], second: Sequence[ToolCall]) -> float:
    """Compare tool calls by their names and the values of their arguments, in any order."""
    one, two = (sorted((call.name, _canonical(_arguments(call))) for call in calls) for calls in (first, second))
    if one == two:
        return 1.0
    names = [name for name, _ in one] == [name for name, _ in two]
    return 0.5 * UNEQUAL if names else 0.0


def _arguments(call: ToolCall) -> object:
    if not isinstance(call.arguments, str):
        return call.arguments or {}
    document = parsed(call.arguments) if call.arguments.strip() else {}
    return call.arguments.strip() if document is None else document


def _documents(_ask: Ask, first: Final, second: Final) -> float | None:
    """Compare answers that are JSON by value, unless a member of them is the final answer."""
    one, two = first.statement, second.statement
    if one.document is None or two.document is None or one.is_stated or two.is_stated:
        return None
    if one.document == two.document or _canonical(one.document) == _canonical(two.document):
        return 1.0
    return UNEQUAL * overlap([*_leaves(one.document)], [*_leaves(two.document)])


def _canonical(value: object) -> str:
    """Return JSON in one form: sorted members, numbers by value, texts without case and blanks around them."""
    try:
        return json.dumps(_simple(value, 0), sort_keys=True, ensure_ascii=False, default=str)
    except (ValueError, TypeError, RecursionError):
        return ""


def _simple(value: object, depth: int) -> object:
    if depth > 50:
        return ""
    if isinstance(value, Mapping):
        return {str(name): _simple(entry, depth + 1) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_simple(entry, depth + 1) for entry in value]
    if isinstance(value, str):
        text = " ".join(folded(value).split()).rstrip(".")
        return _number_text(text)
    if isinstance(value, bool) or value is None:
        return value
    return _number_text(str(value))


def _number_text(text: str) -> str:
    """Return 13.90 and 13.9 as the same text."""
    try:
        number = float(text)
    except ValueError:
        return text
    return text if "_" in text else f"{number:.12g}"


def _leaves(value: object, path: str = "", depth: int = 0) -> Iterator[str]:
    """Yield the members of a document with their paths."""
    entries: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        entries = [(str(name), entry) for name, entry in list(value.items())[:_MOST_LEAVES]]
    elif isinstance(value, (list, tuple)):
        entries = [("", entry) for entry in value[:_MOST_LEAVES]]
    if not entries or depth > 8:
        yield f"{path}={_canonical(value)}"
        return
    for name, entry in entries:
        yield from _leaves(entry, f"{path}/{name}", depth + 1)


def _code(ask: Ask, first: Final, second: Final) -> float | None:
    """Compare code by its tokens, without comments and white space; None when it is no code."""
    texts = first.answer.text, second.answer.text
    if not all(is_code(text, ask.wants) for text in texts):
        return None
    one, two = (code_tokens(fenced(bounded(text))) for text in texts)
    return 1.0 if one == two else UNEQUAL * overlap(one, two)


def _statements(ask: Ask, first: Final, second: Final) -> float | None:
    """Compare short final answers by their words; None when there are none."""
    has_value = [bool(value.option or value.label) for value in (first.value, second.value)]
    if (ask.options or ask.labels) and has_value[0] != has_value[1]:
        return 0.0  # one of them chooses
    length = max(len(first.answer.text), len(second.answer.text))
    if not (first.statement.is_stated or second.statement.is_stated or length <= _SHORT_CHARS):
        return None
    if (quoted := _quoted(ask, first.statement.text, second.statement.text)) is not None:
        return quoted
    one, two = normal_words(first.statement.text), normal_words(second.statement.text)
    return _short(ask, one, two) if max(len(one), len(two)) <= _SHORT_WORDS else None


def _quoted(ask: Ask, first: str, second: str) -> float | None:
    """Compare the words that both texts put in quotes; None when one of them has no quotes around a new word."""
    one, two = (
        next((words for term in QUOTED.findall(text) if (words := normal_words(term)) and set(words) - ask.words), None)
        for text in (first, second)
    )
    if ask.wants != "short" or not one or not two:
        return None
    return 1.0 if _stems(one) == _stems(two) else UNEQUAL * overlap(one, two)


def _likeness(first: str, second: str) -> float:
    """Return the overlap of the words of two long texts, at their beginnings and ends."""
    return overlap(*(normal_words(f"{text[:_ENDS_CHARS]} {text[-_ENDS_CHARS:]}") for text in (first, second)))


def _short(ask: Ask, first: Sequence[str], second: Sequence[str]) -> float:
    """Compare short texts: the same words, or one text inside the other, once the words of the question are gone."""
    one = [word for word in first if word not in ask.words] or list(first)
    two = [word for word in second if word not in ask.words] or list(second)
    if _stems(one) == _stems(two):
        return 1.0
    small, large = sorted((_stems(one), _stems(two)), key=len)
    is_part = bool(small) and set(small) <= set(large) and not _negated(one, two)
    numbers = {word for word in set(large) - set(small) if word[0].isdigit()}
    if is_part and all(len(number) == _YEAR_DIGITS for number in numbers):
        return 0.9 if len(large) <= 4 * len(small) + 4 else UNEQUAL
    if ask.wants == "short" and len(large) > _FEW_WORDS and one[0] == two[0]:
        return 0.7  # the answer comes first, and talk about it follows
    return UNEQUAL * overlap(one, two)


def _negated(one: Sequence[str], two: Sequence[str]) -> bool:
    return bool(_NEGATIONS & set(one)) != bool(_NEGATIONS & set(two))


def _stems(words: Sequence[str]) -> list[str]:
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of words that two texts have in common (Dice's coefficient)."""
    one, two = Counter(first), Counter(second)
    return 2 * (one & two).total() / max(1, one.total() + two.total())

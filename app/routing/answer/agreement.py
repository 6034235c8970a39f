"""Compare two answers to one question by their final answers: 1 = the same, 0 = another one.

Answers without a comparable value are compared by their words.  Unequal values give at most UNEQUAL, so that 0.5 always
tells the same from another.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from app.routing.answer.ask import Ask, ask_of, number_words
from app.routing.answer.code import code_tokens, is_code
from app.routing.answer.dates import same_moment
from app.routing.answer.final import Statement, bounded, fenced, parsed, statement
from app.routing.answer.lists import WORDS
from app.routing.answer.numbers import Quantity, same_number
from app.routing.answer.plain import plain, tokens
from app.routing.answer.reading import Answer, ToolCall, read_answer, read_question
from app.routing.answer.value import Value, folded, normal_words, value_of
from app.types import JsonObject

UNEQUAL = 0.4
_SHORT_WORDS = 30
_MOST_LEAVES = 500
_NEGATIONS = frozenset(map(folded, WORDS["negation"]))


def agreement(question: str, answer: object, second: object, request: JsonObject | None = None) -> float:
    """Return how much two answers (texts or messages) agree, 0 to 1."""
    return agreement_of(asked(question, request), read_answer(answer), read_answer(second))


def asked(question: object, request: JsonObject | None) -> Ask:
    """Return what a question asks for; without a question, what the chat body asks for."""
    text = question if isinstance(question, str) else ""
    return ask_of(text or read_question(request).ask, request)


def agreement_of(ask: Ask, answer: Answer, second: Answer) -> float:
    """Return how much two answers agree."""
    if answer.calls or second.calls:
        return _calls(answer.calls, second.calls)
    if answer.is_blank or second.is_blank:
        return float(answer.is_blank and second.is_blank)
    one, two = statement(answer.text), statement(second.text)
    documents = _documents(one, two)
    if documents is not None:
        return documents
    code = _code(ask, answer.text, second.text)
    if code is not None:
        return code
    values = _values(ask, one, two, value_of(ask, one), value_of(ask, two))
    return _texts(ask, answer.text, second.text, one, two) if values is None else values


def _values(ask: Ask, one: Statement, two: Statement, first: Value, second: Value) -> float | None:
    """Return 1 or 0 when both answers have a value of the same kind, else None."""
    if first.option and second.option:
        return float(first.option == second.option)
    if first.label and second.label:
        return float(first.label == second.label)
    closed = ask.wants == "yes_no" or not (ask.options or ask.labels)
    if closed and first.verdict and second.verdict and ask.wants not in ("number", "date"):
        return float(first.verdict == second.verdict)
    if _normal(one.text) == _normal(two.text) != "":
        return 1.0
    if _is_formula(one.text) and _is_formula(two.text):
        return _formulas(ask, one, two, first, second)
    if first.moment and second.moment and ask.wants != "number":
        return float(same_moment(first.moment, second.moment))
    if year := _year(ask, first, second):
        return year
    if _is_numeric(ask, one, first) and _is_numeric(ask, two, second):
        return _numbers(ask, first, second)
    return None


def _is_formula(text: str) -> bool:
    """Return True for an expression, a list or a point: its signs and their order matter."""
    words = [token.text for token in tokens(text) if token.is_word]
    has_signs = any(sign in text for sign in "^[](){}√+") or "=" in text or " - " in text
    return has_signs and sum(len(word) > 2 for word in words) <= 2 + text.count(",") + text.count("'") + text.count('"')


def _formulas(ask: Ask, one: Statement, two: Statement, first: Value, second: Value) -> float:
    """Compare expressions that are not written in the same way: by value when each is one number."""
    numeric = _is_numeric(ask, one, first) and _is_numeric(ask, two, second)
    if numeric and not any(any(token.is_word for token in tokens(part.text)) for part in (one, two)):
        return _numbers(ask, first, second)
    return UNEQUAL * overlap(_normal(one.text), _normal(two.text))


def _year(ask: Ask, first: Value, second: Value) -> float | None:
    """Return 1 when one answer is the year of the other's date."""
    if "year" not in ask.text.lower():
        return None
    for date, number in ((first.moment, second.number), (second.moment, first.number)):
        if date and number and any(day[0] == number.value for day in date.days):
            return 1.0
    return None


def _is_numeric(ask: Ask, statement: Statement, value: Value) -> bool:
    """Return True when a number is what a statement says."""
    if value.number is None:
        return False
    if ask.wants == "number" or (ask.labels and all(label[:1].isdigit() for label in ask.labels)):
        return True
    words = [token for token in tokens(statement.text) if token.is_word]
    return len(words) <= 3 + 2 * len(value.numbers) and len(value.numbers) <= 3 and not _has_brackets(statement.text)


def _has_brackets(text: str) -> bool:
    return text.strip()[:1] in "[({" and "," in text


def _numbers(ask: Ask, first: Value, second: Value) -> float:
    if first.number is None or second.number is None:
        return 0.0
    in_question = number_words(ask.text[-1_200:])
    exact = any(_written(number) in in_question for number in (first.number, second.number))
    return float(same_number(first.number, second.number, exact))


def _written(number: Quantity) -> str:
    if math.isinf(number.value) or math.isnan(number.value):
        return ""
    return f"{number.value:.{max(0, number.decimals)}f}"


def _normal(text: str) -> str:
    """Return an expression or a short text without blanks, quotes, case and "x =" in front of it."""
    compact = "".join(folded(text).split()).strip(".,;:!?\"'`$")
    name, mark, rest = compact.partition("=")
    compact = rest if mark and len(name) <= 4 and rest and "=" not in rest else compact
    return compact.replace("'", '"').replace("*", "").replace('"', "")


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


def _documents(one: Statement, two: Statement) -> float | None:
    """Compare answers that are JSON by value, unless a member of them is the final answer."""
    if one.document is None or two.document is None or (one.is_stated and two.is_stated):
        return None
    if one.document == two.document or _canonical(one.document) == _canonical(two.document):
        return 1.0
    first, second = Counter(_leaves(one.document)), Counter(_leaves(two.document))
    shared = (first & second).total()
    return UNEQUAL * 2 * shared / max(1, first.total() + second.total())


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


def _code(ask: Ask, first: str, second: str) -> float | None:
    """Compare code by its tokens, without comments and white space; None when it is no code."""
    if not (is_code(first, ask.wants) and is_code(second, ask.wants)):
        return None
    one, two = code_tokens(fenced(bounded(first))), code_tokens(fenced(bounded(second)))
    return 1.0 if one == two else UNEQUAL * overlap(one, two)


def _texts(ask: Ask, first: str, second: str, one: Statement, two: Statement) -> float:
    """Compare by words: short statements without the words of the question, long texts by their overlap."""
    if one.is_stated or two.is_stated or max(len(first), len(second)) <= 400:
        words = [normal_words(part.text) for part in (one, two)]
        if max(map(len, words)) <= _SHORT_WORDS:
            return _short(ask, *words)
    words = [
        normal_words(plain(bounded(text)[:1_200]) + " " + plain(bounded(text)[-1_200:])) for text in (first, second)
    ]
    return overlap(*words)


def _short(ask: Ask, first: Sequence[str], second: Sequence[str]) -> float:
    """Compare short texts: the same words, or one text inside the other, once the words of the question are gone."""
    own = set(normal_words(ask.text[:600])) | set(normal_words(ask.text[-600:]))
    one = [word for word in first if word not in own] or list(first)
    two = [word for word in second if word not in own] or list(second)
    if _stems(one) == _stems(two):
        return 1.0
    numbers = [{word for word in words if word[0].isdigit()} for words in (one, two)]
    small, large = sorted((_stems(one), _stems(two)), key=len)
    if small and set(small) <= set(large) and numbers[0] == numbers[1] and not _negated(one, two):
        return 0.9 if len(large) <= 4 * len(small) + 4 else UNEQUAL
    return UNEQUAL * overlap(one, two)


def _negated(one: Sequence[str], two: Sequence[str]) -> bool:
    return bool(_NEGATIONS & set(one)) != bool(_NEGATIONS & set(two))


def _stems(words: Sequence[str]) -> list[str]:
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in words]


def overlap(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of words that two texts have in common (Dice's coefficient)."""
    one, two = Counter(first), Counter(second)
    return 2 * (one & two).total() / max(1, one.total() + two.total())

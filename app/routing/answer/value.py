"""Read the value of a statement: the option, the label, yes or no, the number or the date that it gives."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.routing.answer.ask import Ask
from app.routing.answer.dates import Moment, moments
from app.routing.answer.final import Statement, statement
from app.routing.answer.lists import WORDS
from app.routing.answer.normal import normal_words, phrase, words_of
from app.routing.answer.numbers import Quantity, quantities, writes_comma
from app.routing.answer.plain import Token, tokens
from app.routing.answer.reading import Answer, read_answer

YES, NO = "yes", "no"
_YES_WORDS, _NO_WORDS = frozenset(WORDS["yes"]), frozenset(WORDS["no"])
_NEGATIONS = frozenset(WORDS["negation"])
_FILLERS = frozenset({"it", "he", "she", "they", "that", "this", "indeed", "actually", "es", "er", "sie"})
_LETTER = re.compile(
    r"(?:^|(?<=[^\x00-\x7f])|[\s(\[\"'*])(?:(?i:option|choice|answer|letter|antwort|opci[oó]n|opç[aã]o|opzione|optie|вариант)\s{1,2})?"
    r"[(\[\"'*]{0,3}([A-P]|[1-9])(?:[)\].:,;\"'*]|(?=[^\x00-\x7f])|\s{0,2}$|\s(?=and\b|or\b|is\b|because\b|-|=))"
)
_BRACKETED = re.compile(r"\(\s?([A-Pa-p]|[1-9])\s?\)|(?i:option|choice|answer)\s\(?([A-Pa-p])\b(?![\w'])")
_SMALL_LETTER = re.compile(r"^\W{0,3}([a-p])(?:\W|$)")


@dataclass(frozen=True, slots=True)
class Value:
    """Hold all that a statement may mean."""

    option: str = ""  # the letter
    label: str = ""
    verdict: str = ""  # yes or no
    number: Quantity | None = None
    moment: Moment | None = None
    count: int = 0  # of the numbers
    words: int = 0  # the number of words


@dataclass(frozen=True, slots=True)
class Final:
    """Hold an answer with its final answer."""

    answer: Answer
    statement: Statement
    value: Value


def final_of(ask: Ask, answer: object) -> Final:
    """Return an answer (a text or a message) with its final answer to a question."""
    reply = read_answer(answer)
    own = statement(reply.text)
    return Final(reply, own, value_of(ask, own))


def value_of(ask: Ask, statement: Statement) -> Value:
    """Return what a statement means as an answer to a question."""
    parts = tokens(statement.text)
    words = [part.text for part in parts if part.is_word]
    numbers = quantities(parts, ask.writes_comma or writes_comma(words))
    dates = moments(parts)
    return Value(
        option=_option(ask, statement) if ask.options else "",
        label=_label(ask.labels, statement) if ask.labels else "",
        verdict=verdict(statement) or (_restated(ask, statement) if ask.wants == "yes_no" else ""),
        number=_number(_new(numbers, parts, ask), parts, ask.noun) if numbers else None,
        moment=dates[-1] if dates and (dates[-1].days or len(parts) < 8) else None,
        count=len(numbers),
        words=len(words),
    )


def verdict(statement: Statement) -> str:
    """Return yes or no when a statement begins with it or is it; else ""."""
    for text in (statement.text, "" if statement.is_stated else statement.first):
        words = [token.text for token in tokens(text)[:6] if token.is_word]
        if not words:
            continue
        beginnings = {" ".join(words[:count]) for count in (1, 2, 3)}
        if beginnings & _NO_WORDS:
            return YES if words[0] == "not" and words[1:2] and words[1] in _NO_WORDS else NO
        if beginnings & _YES_WORDS:
            return YES
        if len(words) <= 6 and len(verdicts := {_polarity(word) for word in words} - {""}) == 1:
            return verdicts.pop()
    return _wide_verdict(statement.text)


def _restated(ask: Ask, statement: Statement) -> str:
    """Return yes for a short statement in the words of its question, and no with a negation in it."""
    words = set(normal_words(statement.text))
    if not words or len(words) > 12 or not words - _NEGATIONS <= ask.words | _FILLERS:
        return ""
    return NO if words & _NEGATIONS else YES


def _polarity(word: str) -> str:
    return YES if word in ("true", "yes", "correct") else NO if word in ("false", "no", "incorrect") else ""


def _wide_verdict(text: str) -> str:
    """Return yes or no in a script without spaces."""
    if text.isascii():
        return ""
    for words, meaning in ((_NO_WORDS, NO), (_YES_WORDS, YES)):
        if any(text.startswith(word) for word in words if word > "\u0900"):
            return meaning
    return ""


def _option(ask: Ask, statement: Statement) -> str:
    """Return the letter of the option that a statement chooses, or ""."""
    marks = [option.mark for option in ask.options]
    text = statement.text.strip()
    if len(text) <= 3 or (statement.is_whole and len(text) <= 4):
        letter = text.strip("()[]*.: \"'").upper()
        if letter in marks:
            return letter
    chosen = [letter for letter in _letters(text) if letter in marks]
    if chosen:
        return chosen[0] if statement.is_stated or len(set(chosen)) == 1 else ""
    if named := _named_option(ask, text):
        return named
    if statement.is_stated:
        return ""
    first = [letter for letter in _letters(statement.first) if letter in marks]
    return first[0] if len(set(first)) == 1 else _named_option(ask, statement.first)


def _letters(text: str) -> list[str]:
    letters = [match[1] or match[2] for match in _BRACKETED.finditer(text)]
    letters = letters or [match[1] for match in _LETTER.finditer(text)]
    if not letters and len(text) < 40 and (match := _SMALL_LETTER.match(text)):
        letters = [match[1]] if text[match.end() - 1 : match.end()] in ")].:" or len(text.strip(" ().")) == 1 else []
    return [letter.upper() for letter in letters]


def _named_option(ask: Ask, text: str) -> str:
    """Return the letter of the only option whose text stands in a statement, or that the statement is a part of."""
    words = phrase(text)
    inside = [option for option in ask.options if _names(words, option.phrase)]
    if inside:
        last = [option for option in inside if words.endswith(option.phrase)]
        longest = max(inside, key=lambda option: len(option.phrase))
        others = [option for option in inside if option is not longest]
        if len(last) == 1 and len(inside) > 1:
            return last[0].mark
        return (
            longest.mark
            if all(len(longest.phrase) > len(o.phrase) and o.phrase in longest.phrase for o in others)
            else ""
        )
    around = [option.mark for option in ask.options if len(words) > 4 and words in option.phrase]
    return around[0] if len(around) == 1 else ""


def _names(words: str, own: str) -> bool:
    """Return True when words hold a phrase that no negation stands before."""
    at = words.find(own) if len(own) > 2 else -1
    return at >= 0 and not _NEGATIONS & set(words[:at].split()[-1:])


def _label(labels: Mapping[str, str], statement: Statement) -> str:
    """Return the label that a statement gives, or ""."""
    for text in (statement.text, statement.first):
        words = f" {' '.join(words_of(text))} "
        places = {label: at for label, own in labels.items() if (at := words.find(own)) >= 0}
        if len(places) > 1:  # "very positive" and "positive"
            places = {name: at for name, at in places.items() if not any(name != o and name in o for o in places)}
        first = min(places, key=places.__getitem__, default="")
        if len(places) == 1 or (places and words.startswith(labels[first])):
            if not _NEGATIONS & set(words[: places[first]].split()[-2:]):
                return first
            return next(label for label in labels if label != first) if len(labels) == 2 else f"not {first}"
    return ""


def _new(numbers: Sequence[Quantity], parts: Sequence[Token], ask: Ask) -> Sequence[Quantity]:
    """Return the numbers without those that the question has told: "20 pens cost 5 dollars".  When it has told all of
    them, return all."""

    def is_told(number: Quantity) -> bool:
        return all(part.text in ask.numbers for part in parts[number.start : number.end] if part.is_number)

    return [number for number in numbers if not is_told(number)] or numbers


def _number(numbers: Sequence[Quantity], parts: Sequence[Token], noun: str) -> Quantity:
    """Return the number that a statement gives: one with the noun of the question, behind "=", first, or last."""
    texts = [part.text for part in parts]
    numbers = [
        number for number in numbers if number.start == 0 or texts[number.start - 1] not in _NEGATIONS
    ] or numbers
    if "=" in texts[: numbers[-1].start] and "=" not in texts[numbers[-1].end :]:
        equals = len(texts) - 1 - texts[::-1].index("=")
        if sum(number.start > equals for number in numbers) == 1:
            return numbers[-1]
    if noun:
        counted = [number for number in numbers if _stem(noun) in map(_stem, texts[number.end : number.end + 3])]
        if counted:
            return counted[-1]
    if "=" in texts:
        equals = len(texts) - 1 - texts[::-1].index("=")
        if behind := [number for number in numbers if number.start > equals]:
            return _with_currency(behind) or behind[0]
    if numbers[0].start == 0:
        return numbers[0]
    return _with_currency(numbers) or numbers[-1]


def _with_currency(numbers: Sequence[Quantity]) -> Quantity | None:
    money = [number for number in numbers if number.unit in ("usd", "eur", "gbp", "percent")]
    return money[-1] if len(money) == 1 else None


def _stem(word: str) -> str:
    return word.removesuffix("s").removesuffix("e")

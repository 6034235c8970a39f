"""Read the value of a statement: the option, the label, yes or no, the number or the date that it gives."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.routing.answer.ask import Ask
from app.routing.answer.dates import Moment, moments
from app.routing.answer.final import Statement
from app.routing.answer.lists import WORDS
from app.routing.answer.numbers import Quantity, quantities, writes_comma
from app.routing.answer.plain import Token, plain, tokens

YES, NO = "yes", "no"
_YES_WORDS, _NO_WORDS = frozenset(WORDS["yes"]), frozenset(WORDS["no"])
_ARTICLES = frozenset(WORDS["article"])
_NEGATIONS = frozenset(WORDS["negation"])
_LETTER = re.compile(
    r"(?:^|[\s(\[\"'*])(?:(?i:option|choice|answer|letter|antwort|opci[oó]n|opç[aã]o|opzione|optie|вариант)\s{1,2})?"
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
    numbers: tuple[Quantity, ...] = ()
    words: tuple[str, ...] = field(default=())  # normalised, without articles


def value_of(ask: Ask, statement: Statement) -> Value:
    """Return what a statement means as an answer to a question."""
    text = statement.text
    parts = tokens(text)
    words = [part.text for part in parts if part.is_word]
    numbers = tuple(quantities(parts, writes_comma([*words, *_words(ask.text[-300:])])))
    dates = moments(parts)
    return Value(
        option=_option(ask, statement) if ask.options else "",
        label=_label(ask.labels, statement) if ask.labels else "",
        verdict=verdict(statement),
        number=_number(numbers, parts, ask.noun) if numbers else None,
        moment=dates[-1] if dates and (dates[-1].days or len(parts) < 8) else None,
        numbers=numbers,
        words=tuple(normal_words(text)),
    )


def normal_words(text: str) -> list[str]:
    """Return the words of a text without case, accents, punctuation and articles."""
    words = _words(text)
    names = {
        word.lower() for piece in text.split()[1:] if len(word := piece.strip(".,;:!?()\"'")) == 1 and word.isupper()
    }
    return [word for word in words if word not in _ARTICLES or word in names] or words


def _words(text: str) -> list[str]:
    return [token.text for token in tokens(folded(text)) if token.is_word or token.is_number]


def folded(text: str) -> str:
    """Return a text in lower case without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("ß", "ss"))
    return unicodedata.normalize("NFC", "".join(char for char in decomposed if not "\u0300" <= char <= "\u036f"))


def verdict(statement: Statement) -> str:
    """Return yes or no when a statement begins with it or is it; else ""."""
    for text in (statement.text, "" if statement.is_stated else statement.first):
        words = [token.text for token in tokens(text)[:6] if token.is_word]
        if not words:
            continue
        one, two = words[0], " ".join(words[:2])
        if one in _NO_WORDS or two in _NO_WORDS:
            return YES if words[1:2] and one == "not" and words[1] in _NO_WORDS else NO
        if one in _YES_WORDS or two in _YES_WORDS:
            return YES
        if len(words) <= 6 and len(verdicts := {_polarity(word) for word in words} - {""}) == 1:
            return verdicts.pop()
    return _wide_verdict(statement.text)


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
    marks = [mark for mark, _ in ask.options]
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
    words = f" {' '.join(normal_words(text))} "
    texts = [(mark, " ".join(normal_words(plain(option)))) for mark, option in ask.options]
    inside = [(mark, option) for mark, option in texts if option and f" {option} " in words]
    if inside:
        longest = max(len(option) for _, option in inside)
        best = [mark for mark, option in inside if len(option) == longest]
        others = [option for mark, option in inside if mark not in best]
        long_option = max(inside, key=lambda entry: len(entry[1]))[1]
        return best[0] if len(best) == 1 and all(option in long_option for option in others) else ""
    around = [mark for mark, option in texts if len(words) > 4 and words in f" {option} "]
    return around[0] if len(around) == 1 else ""


def _label(labels: Sequence[str], statement: Statement) -> str:
    """Return the label that a statement gives, or ""."""
    for text in (statement.text, statement.first):
        words = f" {' '.join(_words(text))} "
        places = {label: at for label in labels if (at := words.find(f" {' '.join(_words(label))} ")) >= 0}
        if len(places) > 1:  # "very positive" and "positive"
            places = {name: at for name, at in places.items() if not any(name != o and name in o for o in places)}
        if len(places) > 1 and words.startswith(f" {min(places, key=lambda label: places[label])} "):
            places = dict([min(places.items(), key=lambda entry: entry[1])])
        if len(places) == 1:
            label, at = places.popitem()
            before = words[:at].split()[-2:]
            if not _NEGATIONS & set(before):
                return label
            return next(other for other in labels if other != label) if len(labels) == 2 else f"not {label}"
    return ""


def _number(numbers: Sequence[Quantity], parts: Sequence[Token], noun: str) -> Quantity:
    """Return the number that a statement gives: one with the noun of the question, behind "=", first, or last."""
    texts = [part.text for part in parts]
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

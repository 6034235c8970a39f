"""Find loops: an answer says the same thing again and again, although the request does not ask for that."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.routing.answer.phrases import entries_of, pattern_of, words_of
from app.routing.answer.reading import Question

_HEAD_CHARS, _TAIL_CHARS = 8_000, 24_000  # of a long answer: a loop goes on until the end
_STEP = 80  # characters between two probes
_PROBE = 20  # characters
_MOST_PERIOD = 1_500  # characters
_TRIES = 4  # recurrences of a probe, because a phrase may occur twice in what is repeated

_MARKER = re.compile(r"(?m)^[ \t]*(?:[-*•]|(?:[^\W\d_]{1,12} )?\(?\d{1,5}[.):]|[^\W\d_]{1,12} \d{1,5} -)[ \t]+")
_CODE = re.compile(r"[{}<>;=()|\\]|^\s*#")
_WORD = re.compile(r"[^\W\d_]+")
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")  # scripts that write no or short words
_LINE_MARKS = frozenset("-=_*#~.─━═│ ·•+|\t\n0")  # what rules, tables and dots are made of
_NUMBER = re.compile(r"(?<![\w.])(?:(\d{1,5})(?!\d)|([^\W\d_]{2,14}))(?=[ -]?([^\W\d_]{0,14}|×))")
_PRODUCT = re.compile(r"(\d{1,4}) ?(?:x|×|\*|by|mal|por|par|per|на) ?(\d{1,4})")
_NUMBERS = {word: int(value) for entry in entries_of("numbers") for word, _, value in (entry.partition("="),)}


@dataclass(frozen=True, slots=True)
class _Run:
    """Hold a stretch of text that repeats its beginning."""

    unit: str
    chars: int

    @property
    def count(self) -> int:
        return self.chars // len(self.unit)


def has_loop(question: Question, text: str) -> bool:
    """Return True when an answer repeats itself far more often than its request wants."""
    return any(_is_loop(run, question) for part in _parts(text) for run in _runs(part))


def _parts(text: str) -> Iterator[str]:
    """Yield the parts of a text that are searched, as they are and without the markers of list items."""
    is_short = len(text) <= _HEAD_CHARS + _TAIL_CHARS
    for part in (text,) if is_short else (text[:_HEAD_CHARS], text[-_TAIL_CHARS:]):
        yield part
        plain = _MARKER.sub("", part)
        if plain != part:
            yield plain


def _runs(text: str) -> Iterator[_Run]:
    """Yield the stretches of a text that repeat themselves."""
    at = 0
    while at + 2 * _PROBE <= len(text):
        end = at
        probe, next_at = text[at : at + _PROBE], at
        for _ in range(_TRIES):
            next_at = text.find(probe, next_at + 1, at + _MOST_PERIOD + _PROBE)
            if next_at < 0:
                break
            period = next_at - at
            ahead, behind = _same_ahead(text, at, period), _same_behind(text, at, period)
            if ahead + behind >= period:
                begin, end = at - behind, at + period + ahead
                yield _Run(text[begin : begin + period], end - begin)
                break
        at = max(end, at + _STEP)


def _same_ahead(text: str, at: int, period: int) -> int:
    """Return how many characters from `at` on are the same one period later."""
    most = len(text) - at - period
    low, size = 0, _PROBE
    while low < most:
        step = min(size, most - low)
        if text[at + low : at + low + step] == text[at + period + low : at + period + low + step]:
            low, size = low + step, size * 2
        else:
            most, size = low + step - 1, max(1, step // 2)
    return low


def _same_behind(text: str, at: int, period: int) -> int:
    """Return how many characters before `at` are the same one period later, at most one period."""
    same = 0
    while same < min(at, period) and text[at - same - 1] == text[at + period - same - 1]:
        same += 1
    return same


# --- what counts -----------------------------------------------------------------------------------


def _is_loop(run: _Run, question: Question) -> bool:
    unit = run.unit.strip()
    words = len(_WORD.findall(unit))
    dense = len(_DENSE.findall(unit))
    if not words:
        is_much = run.chars >= (100 if _is_mark(unit) else 1_500) and run.count >= 10
    elif len(unit) == 1 or (not dense and _CODE.search(unit)):
        is_much = run.count >= 15 and run.chars >= 600
    else:
        is_much = _is_much_text(run, words + dense // 2, dense)
    return is_much and not _is_wanted(run, question)


def _is_much_text(run: _Run, words: int, dense: int) -> bool:
    chars = run.chars + 2 * dense * run.count  # a character of a dense script says as much as three letters
    if words < 4:
        return run.count >= 10 and chars >= 250
    return (run.count >= 5 and chars >= 200) or (run.count >= 3 and chars >= 1_000)


def _is_mark(unit: str) -> bool:
    """Return True for a single mark that no rule and no table is made of."""
    return bool(unit) and len(set(unit)) == 1 and unit[0] not in _LINE_MARKS


def _is_wanted(run: _Run, question: Question) -> bool:
    """Return True when the request wants so many repetitions, or has them itself."""
    context = f"{question.system}\n{question.ask}"
    if run.unit * 3 in context:
        return True
    numbers, times = _numbers(context.lower())
    if times:
        return run.count <= 1.5 * max(times) + 3
    is_near = any(0.4 * number <= run.count <= 1.3 * number + 2 for number in numbers)
    return is_near or pattern_of("again").search(words_of(context)) is not None


def _numbers(text: str) -> tuple[list[int], list[int]]:
    """Return the numbers in a request that may count repetitions, and those that do ("ten times")."""
    numbers = [int(first) * int(second) for first, second in _PRODUCT.findall(text)]
    times: list[int] = []
    for digits, word, unit in _NUMBER.findall(text):
        if digits or word in _NUMBERS:
            number = int(digits) if digits else _NUMBERS[word]
            if pattern_of("times").fullmatch(words_of(unit)):
                times.append(number)
            elif not pattern_of("units").fullmatch(words_of(unit)):
                numbers.append(number)
    return numbers, times

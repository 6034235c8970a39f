"""Find loops: an answer says the same thing again and again, although the request does not ask for that."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.routing.answer.phrases import entries_of, pattern_of, words_of
from app.routing.answer.reading import Question

_HEAD_CHARS, _TAIL_CHARS = 8_000, 24_000  # of a long answer: a loop goes on until the end
_STEP = 80  # characters between two probes
_PROBE = 20  # characters
_MOST_PERIOD = 1_500  # characters
_SENTENCE_WORDS, _PARAGRAPH_CHARS = 4, 200
_TRIES = 4  # recurrences of a probe, because a phrase may occur twice in what is repeated

_LABEL = r"(?:(?:[^\W\d_]{1,12} )?\(?\d{1,5}[.):]|[^\W\d_]{1,12} \d{1,5} -)[ \t]+"  # "3. ", "Step 3: ", "Day 3 - "
_MARKER = re.compile(rf"(?m)^[ \t]*(?:[-*•][ \t]+(?:{_LABEL})?|{_LABEL})")
_CODE = re.compile(r"[{}<>;=()|\\]|^\s*#")
_WORD = re.compile(r"[^\W\d_]+")
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f]")  # scripts that write no or short words
_LINE_MARKS = frozenset("-=_*#~─━═│·•+|/\\")  # what rules, tables and drawings are made of
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

    def is_same(first: int, end: int) -> bool:
        return text[at + first : at + end] == text[at + period + first : at + period + end]

    return _most_of(len(text) - at - period, is_same)


def _same_behind(text: str, at: int, period: int) -> int:
    """Return how many characters before `at` are the same one period later."""

    def is_same(first: int, end: int) -> bool:
        return text[at - end : at - first] == text[at + period - end : at + period - first]

    return _most_of(at, is_same)


def _most_of(limit: int, is_same: Callable[[int, int], bool]) -> int:
    """Return the length up to which two texts are the same, in steps that double until they differ."""
    length, size = 0, _PROBE
    while length < limit:
        step = min(size, limit - length)
        if is_same(length, length + step):
            length, size = length + step, size * 2
        else:
            limit, size = length + step - 1, max(1, step // 2)
    return length


# --- what counts -----------------------------------------------------------------------------------


def _is_loop(run: _Run, question: Question) -> bool:
    count, chars = _least(run.unit)
    return run.count >= count and run.chars >= chars and not _is_wanted(run, question)


def _least(unit: str) -> tuple[int, int]:
    """Return how often a unit occurs at least in a loop, and in how many characters: less may be a table, a picture,
    a refrain, or the same label for several things."""
    words, dense = len(_WORD.findall(unit)), len(_DENSE.findall(unit))
    if not words:
        return 10, 300 if _has_meaningless_marks(unit) else 1_500
    if len(unit.strip()) == 1 or (not dense and _CODE.search(unit.strip())):
        return 15, 600
    if _is_label(unit):
        return 60, 400
    if words + dense // 2 < _SENTENCE_WORDS:
        return 10, 250 if not dense else 120
    if len(unit) >= _PARAGRAPH_CHARS:
        return 3, 1_000
    return 5, 200 if not dense else 120


def _is_label(unit: str) -> bool:
    """Return True for a line of a few words: it may be the same for many things of the request."""
    return "\n" in unit.strip(" ") and len(_WORD.findall(unit)) < _SENTENCE_WORDS


def _has_meaningless_marks(unit: str) -> bool:
    """Return True for marks that no number, rule, table or drawing is made of."""
    return not any(mark in _LINE_MARKS or mark.isdigit() for mark in unit) and not unit.isspace()


def _is_wanted(run: _Run, question: Question) -> bool:
    """Return True when the request wants so many repetitions, or has them itself."""
    context = f"{question.system}\n{question.ask}"
    if run.unit * 3 in context:
        return True
    numbers, times = _numbers(context.lower())
    if times:
        return run.count <= 1.5 * max(times) + 3
    if _is_label(run.unit) and run.count <= question.lines + 1:
        return True  # one for every line of the request
    if any(0.4 * number <= run.count <= 1.3 * number + 2 for number in numbers):
        return True
    words = words_of(context)
    is_shape = len(_WORD.findall(run.unit)) < _SENTENCE_WORDS and pattern_of("shape").search(words) is not None
    return is_shape or pattern_of("again").search(words) is not None


def _numbers(text: str) -> tuple[list[int], list[int]]:
    """Return the numbers in a request that may count repetitions, and those that do ("ten times")."""
    numbers = [int(first) * int(second) for first, second in _PRODUCT.findall(text)]
    times: list[int] = []
    for digits, word, unit in _NUMBER.findall(text):
        number = int(digits) if digits else _NUMBERS.get(word)
        if number is None:
            continue
        if word.endswith("mal") or pattern_of("times").fullmatch(words_of(unit)):
            times.append(number)
        elif digits and not pattern_of("units").fullmatch(words_of(unit)):
            numbers.append(number)
    return numbers, times

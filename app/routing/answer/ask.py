"""Tell what a question asks for: a choice, a label, yes or no, a number, a date, JSON or code."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.routing.answer import phrases
from app.routing.answer.normal import normal_words, phrase, words_of
from app.routing.answer.numbers import writes_comma
from app.routing.answer.plain import plain, tokens
from app.routing.memo import Memo
from app.types import JsonObject

OPEN = 0  # any number of answers are possible
_READ_CHARS = 3_000  # of the beginning and of the end of a question
_ENDS_CHARS = 600  # the words of a question are read at its ends …
_NUMBERS_CHARS = 1_200  # … and its numbers at its end
_OPTION_CHARS = 200
_LAST_CHARS = 400  # the last sentence of a long question
_QUESTION_MARKS = ("?", "？", "؟")
_LETTERS = "ABCDEFGHIJKLMNOP"
_OPTION = re.compile(r"(?:^|(?<=[\s;,(\[]))[(\[]?([A-Pa-p]|[1-9])(?:[)\]]|[.:](?=\s))[ \t]{0,4}", re.MULTILINE)
QUOTED = re.compile(r"[\"'“”‘’`«»]([^\"'“”‘’`«»\n]{1,40})[\"'“”‘’`«»]")
_LISTED = re.compile(
    r"(?i)\b(?:labels?|categor(?:y|ies|[ií]as?|ize)|class(?:es|ify)?|one of|choose|select|pick|either|sentiment|decide"
    r"|kategorien?|clases?|klassifizier\w{0,3})\b"
    r"(?:[^:\n(\[]{0,60}[:(\[]|(?:\s(?:the|following|these|are|is|options|labels|categories|below|as|from|between)){0,4})"
    r"\s{0,2}[(\[]?([^\n.?!()\[\]]{3,200})"
)
_OR_NOT = re.compile(r"(?i)\b([^\W\d_][\w-]{1,24}) or not \1\b")
_ALTERNATIVES = re.compile(
    r"([^\W_][\w.-]{0,24}(?:\s[^\W_][\w-]{0,24})?(?:\s{0,2}[,/"
    r"|]\s{0,2}[^\W_][\w.-]{0,24}(?:\s[^\W_][\w-]{0,24})?){0,12})"
    r"\s?,?\s(?:or|oder|ou|o|eller|lub|или|и)\s([^\W_][\w.-]{0,24})"
)
_HOW_MANY = re.compile(
    r"(?i)\b(?:how many|how much|wie ?viele?|combien(?: de| d')?|cu[aá]nt[oa]s?|quant[eioa]s?|hoeveel|ile|сколько)\s"
    r"(?:more |total |of the |different )?([^\W\d_]{2,20})?"
)
_YES_NO_START = re.compile(
    r"(?i)(?:is|are|was|were|do|does|did|can|could|will|would|has|have|had|should|ist|sind|war|hat|haben|kann|gibt|wird|"
    r"est-ce|est|sont|peut|es|son|est[aá]|puede|hay|[eé]|s[aã]o|pode|sono|pu[oò]|zijn|kan|czy|är)\b"
)
_OPTION_WORDS = re.compile(r"(?i)\b(?:options?|which of|choose|select|pick)\b")
_QUOTED_LIST = re.compile(r"(?i)['\"”’`]\s?(?:,|/|or|oder|ou|o|или)\s?['\"“‘`]")
_SEPARATOR = re.compile(r"\s{0,2}[,;]\s{0,2}(?:(?:or|and|oder)\s)?|\s(?:or|and|oder)\s")
_ANY_SEPARATOR = re.compile(r"\s{0,2}[,/|;]\s{0,2}|\s(?:or|and|oder)\s")


@dataclass(frozen=True, slots=True)
class Option:
    """Hold one option of a question."""

    mark: str  # its letter or number
    text: str
    phrase: str  # its normal words


@dataclass(frozen=True, slots=True)
class Ask:
    """Hold what a question asks for."""

    wants: str = ""  # choice, label, yes_no, number, date, json, tools, code, short, long or ""
    options: tuple[Option, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)  # each label, and its normal words
    noun: str = ""  # of "how many …"
    text: str = ""  # what was read of the question
    words: frozenset[str] = frozenset()  # the normal words of its beginning and its end
    numbers: frozenset[str] = frozenset()  # as they stand there
    writes_comma: bool = False  # its language writes decimals with a comma

    @property
    def space(self) -> int:
        """Return the number of possible answers, or OPEN."""
        if self.options:
            return len(self.options)
        return 2 if self.wants == "yes_no" else len(self.labels)


def ask_of(question: str, request: JsonObject | None = None) -> Ask:
    """Return what a question asks for, with the chat body when there is one."""
    if len(question) > 2 * _READ_CHARS:
        question = f"{question[:_READ_CHARS]}\n{question[-_READ_CHARS:]}"
    ask = _read(question)
    wants = _wanted_by(request) if isinstance(request, Mapping) else ""
    return replace(ask, wants=wants) if wants else ask


def _wanted_by(request: Mapping[str, object]) -> str:
    """Return what a chat body asks for by its members."""
    response_format = request.get("response_format")
    if isinstance(response_format, Mapping) and str(response_format.get("type", "")).startswith("json"):
        return "json"
    choice = request.get("tool_choice")
    return "tools" if isinstance(choice, Mapping) or choice == "required" else ""


@Memo
def _read(question: str) -> Ask:
    text = question.strip()
    options = _options(text)
    labels = () if options else _labels(text)
    how_many = _HOW_MANY.search(text)
    words = normal_words(f"{text[:_ENDS_CHARS]} {text[-_ENDS_CHARS:]}")
    return Ask(
        wants=_wants(text, options, labels),
        options=options,
        labels={label: f" {' '.join(words_of(label))} " for label in labels},
        noun=(how_many[1] or "").lower() if how_many else "",
        text=text,
        words=frozenset(words),
        numbers=frozenset(token.text for token in tokens(plain(text[-_NUMBERS_CHARS:])) if token.is_number),
        writes_comma=writes_comma(words_of(text[-_ENDS_CHARS:])),
    )


def _wants(text: str, options: Sequence[object], labels: Sequence[str]) -> str:
    """Return what a question asks for by its words.  The first kind that fits counts."""
    words = phrases.words_of(text)
    if options:
        return "choice"
    if _asks("verdict", words):
        return "yes_no"
    if labels and not all(label[0].isdigit() for label in labels) and not _asks("steps", words):
        return "label"
    if _asks("number", words):
        return "number"
    if _asks("date", words):
        return "date"
    last = text[-_LAST_CHARS:].rsplit("\n", 1)[-1]
    if text.endswith(_QUESTION_MARKS) and _YES_NO_START.match(text if len(text) <= _LAST_CHARS else last):
        return "yes_no"
    if b" json " in words:
        return "json"
    if _asks("brief", words):
        return "short"
    if "```" in text or _asks("code", words):
        return "code"
    return "long" if _asks("prose", words) else ""


def _asks(kind: str, words: bytes) -> bool:
    return phrases.pattern_of(f"asks-{kind}").search(words) is not None


def _options(text: str) -> tuple[Option, ...]:
    """Return the last list of options that begins with A or 1 and has no gap."""
    marks = [(match[1].upper(), match.start(), match.end()) for match in _OPTION.finditer(text)]
    best: list[tuple[str, int, int]] = []
    run: list[tuple[str, int, int]] = []
    for mark in marks:
        if run and mark[0] == _next(run[-1][0]):
            run.append(mark)
        elif mark[0] in "A1" and len(mark[0]) == 1:
            run = [mark]
        if len(run) >= 2 and (run[0][0] == "A" or not best or best[0][0] == "1"):
            best = run
    if len(best) < 2 or (best[0][0] == "1" and not _OPTION_WORDS.search(text)):
        return ()
    ends = [*(start for _, start, _ in best[1:]), len(text)]
    texts = [text[start:end].partition("\n")[0].strip(" ;,") for (_, _, start), end in zip(best, ends, strict=True)]
    return tuple(
        Option(mark, option, phrase(plain(option[:_OPTION_CHARS])))
        for (mark, _, _), option in zip(best, texts, strict=True)
    )


def _next(mark: str) -> str:
    return str(int(mark) + 1) if mark.isdigit() else _LETTERS[(_LETTERS.index(mark) + 1) % len(_LETTERS)]


def _labels(text: str) -> tuple[str, ...]:
    """Return the labels that a question lists: "as A, B or C", "labels: a, b, c", "'x' or 'y'"."""
    for part in dict.fromkeys((text[:600], text[-600:])):
        quoted = QUOTED.findall(part)
        if len(quoted) >= 2 and _QUOTED_LIST.search(part):
            labels = [label for label in quoted if len(label.split()) <= 4]
            if 2 <= len(set(labels)) <= 20:
                return _distinct(labels)
        if match := _OR_NOT.search(part):
            return _distinct([match[1], f"not {match[1]}"])
        if match := _LISTED.search(part):
            separator = _SEPARATOR if "," in match[1] or ";" in match[1] else _ANY_SEPARATOR
            items = [item.strip(" '\"`-") for item in separator.split(match[1])]
            items = [item for item in items if item and len(item.split()) <= 4]
            if 2 <= len(items) <= 20:
                return _distinct(items)
        for match in _ALTERNATIVES.finditer(part):
            items = [item.split()[-1] for item in (*_ANY_SEPARATOR.split(match[1]), match[2]) if item.strip()]
            if _is_ask(part, match.start()) and "not" not in items and "no" not in items and _same_sort(items):
                return _distinct([item.rstrip(".") for item in items])
    return ()


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(label.lower() for label in labels))


def _same_sort(items: Sequence[str]) -> bool:
    """Return True when all items are numbers, or all are words."""
    numbers = sum(item[0].isdigit() for item in items)
    return numbers in (0, len(items)) and "more" not in items and "less" not in items


def _is_ask(text: str, at: int) -> bool:
    """Return True when the sentence around a place is a question or an instruction to classify."""
    start = max(text.rfind(". ", 0, at), text.rfind("\n", 0, at), 0)
    ends = [end for sign in ("? ", "?\n", ". ", "\n") if (end := text.find(sign, at)) >= 0]
    sentence = text[start : min(ends, default=len(text)) + 1].lower()
    return "?" in sentence or any(
        word in sentence
        for word in ("classif", "answer", "label", "categor", "decide", "determine", "sentiment", "choose")
    )

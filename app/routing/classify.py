"""Judges a request: one `tag_<name>` function per tag, all pure, none asking a model.

To add a tag: a field on `Classification`, a `tag_<name>` function, one line in `classify`.
"""

from __future__ import annotations

import re

from app.routing import words
from app.routing.reading import Ask, read, read_text
from app.types import ChatRequest, Classification

HEAD = 320  # where askers say what they want …
TAIL = 160  # … or after the document they pasted
_TOKEN = re.compile(r"[^\W_]+(?:['’.][^\W_]+)*[+#]{0,2}")
_CALL = re.compile(r"[A-Za-z_]\w{1,40}\((?!s\)|es\)|ies\))")  # `print(`, not `shoe(s)`
_NAME = re.compile(r"\b[a-z]{1,30}(?:_[a-z]{1,30}|[A-Z][a-z]{1,30})")  # snake_case, camelCase
_FOLLOW_UP_CHARS = 60

_FAMILIES = {"code": "qwen-coder", "general": "llama", "summarisation": "llama"}


def classify(request: ChatRequest) -> Classification:
    """Every tag of a request."""
    return _tags(read(request.body.chat), request.sensitivity)


def classify_text(text: str) -> Classification:
    """The tags of one prompt, as if it were a conversation's first message."""
    return _tags(read_text(text), "normal")


def _tags(ask: Ask, sensitivity: str) -> Classification:
    task, modality = tag_task(ask), tag_modality(ask)
    return Classification(
        task=task,
        complexity=tag_complexity(ask, task),
        sensitivity=sensitivity,
        modality=modality,
        family=tag_family(task, modality),
        tokens=ask.tokens,
    )


def tag_modality(ask: Ask) -> str:
    """image when any message of the conversation holds an image part."""
    return "image" if ask.image else "text"


def tag_family(task: str, modality: str) -> str:
    """The model family that is good at it."""
    return "gemma" if modality == "image" else _FAMILIES.get(task, "any")


def tag_task(ask: Ask) -> str:
    """What is asked now; a short follow-up that says nothing itself keeps the task of the turn before."""
    if ask.image:
        return "vision"
    task = _task(ask.text)
    if task == "general" and ask.before and len(ask.text) <= _FOLLOW_UP_CHARS:
        return _task(ask.before)
    return task


def tag_complexity(ask: Ask, task: str) -> str:
    """Size and the signs of a hard problem."""
    text = ask.text
    tokens = _tokens(text[:2000].lower())
    points = 2 * len(words.HARD.intersection(tokens))
    points += (len(text) > 400) + (len(text) > 1500) + (ask.tokens > 4000) + (ask.tokens > 16000)
    points += sum(mark in text for mark in ("\n1.", "\n2.", "\n- ", "$$", "\\frac", "∑", "∫"))
    if task in ("summarisation", "classification", "web_search"):
        points //= 2  # long because a document came along
    return "high" if points >= 4 else "medium" if points >= 2 else "low"


def _task(text: str) -> str:
    """The task with the most points; below 2 points nobody meant it."""
    points = _points(text)
    best = max(points, key=lambda task: points[task])
    return best if points[best] >= 2 else "general"


def _points(text: str) -> dict[str, int]:
    """How loudly each task speaks.  On a tie the earlier one wins: a named label or summary is rarely chance."""
    head, tail = text[:HEAD], text[HEAD:][-TAIL:]
    spoken = f"{head}\n{tail}".lower()
    tokens = _tokens(spoken)
    said = frozenset(tokens)
    return {
        "summarisation": 4 * bool(said & words.SUMMARY)
        + 3 * _marks(spoken, words.SUMMARY_MARKS)
        + 4 * _marks(spoken, words.CJK_MARKS["summarisation"]),
        "classification": 4 * bool(said & words.LABEL)
        + len(said & words.LABEL_WEAK) * (len(said & words.LABEL_WEAK) > 1)
        + 4 * _marks(spoken, words.CJK_MARKS["classification"]),
        "code": _code_points(text[:3000], tokens, said, spoken),
        "web_search": 3 * bool(said & words.LIVE)
        + 2 * (bool(said & words.LIVE_WEAK) and bool(said & words.NOW))
        + 3 * _marks(spoken, words.CJK_MARKS["web_search"]),
        "general": 0,
    }


def _code_points(text: str, tokens: list[str], said: frozenset[str], spoken: str) -> int:
    marks = _marks(text.lower(), words.CODE_MARKS)
    shapes = len(_CALL.findall(text)) + len(_NAME.findall(text)) // 2
    nouns = len(said & words.CODE_NOUN)
    points = 3 * ("```" in text) + min(marks, 3) + min(shapes, 3)
    points += 2 * min(len(said & words.TECH), 2) + min(len(said & words.TECH_WEAK), 2) + min(nouns, 2)
    points += nouns > 0 and not words.CODE_VERB.isdisjoint(tokens[:8])
    return points + 3 * _marks(spoken, words.CJK_MARKS["code"])


def _marks(text: str, marks: tuple[str, ...]) -> int:
    return sum(mark in text for mark in marks)


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text)

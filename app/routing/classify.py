"""Judges a request: one `tag_<name>` function per tag, all pure, none asking a model.

To add a tag: a field on `Classification`, a `tag_<name>` function, one line in `_tags`.
What is read of a conversation is in `reading`, what speaks for a task in `features`, the weights in `model`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from app.routing.difficulty import HARD_WEIGHT, difficulty, signs
from app.routing.difficulty import words_of as hard_words
from app.routing.features import features, signals, words_of
from app.routing.memo import Memo
from app.routing.model import MODEL, likelihoods
from app.routing.reading import Ask, read, read_text
from app.types import ChatRequest, Classification, Cuts, Evidence, Sensitivity, Sign

FOLLOW_UP_CHARS = 100  # a turn up to this length is heard together with the turn before it …
BEFORE_SHARE, BEFORE_FADE = 0.8, 0.05  # … which counts less with every word that the user says now
SYSTEM_SHARE = 0.7
LARGE_TOKENS = 8_000  # small models lose the thread: never low
EVIDENCE_SIGNS = 8
DEFAULT_CUTS = Cuts()

K = TypeVar("K", str, tuple[str, str])
Chances = Mapping[str, float]  # task -> its likelihood; vision, which the body shows, is not among them

_FAMILIES = {"code": "qwen-coder", "general": "llama", "summarisation": "llama"}


def classify(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """Every tag of a request."""
    return _tags(read(request.body.chat), request.sensitivity, cuts)


def classify_text(text: str, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """The tags of one prompt, as if it were a conversation's first message."""
    return _tags(read_text(text), Sensitivity.NORMAL, cuts)


def difficulty_text(text: str) -> float:
    """How likely a small local model is not enough for one prompt, 0 to 1."""
    return classify_text(text).difficulty


def evidence(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS) -> Evidence:
    """Every tag of a request and what spoke for it."""
    ask = read(request.body.chat)
    tags = _tags(ask, request.sensitivity, cuts)
    chances = task_chances(ask)
    others = sorted((label for label in chances if label != tags.task), key=lambda label: -chances[label])
    return Evidence(
        tags=tags,
        runner_up=others[0],
        task_signs=_task_signs(ask, tags.task, others[0]),
        difficulty_signs=tuple(
            Sign(name, points, hard_words(name, _hard_text(ask)))
            for name, points in _loudest(_difficulty_points(ask, tags.task, chances))
        ),
    )


def _tags(ask: Ask, sensitivity: Sensitivity, cuts: Cuts) -> Classification:
    chances = task_chances(ask)
    task, confidence = tag_task(ask, chances)
    modality = tag_modality(ask)
    hardness = tag_difficulty(ask, task, chances)
    return Classification(
        task=task,
        complexity=tag_complexity(hardness, ask.tokens, cuts),
        sensitivity=sensitivity,
        modality=modality,
        family=tag_family(task, modality),
        tokens=ask.tokens,
        difficulty=hardness,
        confidence=confidence,
    )


def tag_modality(ask: Ask) -> str:
    """image when any message of the conversation holds an image part."""
    return "image" if ask.image else "text"


def tag_family(task: str, modality: str) -> str:
    """The model family that is good at it."""
    return "gemma" if modality == "image" else _FAMILIES.get(task, "any")


def tag_task(ask: Ask, chances: Chances) -> tuple[str, float]:
    """What is asked now, and how sure that is."""
    if ask.image:
        return "vision", 1.0
    task = max(chances, key=lambda label: chances[label])
    return task, round(chances[task], 4)


def tag_difficulty(ask: Ask, task: str, chances: Chances) -> float:
    """How likely a small local model is not enough."""
    return round(difficulty(sum(_difficulty_points(ask, task, chances).values())), 4)


def tag_complexity(hardness: float, tokens: int, cuts: Cuts) -> str:
    """`difficulty` and size in three words."""
    if hardness >= cuts.high:
        return "high"
    return "medium" if hardness >= cuts.medium or tokens > LARGE_TOKENS else "low"


def task_chances(ask: Ask) -> Chances:
    """Each task's likelihood: the ask itself, the turn before a short one, a short system prompt."""
    points = MODEL.bias
    for text, _, share in _voices(ask):
        points = [so_far + point * share for so_far, point in zip(points, _points(text), strict=True)]
    return dict(zip(MODEL.labels, likelihoods(points), strict=True))


_points = Memo(lambda text: MODEL.points(signals(text)))  # for each task, what one text says for it


def _voices(ask: Ask) -> Iterator[tuple[str, str, float]]:
    """The texts that say what is wanted: text, where it stands, how much it counts."""
    yield ask.text, "", 1.0
    if _is_follow_up(ask):
        yield ask.before, "turn before: ", max(0.0, BEFORE_SHARE - BEFORE_FADE * len(ask.text.split()))
    if ask.system:
        yield ask.system, "system: ", SYSTEM_SHARE


def _is_follow_up(ask: Ask) -> bool:
    return bool(ask.before) and len(ask.text) <= FOLLOW_UP_CHARS


def _difficulty_points(ask: Ask, task: str, chances: Chances) -> dict[str, float]:
    """What each sign adds."""
    found, weights = signs(_hard_text(ask), task, chances["code"]), MODEL.difficulty
    return {name: sign * weights.get(name, HARD_WEIGHT) for name, sign in found.items()}


def _hard_text(ask: Ask) -> str:
    """A short follow-up is as hard as what it follows."""
    return f"{ask.before}\n{ask.text}" if _is_follow_up(ask) else ask.text


def _task_signs(ask: Ask, task: str, runner_up: str) -> tuple[Sign, ...]:
    if task not in MODEL.labels:
        return (Sign("image part", 1.0),)
    texts = {where: text for text, where, _ in _voices(ask)}
    points = {
        (where, name): MODEL.margin(name, task, runner_up) * share
        for text, where, share in _voices(ask)
        for name in features(text)
    }
    return tuple(Sign(where + name, value, words_of(name, texts[where])) for (where, name), value in _loudest(points))


def _loudest(points: Mapping[K, float]) -> list[tuple[K, float]]:
    ordered = sorted(points.items(), key=lambda item: (-abs(item[1]), item[0]))
    return [(name, round(value, 3)) for name, value in ordered[:EVIDENCE_SIGNS] if round(value, 3)]

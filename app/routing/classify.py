"""Classify a request: one pure function `tag_<name>` for each tag, without a call to a model.

To add a tag: a field of `Classification`, a function `tag_<name>`, one line in `_tags`.
`reading` extracts the prompt from a conversation, `features` finds what hints at a task, `model` holds the weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from app.routing.difficulty import HARD_WEIGHT, difficulty, signs
from app.routing.difficulty import words_of as difficulty_words
from app.routing.features import features, signals, words_of
from app.routing.memo import Memo
from app.routing.model import MODEL, softmax
from app.routing.reading import Prompt, read, read_text
from app.types import ChatRequest, Classification, Cuts, Evidence, Sensitivity, Sign

FOLLOW_UP_CHARS = 100  # a turn up to this length is judged together with the turn before it …
PREVIOUS_SHARE, PREVIOUS_FADE = 0.8, 0.05  # … which counts less with every word of the follow-up
SYSTEM_SHARE = 0.7
LARGE_TOKENS = 8_000  # above this size nothing is `low`: small models lose track of long prompts
EVIDENCE_SIGNS = 8
DEFAULT_CUTS = Cuts()

K = TypeVar("K", str, tuple[str, str])
Probabilities = Mapping[str, float]  # task -> its probability; without vision, which the body shows

_FAMILIES = {"code": "qwen-coder", "general": "llama", "summarisation": "llama"}


def classify(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """Return every tag of a request."""
    return _tags(read(request.body.chat), request.sensitivity, cuts)


def classify_text(text: str, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """Return the tags of one prompt, as if it were the first message of a conversation."""
    return _tags(read_text(text), Sensitivity.NORMAL, cuts)


def difficulty_text(text: str) -> float:
    """Return the difficulty of one prompt: 0 to 1, how likely a small local model is not enough."""
    return classify_text(text).difficulty


def evidence(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS) -> Evidence:
    """Return every tag of a request, with the features that led to it."""
    prompt = read(request.body.chat)
    tags = _tags(prompt, request.sensitivity, cuts)
    probabilities = task_probabilities(prompt)
    others = sorted((task for task in probabilities if task != tags.task), key=lambda task: -probabilities[task])
    return Evidence(
        tags=tags,
        runner_up=others[0],
        task_signs=_task_signs(prompt, tags.task, others[0]),
        difficulty_signs=tuple(
            Sign(name, points, difficulty_words(name, _difficulty_text(prompt)))
            for name, points in _strongest(_difficulty_points(prompt, tags.task, probabilities))
        ),
    )


def _tags(prompt: Prompt, sensitivity: Sensitivity, cuts: Cuts) -> Classification:
    probabilities = task_probabilities(prompt)
    task, confidence = tag_task(prompt, probabilities)
    modality = tag_modality(prompt)
    hardness = tag_difficulty(prompt, task, probabilities)
    return Classification(
        task=task,
        complexity=tag_complexity(hardness, prompt.tokens, cuts),
        sensitivity=sensitivity,
        modality=modality,
        family=tag_family(task, modality),
        tokens=prompt.tokens,
        difficulty=hardness,
        confidence=confidence,
    )


def tag_modality(prompt: Prompt) -> str:
    """Return `image` when any message of the conversation holds an image part, else `text`."""
    return "image" if prompt.has_image else "text"


def tag_family(task: str, modality: str) -> str:
    """Return the model family that is good at the task."""
    return "gemma" if modality == "image" else _FAMILIES.get(task, "any")


def tag_task(prompt: Prompt, probabilities: Probabilities) -> tuple[str, float]:
    """Return the most probable task, and its probability as the confidence."""
    if prompt.has_image:
        return "vision", 1.0
    task = max(probabilities, key=probabilities.__getitem__)
    return task, round(probabilities[task], 4)


def tag_difficulty(prompt: Prompt, task: str, probabilities: Probabilities) -> float:
    """Return how likely a small local model is not enough, 0 to 1."""
    return round(difficulty(sum(_difficulty_points(prompt, task, probabilities).values())), 4)


def tag_complexity(hardness: float, tokens: int, cuts: Cuts) -> str:
    """Return `low`, `medium` or `high` by the difficulty and the size."""
    if hardness >= cuts.high:
        return "high"
    return "medium" if hardness >= cuts.medium or tokens > LARGE_TOKENS else "low"


def task_probabilities(prompt: Prompt) -> Probabilities:
    """Return the probability of each task by the prompt, the turn before a short one, and a short system prompt."""
    points = MODEL.bias
    for text, _, share in _weighted_texts(prompt):
        points = [total + point * share for total, point in zip(points, _points(text), strict=True)]
    return dict(zip(MODEL.labels, softmax(points), strict=True))


_points = Memo(lambda text: MODEL.points(signals(text)))  # the points of each task for one text


def _weighted_texts(prompt: Prompt) -> Iterator[tuple[str, str, float]]:
    """Yield the texts that tell the task: text, a prefix that names its place, and its share of the points."""
    yield prompt.text, "", 1.0
    if _is_follow_up(prompt):
        yield prompt.previous, "turn before: ", max(0.0, PREVIOUS_SHARE - PREVIOUS_FADE * len(prompt.text.split()))
    if prompt.system:
        yield prompt.system, "system: ", SYSTEM_SHARE


def _is_follow_up(prompt: Prompt) -> bool:
    return bool(prompt.previous) and len(prompt.text) <= FOLLOW_UP_CHARS


def _difficulty_points(prompt: Prompt, task: str, probabilities: Probabilities) -> dict[str, float]:
    """Return the points that each sign of difficulty adds."""
    values, weights = signs(_difficulty_text(prompt), task, probabilities["code"]), MODEL.difficulty
    return {name: value * weights.get(name, HARD_WEIGHT) for name, value in values.items()}


def _difficulty_text(prompt: Prompt) -> str:
    """Return the text to judge: a short follow-up is as difficult as the turn before it."""
    return f"{prompt.previous}\n{prompt.text}" if _is_follow_up(prompt) else prompt.text


def _task_signs(prompt: Prompt, task: str, runner_up: str) -> tuple[Sign, ...]:
    """Return the features that decided for the task over the runner-up."""
    if task not in MODEL.labels:
        return (Sign("image part", 1.0),)
    texts = {place: text for text, place, _ in _weighted_texts(prompt)}
    points = {
        (place, name): MODEL.margin(name, task, runner_up) * share
        for text, place, share in _weighted_texts(prompt)
        for name in features(text)
    }
    return tuple(Sign(place + name, value, words_of(name, texts[place])) for (place, name), value in _strongest(points))


def _strongest(points: Mapping[K, float]) -> list[tuple[K, float]]:
    ordered = sorted(points.items(), key=lambda item: (-abs(item[1]), item[0]))
    return [(name, round(value, 3)) for name, value in ordered[:EVIDENCE_SIGNS] if round(value, 3)]

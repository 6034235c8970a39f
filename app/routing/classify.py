"""Classify a request: one pure function `tag_<name>` for each tag, without a call to a model.

To add a tag: a field of `Classification`, a function `tag_<name>`, one line in `_tags`.
`reading` extracts the prompt from a conversation, `features` finds what hints at a task, `model` holds the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from app.routing.conversation import SYSTEM_SHARE, Standing, fold
from app.routing.difficulty import words_of as difficulty_words
from app.routing.features import features, words_of
from app.routing.model import MODEL
from app.routing.reading import Prompt, read, read_text
from app.routing.sender import NO_SENDER, Sender, sender_of
from app.routing.turns import CODE_JUDGE, JUDGES, Judge, difficulty_points
from app.types import (
    ChatRequest,
    Classification,
    ConversationRules,
    Cuts,
    Evidence,
    Judgement,
    Lane,
    Origin,
    Sensitivity,
    Sign,
)

NONE = 0.0  # the difficulty of what programs ask by themselves; prompts of others are above it
LARGE_TOKENS = 8_000  # above this size nothing is `low`: small models lose track of long prompts
EVIDENCE_SIGNS = 8
DEFAULT_CUTS = Cuts()
DEFAULT_RULES = ConversationRules()
_LANES = {lane: number for number, lane in enumerate(Lane)}

K = TypeVar("K", str, tuple[str, str])

_FAMILIES = {"code": "qwen-coder", "general": "llama", "summarisation": "llama"}


def classify(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """Return every tag of a request."""
    return judge(request, cuts).tags


def judge(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS, rules: ConversationRules = DEFAULT_RULES) -> Judgement:
    """Return every tag of a request, and the turns of the conversation that they come from."""
    prompt, sender = _read(request, rules)
    return _judgement(prompt, sender, request.sensitivity, request.lane, cuts, rules)


def classify_text(text: str, cuts: Cuts = DEFAULT_CUTS) -> Classification:
    """Return the tags of one prompt, as if it were the first message of a conversation."""
    return _judgement(read_text(text), NO_SENDER, Sensitivity.NORMAL, Lane.INTERACTIVE, cuts, DEFAULT_RULES).tags


def difficulty_text(text: str) -> float:
    """Return the difficulty of one prompt: 0 to 1, how likely a small local model is not enough."""
    return classify_text(text).difficulty


def evidence(request: ChatRequest, cuts: Cuts = DEFAULT_CUTS, rules: ConversationRules = DEFAULT_RULES) -> Evidence:
    """Return every tag of a request, with the features that led to it."""
    prompt, sender = _read(request, rules)
    judgement = _judgement(prompt, sender, request.sensitivity, request.lane, cuts, rules)
    tags, origin, own_judge = judgement.tags, judgement.origin, _judge_of(sender)
    texts = _texts(prompt, origin.turn)
    probabilities = own_judge.probabilities(*((text, share) for text, _, share in texts))
    alone = own_judge.probabilities((_text_of(prompt, origin.turns), 1.0))
    others = sorted((task for task in probabilities if task != tags.task), key=lambda task: -probabilities[task])
    hard = _text_of(prompt, origin.difficulty_turn)
    return Evidence(
        tags=tags,
        origin=origin,
        runner_up=others[0],
        alone=max(alone.items(), key=lambda item: item[1]),
        task_signs=_task_signs(texts, tags.task, others[0]),
        difficulty_signs=tuple(
            Sign(name, points, difficulty_words(name, hard))
            for name, points in _strongest(difficulty_points(hard, tags.task, probabilities))
        ),
    )


def _read(request: ChatRequest, rules: ConversationRules) -> tuple[Prompt, Sender]:
    """Return what the request says, and who sends it."""
    sender = sender_of(request.body.chat, request.headers)
    prompt = read(request.body.chat, sender.signature)
    if not rules.sticky:
        prompt = replace(prompt, turns=prompt.turns[-1:])
    return prompt, sender


def _judgement(
    prompt: Prompt, sender: Sender, sensitivity: Sensitivity, lane: Lane, cuts: Cuts, rules: ConversationRules
) -> Judgement:
    standing = fold(prompt.turns, prompt.system, _judge_of(sender), cuts, hold=rules.hold == "task")
    modality, hardness = tag_modality(prompt), tag_difficulty(standing, sender)
    tags = Classification(
        task=standing.task,
        complexity=tag_complexity(hardness, prompt.tokens, cuts),
        sensitivity=sensitivity,
        modality=modality,
        family=tag_family(standing.task, modality),
        tokens=prompt.tokens,
        difficulty=hardness,
        confidence=standing.confidence,
        client=sender.client,
        tools=sender.tools,
        purpose=tag_purpose(sender, lane),
    )
    return Judgement(tags, Origin(standing.since, standing.hardest, len(prompt.turns), standing.reading))


def _judge_of(sender: Sender) -> Judge:
    """Return the judge for what a sender asks, whatever lane the client wants."""
    return CODE_JUDGE if sender.completes_code else JUDGES[sender.purpose]


def tag_purpose(sender: Sender, lane: Lane) -> Lane:
    """Return what a request is for.  The client may lower it, never raise it."""
    return max(sender.purpose, lane, key=_LANES.__getitem__)


def tag_modality(prompt: Prompt) -> str:
    """Return `image` when any message of the conversation holds an image part, else `text`."""
    return "image" if prompt.has_image else "text"


def tag_family(task: str, modality: str) -> str:
    """Return the model family that is good at the task."""
    return "gemma" if modality == "image" else _FAMILIES.get(task, "any")


def tag_difficulty(standing: Standing, sender: Sender) -> float:
    """Return the difficulty that stands, or NONE for a prompt that a program sends by itself: a small model is enough
    for it.  What the client wants for the queue does not make a request easy."""
    return NONE if sender.purpose == Lane.BACKGROUND else standing.difficulty


def tag_complexity(hardness: float, tokens: int, cuts: Cuts) -> str:
    """Return `low`, `medium` or `high` by the difficulty and the size."""
    if hardness >= cuts.high:
        return "high"
    is_large = tokens > LARGE_TOKENS and hardness != NONE
    return "medium" if hardness >= cuts.medium or is_large else "low"


def _texts(prompt: Prompt, number: int) -> list[tuple[str, str, float]]:
    """Return the texts that tell the task of a turn: text, a prefix that names its place, and its share of points."""
    texts = [(_text_of(prompt, number), f"turn {number}: " if number < len(prompt.turns) else "", 1.0)]
    if prompt.system and number == 1:
        texts.append((prompt.system, "system: ", SYSTEM_SHARE))
    return texts


def _text_of(prompt: Prompt, number: int) -> str:
    return prompt.turns[number - 1].text if prompt.turns else ""


def _task_signs(texts: Sequence[tuple[str, str, float]], task: str, runner_up: str) -> tuple[Sign, ...]:
    """Return the features that decided for the task over the runner-up."""
    if task not in MODEL.labels:
        return (Sign("image part", 1.0),)
    by_place = {place: text for text, place, _ in texts}
    points = {
        (place, name): MODEL.margin(name, task, runner_up) * share
        for text, place, share in texts
        for name in features(text)
    }
    return tuple(
        Sign(place + name, value, words_of(name, by_place[place])) for (place, name), value in _strongest(points)
    )


def _strongest(points: Mapping[K, float]) -> list[tuple[K, float]]:
    ordered = sorted(points.items(), key=lambda item: (-abs(item[1]), item[0]))
    return [(name, round(value, 3)) for name, value in ordered[:EVIDENCE_SIGNS] if round(value, 3)]

"""The tags of a request: what the classifier finds in it, and the evidence for them."""

from __future__ import annotations

from dataclasses import dataclass

from app.types.states import Lane, Sensitivity

TASKS = ("code", "web_search", "summarisation", "classification", "vision", "general")
COMPLEXITIES = ("low", "medium", "high")
SENSITIVITIES = tuple(state.value for state in Sensitivity)
MODALITIES = ("text", "image")
FAMILIES = ("qwen-coder", "gemma", "llama", "any")
PURPOSES = tuple(lane.value for lane in Lane)


@dataclass(frozen=True, slots=True)
class Classification:
    """The tags of a request.  The field names are the legal `match:` keys of a policy, and columns of the metrics."""

    task: str
    complexity: str
    sensitivity: Sensitivity
    modality: str
    family: str
    tokens: int  # estimated input tokens: messages, tools and instructions
    difficulty: float = 0.0  # 0 to 1: how likely a small local model is not enough
    confidence: float = 1.0  # 0 to 1: in the task
    client: str = "other"  # the program that asks: a name of routing/signatures.txt
    tools: bool = False  # the request declares tools
    purpose: Lane = Lane.INTERACTIVE


@dataclass(frozen=True, slots=True)
class Conversation:
    """Represent the conversation of a request, for the choice of a member of a pool.  It holds nothing of the text."""

    key: int  # two bytes of a hash of its start
    is_first: bool  # the request is the first one of the conversation


@dataclass(frozen=True, slots=True)
class Origin:
    """The turns of the user that the tags come from, from 1 on."""

    turn: int = 1  # asked for the task
    difficulty_turn: int = 1
    turns: int = 1  # of the conversation
    reading: str = "first"  # how the latest turn was read: first, image, new, back, short, same


@dataclass(frozen=True, slots=True)
class Judgement:
    """The tags of a request, and the turns that they come from."""

    tags: Classification
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class Sign:
    """One feature that was present, and its points (below 0: against)."""

    feature: str
    points: float
    words: tuple[str, ...] = ()  # words of the prompt that the feature was found in


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The reasons for the tags.  They can hold words of the prompt: show them, never store them."""

    tags: Classification
    origin: Origin
    runner_up: str  # the next likely task
    alone: tuple[str, float]  # the task of the latest turn alone, and its probability
    task_signs: tuple[Sign, ...]  # for the task over the runner-up, the strongest first
    difficulty_signs: tuple[Sign, ...]

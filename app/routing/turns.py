"""Read the turns of a user from a conversation, and find how each one refers to the others.

What one turn says is found once and cached by the hash of its text: a conversation sends its earlier turns again with
every turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.routing.difficulty import HARD_WEIGHT, difficulty, signs
from app.routing.features import signals
from app.routing.lexicon import Lexicon, is_wide, tokens
from app.routing.memo import Memo
from app.routing.model import MODEL, softmax
from app.types import Lane

LEXICON = Lexicon(Path(__file__).with_name("lexicon_turns.txt"))

SHORT_WORDS = 4  # a turn up to this length continues what stands, unless it says that another subject follows
_WORDS_OF_TASK, _CLEAR = 3, 0.95  # a few words can name a task: "summarise our conversation"
_OPENING_WORDS = 12  # in which a user says that another subject follows
_REFERRING_WORDS = 14
_SENTENCE_WORDS = 2
_SENTENCE_CHARS = 80
_SUBJECT_WORDS = 24  # of one text, that are compared with those of other texts
_SUBJECT_CHARS = 1_500
_STEM = 5  # letters of a word that are compared: `section` and `sections` are one subject
_WIDE_LETTERS = 2  # of Chinese and Japanese stand for about one word
_MOST_SENTENCES = 8
_SENTENCE_END = re.compile(r"[.!?:;,\n。！？、]")
_CODE = MODEL.labels.index("code")
_COMMON = frozenset(word[:_STEM] for word in LEXICON.words("common"))


@dataclass(frozen=True, slots=True)
class TurnSigns:
    """Hold what one turn says by itself."""

    probabilities: Mapping[str, float]  # task -> its probability by this text alone
    words: int
    switches: bool  # it says that another subject follows
    asks: bool  # it holds a request or a question
    refers: bool  # it refers to something that was said before
    definite: bool  # it names a thing as a known one
    subjects: frozenset[str]  # stems of its rare words
    hard: float  # difficulty, 0 to 1
    easy_to_sum_up: float  # difficulty when the task is summarisation

    def difficulty(self, task: str) -> float:
        """Return the difficulty of this text alone, when it belongs to a task."""
        return self.easy_to_sum_up if task == "summarisation" else self.hard

    @property
    def task(self) -> str:
        """Return the most probable task."""
        return max(self.probabilities, key=self.probabilities.__getitem__)

    @property
    def is_short(self) -> bool:
        """Return True for a turn of a few words that can only be understood with the turns before it."""
        if self.words > SHORT_WORDS or self.switches:
            return False
        task = self.task
        return self.words < _WORDS_OF_TASK or task == "general" or self.probabilities[task] < _CLEAR


points = Memo(lambda text: MODEL.points(signals(text)))  # the points of each task for one text


@Memo
def is_elsewhere(text: str) -> bool:
    """Return True when the subject of a text has nothing to do with a project."""
    return "elsewhere" in LEXICON.count(tokens(text[:_SUBJECT_CHARS]))


class Judge:
    """Judge the texts of one kind of sender."""

    def __init__(self, *, elsewhere: float = 0.0, **extra: float) -> None:
        """`extra` holds the points that this kind of sender adds to a task.  `elsewhere` is taken from `code` when the
        subject of a text has nothing to do with a project."""
        self._elsewhere = elsewhere
        self._bias = [bias + extra.get(label, 0.0) for bias, label in zip(MODEL.bias, MODEL.labels, strict=True)]
        self.signs = Memo(self._signs)

    def probabilities(self, *texts: tuple[str, float]) -> Mapping[str, float]:
        """Return the probability of each task by some texts, each with its share of the points."""
        total = list(self._bias)
        for text, share in texts:
            total = [one + point * share for one, point in zip(total, points(text), strict=True)]
        if self._elsewhere and is_elsewhere(texts[0][0]):
            total[_CODE] -= self._elsewhere
        return dict(zip(MODEL.labels, softmax(total), strict=True))

    def _signs(self, text: str) -> TurnSigns:
        words = tokens(text[:_SUBJECT_CHARS])
        probabilities = self.probabilities((text, 1.0))
        opening = LEXICON.count(words[:_OPENING_WORDS], text[: 8 * _OPENING_WORDS])
        return TurnSigns(
            probabilities=probabilities,
            words=max(len(words), _letters(text) // _WIDE_LETTERS),
            switches="switch" in opening,
            asks=_asks(text),
            refers="refer" in LEXICON.count(words[:_REFERRING_WORDS], text[: 8 * _REFERRING_WORDS]),
            definite="the" in words,
            subjects=subjects(text),
            hard=difficulty_of(text, "", probabilities),
            easy_to_sum_up=difficulty_of(text, "summarisation", probabilities),
        )


JUDGES: Mapping[Lane, Judge] = {
    Lane.INTERACTIVE: Judge(),
    Lane.AGENT: Judge(code=4.0, web_search=-1.5, elsewhere=4.0),  # what agents are asked is about code, as a rule
    Lane.BACKGROUND: Judge(code=-99.0, web_search=-99.0),  # a title for a conversation about code is no code
}
CODE_JUDGE = Judge(code=99.0)  # a gap in a program


def difficulty_points(text: str, task: str, probabilities: Mapping[str, float]) -> dict[str, float]:
    """Return the points that each sign of difficulty adds."""
    values, weights = signs(text, task, probabilities["code"]), MODEL.difficulty
    return {name: value * weights.get(name, HARD_WEIGHT) for name, value in values.items()}


def difficulty_of(text: str, task: str, probabilities: Mapping[str, float]) -> float:
    """Return how likely a small local model is not enough for a text, 0 to 1."""
    return round(difficulty(sum(difficulty_points(text, task, probabilities).values())), 4)


def _letters(text: str) -> int:
    """Return the number of letters of scripts without spaces."""
    return sum("\u3040" <= letter <= "\u9fff" for letter in text[:_SUBJECT_CHARS]) if is_wide(text) else 0


def _asks(text: str) -> bool:
    """Return True when a sentence of the text is a question, or begins as a request does."""
    if text.rstrip().endswith(("?", "？", "؟")):
        return True
    beginning = text[:_SUBJECT_CHARS]
    sentences = _SENTENCE_END.split(beginning)[:_MOST_SENTENCES]
    return any(map(_begins_as_request, sentences)) or (is_wide(beginning) and "ask" in LEXICON.count((), beginning))


def _begins_as_request(sentence: str) -> bool:
    words = tokens(sentence[:_SENTENCE_CHARS])[:_SENTENCE_WORDS]
    if words and "opener" in LEXICON.count(words[:1]):
        words = words[1:]
    return "ask" in LEXICON.count(words[:1])


def subjects(text: str) -> frozenset[str]:
    """Return the stems of the rare words at the beginning of a text."""
    stems = (word[:_STEM] for word in tokens(text[:_SUBJECT_CHARS]) if len(word) >= _STEM - 1)
    return frozenset(islice((stem for stem in stems if stem not in _COMMON), _SUBJECT_WORDS))

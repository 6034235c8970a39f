"""Read the turns of a user from a conversation, and find how each one refers to the others.

What one turn says is found once and cached by the hash of its text: a conversation sends its earlier turns again with
every turn.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from app.routing.difficulty import difficulty, signs
from app.routing.features import signals
from app.routing.lexicon import Lexicon, is_wide, tokens
from app.routing.memo import Memo
from app.routing.model import MODEL, softmax
from app.types import Lane

LEXICON = Lexicon(Path(__file__).with_name("lexicon_turns.txt"))

SHORT_WORDS = 4  # a turn up to this length continues what stands, unless it says that another subject follows
_WORDS_OF_TASK, _CLEAR = 3, 0.95  # a few words can name a task: "summarise our conversation"
_OPENING_WORDS, _OPENING_CHARS = 12, 96  # in which a user says that another subject follows
_RETURN_WORDS, _RETURN_CHARS = 4, 24  # in which a user says that an earlier subject goes on: "let's get back to"
_REFERRING_WORDS = 14
_REFERRING_ASK = 6  # words of an ask in which one of the next words points at a part of a project
_POINTING = frozenset({"this", "these", "those"})
_SENTENCE_WORDS = 2
_SENTENCE_CHARS = 80
_SUBJECT_WORDS = 24  # of one text, that are compared with those of other texts
_SUBJECT_CHARS = 1_500
_STEM = 5  # letters of a word that are compared: `section` and `sections` are one subject
_WIDE_CHARS = 8  # of a word about an answer, in such a script
_WIDE_LETTERS = 2  # of Chinese and Japanese stand for about one word
_DEVANAGARI = re.compile("[\u0900-\u097f]")  # its vowel signs divide a word into several tokens
_KNOWN_THING = re.compile(r"\b[Tt]he ([a-z][\w-]{0,30}+)(?: (of|for|between|that|who|which)\b)?")
_TECHNICAL = re.compile(  # `x`, foo.bar, snake_case, camelCase, call(), --option
    r"`|\b[a-z]\w{0,30}[._][a-z]\w{0,30}[a-z]\b|\b[A-Z]?[a-z]{2,30}[A-Z]\w{0,30}[a-z]\b|\w\(\w{0,30}\)|(?:^|\s)--?[a-z]"
)
_MOST_SENTENCES = 8
_SENTENCE_END = re.compile(r"[.!?:;,\n。！？、，：।؟،]")
_FULL_STOP = re.compile(r"[.!?](?=\s)|[。！？।؟]")
_QUESTION_MARKS = ("?", "？", "؟")
_QUESTION = re.compile(r"[?？؟](?:\s|$)")
_CODE = MODEL.labels.index("code")
_TALK = (MODEL.labels.index("general"), MODEL.labels.index("classification"))
_ELSEWHERE, _ELSEWHERE_WITHOUT_WORDS = 0.5, 0.68  # probability of the tasks of _TALK
_UNIQUE = LEXICON.words("unique")
_SWITCHES = frozenset({"switch", "aside"})
_REQUESTS = frozenset({"ask", "edit"})
_CLOSING = _SWITCHES | {"closing"}
_LEAVING = _CLOSING | {"ended"}
_ASK, _EDIT, _OPENER, _ENDED = map(LEXICON.words, ("ask", "edit", "opener", "ended"))
_FOLLOWING_CHARS = 8  # behind the sentence that leaves a subject
_COMMON = frozenset(word.removesuffix("s")[:_STEM] for word in LEXICON.words("common"))


@dataclass(frozen=True, slots=True)
class TurnSigns:
    """Hold what one turn says by itself."""

    probabilities: Mapping[str, float]  # task -> its probability by this text alone
    words: int
    switches: bool  # it says that another subject follows
    interrupts: bool  # it says that this subject is an aside
    returns: bool  # it says that an earlier subject goes on
    acknowledges: bool  # it begins with a word about the answer before it
    asks: bool  # it holds a request or a question
    edits: bool  # it begins as a request to change something
    refers: bool  # it refers to something that was said before
    definite: bool  # it names a thing as a known one
    technical: bool  # it names a thing of a program
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
        if self.words > SHORT_WORDS or self.switches or self.returns:
            return False
        task = self.task
        return self.words < _WORDS_OF_TASK or task == "general" or self.probabilities[task] < _CLEAR


points = Memo(lambda text: MODEL.points(signals(text)))  # the points of each task for one text


@Memo
def project_share(text: str) -> int:
    """Return 1 for a text that names a part of a project, -1 for a request that has nothing to do with one, else 0.

    What users say about a project names parts of it or things that are known, it wants them changed, or it states what
    is wrong.  Other requests ask, and their words are those of no task.
    """
    beginning = text[:_SUBJECT_CHARS]
    words = tokens(beginning)
    lists = LEXICON.count(words, beginning)
    points_at_part = len(words) <= _REFERRING_ASK and not _POINTING.isdisjoint(words)
    if "project" in lists or _TECHNICAL.search(beginning) or points_at_part:
        return 1
    requests = _requests(text)
    if "edit" in requests:
        return 0
    probabilities = softmax([bias + point for bias, point in zip(MODEL.bias, points(text), strict=True)])
    is_elsewhere, asks, is_known = "elsewhere" in lists, "ask" in requests, _names_known_thing(beginning)
    if is_known and not (is_elsewhere and asks):
        return 0
    enough = _ELSEWHERE if is_elsewhere and asks and not is_known else _ELSEWHERE_WITHOUT_WORDS
    return -((asks or is_elsewhere) and sum(probabilities[at] for at in _TALK) >= enough)


class Judge:
    """Judge the texts of one kind of sender."""

    def __init__(self, *, project: float = 0.0, **extra: float) -> None:
        """`extra` holds the points that this kind of sender adds to a task.  `project` is added to `code` when a text
        names a part of a project, and taken from it when the text has nothing to do with one."""
        self._project = project
        self._bias = [bias + extra.get(label, 0.0) for bias, label in zip(MODEL.bias, MODEL.labels, strict=True)]
        self.signs = Memo(self._signs)

    def probabilities(self, *texts: tuple[str, float]) -> Mapping[str, float]:
        """Return the probability of each task by some texts, each with its share of the points."""
        total = list(self._bias)
        for text, share in texts:
            total = [one + point * share for one, point in zip(total, points(text), strict=True)]
        if self._project:
            total[_CODE] += self._project * project_share(texts[0][0])
        return dict(zip(MODEL.labels, softmax(total), strict=True))

    def _signs(self, text: str) -> TurnSigns:
        words = tokens(text[:_OPENING_CHARS])[:_OPENING_WORDS]
        opening = LEXICON.count(words, text[:_OPENING_CHARS])
        own = text if opening.keys().isdisjoint(_LEAVING) else _new_subject(text)
        own_words = tokens(own[:_SUBJECT_CHARS])
        probabilities, requests = self.probabilities((own, 1.0)), _requests(own)
        acknowledges = _acknowledges(text)
        ask = _behind_first_sentence(own) if acknowledges else own
        start = tokens(ask[: 8 * _REFERRING_WORDS])[:_REFERRING_WORDS]
        opens = LEXICON.count(start[:_SENTENCE_WORDS], ask[: 4 * _SENTENCE_WORDS])
        return TurnSigns(
            probabilities=probabilities,
            words=_number_of_words(own, own_words),
            switches=own is not text or not opening.keys().isdisjoint(_SWITCHES),
            interrupts="aside" in opening,
            returns="back" in LEXICON.count(_without_openers(words)[:_RETURN_WORDS], text[:_RETURN_CHARS]),
            acknowledges=acknowledges,
            asks="ask" in requests,
            edits="edit" in requests,
            refers="refer" in LEXICON.count(start, ask[: 8 * _REFERRING_WORDS]) or "going_on" in opens,
            definite=_names_known_thing(ask[:_SUBJECT_CHARS]),
            technical=_TECHNICAL.search(own[:_SUBJECT_CHARS]) is not None,
            subjects=subjects(own),
            hard=difficulty_of(own, "", probabilities),
            easy_to_sum_up=difficulty_of(own, "summarisation", probabilities),
        )


JUDGES: Mapping[Lane, Judge] = {
    Lane.INTERACTIVE: Judge(),
    Lane.AGENT: Judge(code=4.0, web_search=-2.0, project=4.0),  # what agents are asked is about code, as a rule
    Lane.BACKGROUND: Judge(code=-99.0, web_search=-99.0),  # a title for a conversation about code is no code
}
CODE_JUDGE = Judge(code=99.0)  # a gap in a program


def difficulty_points(text: str, task: str, probabilities: Mapping[str, float]) -> dict[str, float]:
    """Return the points that each sign of difficulty adds."""
    values, weights = signs(text, task, probabilities["code"]), MODEL.difficulty
    return {name: value * weights[name] for name, value in values.items()}


def difficulty_of(text: str, task: str, probabilities: Mapping[str, float]) -> float:
    """Return how likely a small local model is not enough for a text, 0 to 1."""
    return round(difficulty(sum(difficulty_points(text, task, probabilities).values())), 4)


def _new_subject(text: str) -> str:
    """Return what stands behind the sentence that says that another subject follows; the text when none says so."""
    for end in _SENTENCE_END.finditer(text[:_OPENING_CHARS]):
        if len(text) - end.end() < _FOLLOWING_CHARS:
            break
        sentence = text[: end.start()]
        words = tokens(sentence)
        lists = LEXICON.count(words, sentence)
        if not lists.keys().isdisjoint(_CLOSING) or not _ENDED.isdisjoint(_without_openers(words)[:1]):
            return text[end.end() :]
    return text


def _without_openers(words: list[str]) -> list[str]:
    """Return the words behind those that may stand before a request."""
    return words[next((at for at, word in enumerate(words) if word not in _OPENER), len(words)) :]


def _acknowledges(text: str) -> bool:
    """Return True for a text that begins with a word about the answer before it: "Fine." or "Thanks, …"."""
    end = _SENTENCE_END.search(text[:_SENTENCE_CHARS])
    sentence = text[: end.start()] if end else ""
    if len(sentence) <= _WIDE_CHARS and is_wide(sentence):
        return "opener" in LEXICON.count((), sentence)
    return bool(sentence) and not _without_openers(tokens(sentence))


def _behind_first_sentence(text: str) -> str:
    """Return a text without its first sentence; the text when no other one follows."""
    end = _FULL_STOP.search(text[:_OPENING_CHARS])
    return text[end.end() :] if end and len(text) - end.end() >= _FOLLOWING_CHARS else text


def _names_known_thing(text: str) -> bool:
    """Return True when a text names a thing as a known one.  "The name of" something and "the sun" are not known by
    what was said before."""
    return any(not defined and noun not in _UNIQUE for noun, defined in _KNOWN_THING.findall(text))


def _number_of_words(text: str, words: Sequence[str]) -> int:
    """Return the number of words.  Scripts without spaces have about one for each two letters."""
    if text.isascii():
        return len(words)
    beginning = text[:_SUBJECT_CHARS]
    if _DEVANAGARI.search(beginning):
        return len(beginning.split())
    letters = sum("\u3040" <= letter <= "\u9fff" for letter in beginning) if is_wide(beginning) else 0
    return max(len(words), letters // _WIDE_LETTERS)


def _requests(text: str) -> frozenset[str]:
    """Return `ask` when a text holds a question or a request, and `edit` when it wants something changed."""
    beginning = text[:_SUBJECT_CHARS]
    names = {"ask"} if text.rstrip().endswith(_QUESTION_MARKS) or _QUESTION.search(beginning) else set()
    for sentence in _SENTENCE_END.split(beginning)[:_MOST_SENTENCES]:
        words = tokens(sentence[:_SENTENCE_CHARS])[:_SENTENCE_WORDS]
        first = words[-1] if words and words[0] in _OPENER else "".join(words[:1])
        names |= {"ask"} if first in _ASK else {"edit"} if first in _EDIT else set()
    if is_wide(beginning):
        names |= LEXICON.count((), beginning).keys()
    return _REQUESTS & names


def subjects(text: str) -> frozenset[str]:
    """Return the stems of the rare words at the beginning of a text."""
    stems = (word.removesuffix("s")[:_STEM] for word in tokens(text[:_SUBJECT_CHARS]) if len(word) >= _STEM - 1)
    return frozenset(islice((stem for stem in stems if stem not in _COMMON), _SUBJECT_WORDS))

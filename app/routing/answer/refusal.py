"""Find refusals: the model says that it does not do what the request asks for.

A refusal that the request wants (a letter that declines, a translation, a story) is no fault, nor is an honest limit
("without the text I cannot …"), nor the refusal of something harmful.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain

from app.routing.answer.phrases import languages_of, pattern_of, without, words_of
from app.routing.answer.reading import Question

_HEAD_CHARS = 500  # a refusal stands at the beginning
_MOST_CHARS = 1_500  # of a refusal with its reasons and offers
_MOST_BEHIND = 250  # characters behind a refusal to answer: a longer text answers after all
_MOST_BUT = 20  # characters behind "but", until it says more than a phrase
_MOST_WRITTEN = 250  # characters of a refusal to write something
_WORDS_BEHIND = 5  # behind the refusal in its sentence: a letter that the request wants says more
_MOST_SHORT = 160  # characters of an answer that is an apology alone
_SENTENCES = 3
_NEAR_BYTES, _NEAR_BYTES_BEHIND = 60, 24  # between the parts of a refusal
_MOST_SHARED = 0.5  # of the words: an answer that has more of them from its request was made from it
_SENTENCE = re.compile(r"[^.!?。！？।؟\n]+[.!?。！？।؟\n]*")
_MARKUP = re.compile(r"[*_`#>\u200b]+")
# A quotation, code, JSON, a role of a dialogue ("Robot: …"), or a letter.
_OTHER_TEXT = re.compile(
    r"[\"“”«»„‚「『`{\[<|•]|[^\W\d_]{2,16}(?: [^\W\d_]{1,12})?: "
    r"|(?:dear|liebe|lieber|sehr geehrte|cher|chère|estimad|querid|gentile|geachte|уважаем|дорог)[^\W\d_]* "
)
_SPEAKER = re.compile(r"^(?:assistant|ai|answer|response|antwort|réponse|respuesta|risposta|resposta): ")
_QUOTED = re.compile(r"\"[^\"\n]*\"?|“[^”\n]*”?|«[^»\n]*»?|„[^“”\n]*[“”]?|「[^」\n]*」?")
_GREETING = re.compile(
    r"(?:hi|hey|hello|hallo|moin|salut|bonjour|hola|ciao|olá|oi|dag|hej|cześć|ahoj|привет|merhaba|sorry) \S+, "
)
_CONTENT = re.compile(r"```|^[^\S\n]*+(?:[-*•]|\d+[.)])\s|\|.*\|", re.MULTILINE)
_ACT_BEHIND = frozenset(("en", "fr", "es", "it", "pt", "ro", "vi", "id"))  # languages in which the verb stands behind
_DOING = frozenset(
    ("make", "aid", "apology")
)  # kinds whose reason is a fact rather than a rule: "because there are none"
_KINDS = ("help", "act", "make", "aid")


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Hold the sentence of a text that refuses."""

    kind: str  # help, act, make, aid or apology
    behind: bytes  # in the sentence
    rest: str  # of the text


def refuses(question: Question, text: str) -> bool:
    """Return True when a text refuses what the request asks for, without a reason in the request."""
    if len(text) > _MOST_CHARS:
        return False
    plain = _plain(text)
    refusal = None if _OTHER_TEXT.match(plain) else _refusal(plain)
    return refusal is not None and _stands(refusal, plain) and not _is_right(refusal, question, plain)


def wants_refusal(question: Question) -> bool:
    """Return True when a refusal is the right answer: it is what the request wants, or the request is about harm."""
    ask, system = words_of(question.ask), words_of(question.system)
    return pattern_of("harm").search(ask) is not None or any(
        pattern_of("asked").search(words) for words in (ask, system)
    )


def _plain(text: str) -> str:
    """Return a text in lower case, without marks of Markdown and without a mark of the speaker."""
    plain = _MARKUP.sub("", text).strip().lower().replace("’", "'").replace("‘", "'")
    return _SPEAKER.sub("", plain)


def _refusal(plain: str) -> _Refusal | None:
    """Return the first of the opening sentences that refuses."""
    for number, match in enumerate(_SENTENCE.finditer(plain[:_HEAD_CHARS])):
        if number == _SENTENCES:
            break
        sentence = words_of(_QUOTED.sub(" ", match[0]))
        if pattern_of("idiom").search(sentence):
            continue
        sentence, opening = without("filler", sentence), words_of(plain[: match.start()]) + sentence
        for kind, end in chain(_parts(sentence), _apology(sentence, opening) if len(plain) <= _MOST_SHORT else ()):
            behind = sentence[end - 1 :]
            if not _goes_on(behind) and not (kind in _DOING and pattern_of("reason").search(behind)):
                return _Refusal(kind, behind, plain[match.end() :])
    return None


def _parts(sentence: bytes) -> Iterator[tuple[str, int]]:
    """Yield the kinds of refusal that a sentence may be, with the ends of their words."""
    if bare := pattern_of("bare").search(sentence):
        yield "help", bare.span(1)[1]
    if short := pattern_of("short").search(sentence):
        yield "aid", short.span(1)[1]
    if not pattern_of("unable").search(sentence):
        return
    machine = pattern_of("machine").search(sentence)
    for language in languages_of("unable"):
        unable = pattern_of("unable", language).search(sentence)
        needs_person = language in languages_of("person")
        if unable is None or (needs_person and not pattern_of("person", language).search(sentence)):
            continue
        begin, most = (unable.span(1)[1] - 1, _NEAR_BYTES_BEHIND) if language in _ACT_BEHIND else (0, _NEAR_BYTES)
        clause = _before_but(sentence, unable.span(1)[1])
        for kind in _KINDS:
            match = pattern_of(kind, language).search(clause, begin) if language in languages_of(kind) else None
            if match and (machine or _gap(unable.span(1), match.span(1)) <= most):
                yield "help" if machine else kind, max(unable.span(1)[1], match.span(1)[1])


def _apology(sentence: bytes, opening: bytes) -> Iterator[tuple[str, int]]:
    """Yield the end of the words by which a short answer says what the model cannot do, whatever it is: with an
    apology, or of what the request asks for.  A limit that is a fact ("I cannot see …") is an answer."""
    cannot = pattern_of("cannot").search(sentence)
    if cannot and not pattern_of("limit").search(sentence):
        end = cannot.span(1)[1]
        if pattern_of("object").match(sentence[end - 1 :]) or any(
            pattern_of(kind).search(opening) for kind in ("apology", "machine")
        ):
            yield "apology", end


def _gap(one: tuple[int, int], other: tuple[int, int]) -> int:
    return max(one[0], other[0]) - min(one[1], other[1])


def _before_but(sentence: bytes, begin: int) -> bytes:
    """Return a sentence up to the first "but" behind a position: what follows it is no longer refused."""
    but = pattern_of("but").search(sentence, begin - 1)
    return sentence[: but.span(1)[0] + 1] if but else sentence


def _goes_on(behind: bytes) -> bool:
    """Return True when a sentence says after its refusal what it does instead."""
    rest = behind[len(_before_but(behind, 1)) :]
    return len(rest) > _MOST_BUT and not pattern_of("offer").search(rest)


def _stands(refusal: _Refusal, plain: str) -> bool:
    """Return True when nothing behind a refusal answers after all, and no reason makes it an honest limit."""
    if _CONTENT.search(refusal.rest) or pattern_of("honest").search(words_of(plain[:_HEAD_CHARS])):
        return False
    return refusal.kind == "help" or len(refusal.rest) <= _MOST_BEHIND


def _is_right(refusal: _Refusal, question: Question, plain: str) -> bool:
    """Return True when the request wants a refusal, or a text that may be read as one."""
    if wants_refusal(question):
        return True
    ask = words_of(question.ask)
    if refusal.kind == "apology" and pattern_of("ability").search(ask):
        return True
    is_writing = pattern_of("writing").search(ask) is not None
    if is_writing and (_GREETING.match(plain) or not _is_meant(refusal, plain)):
        return True
    is_about_text = is_writing or pattern_of("quotes").search(ask) is not None
    return _shared_words(words_of(plain), ask) > _MOST_SHARED or (
        is_about_text and any(pattern_of(kind).search(ask) for kind in ("negative", "unable"))
    )


def _is_meant(refusal: _Refusal, plain: str) -> bool:
    """Return True when a refusal cannot be a text that the request wants: a letter says what its writer does not do."""
    return (
        refusal.kind not in ("aid", "apology")
        and len(plain) <= _MOST_WRITTEN
        and len(refusal.behind.split()) <= _WORDS_BEHIND
    )


def _shared_words(words: bytes, ask: bytes) -> float:
    """Return the share of the words of a text that are words of the request too."""
    text = words.split()
    request = frozenset(ask.split())
    return sum(word in request for word in text) / max(1, len(text))

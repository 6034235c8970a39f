"""Tell what a request is for when no signature tells it: an agent at work, a prompt of a program, or a person.  Pure.

Agents have tools that act on a machine, or a system prompt that describes such work.  Chat programs send prompts by
themselves: a title, tags, the next questions, queries for a search, the rest of what is being typed, a shorter form of
a long conversation.  Such a prompt holds a conversation or speaks of one, it names the thing and the form of the
answer, and it holds no words such as "my".  A person who pastes a conversation and asks something, or who wants a
title for an essay, differs in one of these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from app.routing.lexicon import Lexicon, tokens
from app.routing.memo import Memo
from app.routing.signatures import SIGNATURES

LEXICON = Lexicon(Path(__file__).with_name("lexicon_purpose.txt"))

_BEGIN_CHARS = 4_000  # of a prompt, in which the lines of a conversation are looked for …
_END_CHARS = 1_500  # … with those of its end
_OWN_CHARS = 1_500  # of an instruction
_PARAGRAPH_CHARS = 400
_JOB_SENTENCES = 2  # at the beginning of a system prompt say what it is for
_GAP_CHARS = 20_000
_NAME_CHARS = 120
_AGENT_POINTS = 4

_LABELS = frozenset({"title", "mood"})
_CONTENT = frozenset({"tags", "next", "query", "memory", "typing", "finishing"}) | _LABELS
_THINGS = _CONTENT | {"condense"}
_FORMS = frozenset({"machine", "only", "short"})
_STRICT_FORMS = frozenset({"machine", "only"})
_NAMING = frozenset({"title", "short", "conversation"})
_CONVERSATION = frozenset({"conversation", "parties"})

_SPEAKER_LINE = re.compile(
    r"(?m)^[ \t>*#\[\-]{0,8}(?:user|human|assistant|ai|bot|model|chatbot|q|a|you|chatgpt|gpt|claude|gemini"
    r"|nutzer|benutzer|assistent|utilisateur|usuario|usuário|asistente|utente|assistente|gebruiker|użytkownik|asystent|пользователь|ассистент|用户|用戶|助手|助理"
    r"|ユーザー|アシスタント|사용자|어시스턴트)[\]*_]{0,4} ?(?:[:：].*|$)"
)
_OPEN_LINE = re.compile(r"\n[ \t>*#\[]{0,8}(?:assistant|ai|bot|model)[\]*_]{0,4} ?:\s*+\Z")  # wants the next answer
_JSON = re.compile(r"[{\[] ?[\"'\]]")
_EXAMPLE = re.compile(r":[^\n]*+|\"[^\"\n]*+\"|“[^“”\n]*+”|«[^«»\n]*+»|„[^„“\n]*+“")
_PERSONA = re.compile(r"\b(?:chat|conversation(?:al)?) (?:assistant|bot|agent|partner|companion|model)\b")
_SENTENCE_END = re.compile(r"[.!?\n。！？]+")
_WORD_BREAK = re.compile(r"[^A-Za-z0-9]+|(?<=[a-z])(?=[A-Z])")
_GAP_BEGINNINGS = ("<|fim_", "<fim_", "<｜fim", "<pre>")
_GAP_SIGNS = ("<", "█", "{{")  # one of them is in each mark of a gap
_GAP_ENDS = ("middle|>", "middle>", "<mid>")

Hits = Mapping[str, int]  # list of lexicon_purpose.txt -> number of its entries


# --- agents -----------------------------------------------------------------------------------------


@Memo
def acts(names: str) -> bool:
    """Return True when one of the tools with these names, one a line, acts on a machine."""
    return any(map(_acts, names.split("\n")))


def _acts(name: str) -> bool:
    words = [word.lower() for word in _WORD_BREAK.split(name[:_NAME_CHARS]) if word and not word.isdigit()]
    if any("".join(words[at:]) in SIGNATURES.acting_tools for at in range(len(words))):  # `mcp__files__read_file`
        return True
    if not SIGNATURES.acting_words.isdisjoint(words):
        return True
    return not SIGNATURES.tool_verbs.isdisjoint(words) and not SIGNATURES.tool_things.isdisjoint(words)


@Memo
def describes_agent(system: str) -> bool:
    """Return True for a system prompt that describes an agent at work on files and programs."""
    hits = LEXICON.count(tokens(system))
    if "acts" not in hits or "place" not in hits:
        return False
    points = 2 * hits["place"] + hits.get("near", 0) + 2 * ("software" in hits) + ("agent" in hits)
    return points >= _AGENT_POINTS


# --- prompts of programs ----------------------------------------------------------------------------


def is_background(system: str, first: str) -> bool:
    """Return True when a program sends a prompt by itself.  `first` is the first message of the user."""
    if len(first) > _BEGIN_CHARS + _END_CHARS:
        first = f"{first[:_BEGIN_CHARS]}\n{first[-_END_CHARS:]}"
    return _is_background(f"{system}\0{first}")


@Memo
def _is_background(texts: str) -> bool:
    system, _, text = texts.lower().partition("\0")
    if system and _names_job(system):
        return True
    around = _around_conversation(text)
    return _is_alone(text) if around is None else _asks_about_conversation(text, around, system)


def _names_job(system: str) -> bool:
    """Return True for a system prompt that begins with its job: a title for a conversation, or the like."""
    if any(part in system[:_PARAGRAPH_CHARS] for part in SIGNATURES.background):
        return True
    system = _PERSONA.sub(" ", system[:_OWN_CHARS])
    hits = _hits(system)
    has_form = _FORMS & hits.keys() or ("condense" in hits and hits.get("going_on", 0) > 1)
    if "aside" in hits or not has_form or not _THINGS & hits.keys() or _is_of_person(system):
        return False
    sentences = [part for part in _SENTENCE_END.split(system[:_OWN_CHARS]) if part.strip()]
    job = _hits("\n".join(sentences[:_JOB_SENTENCES])).keys()
    return bool(_THINGS & job and {"make", "typing"} & job and {"conversation", "message", "typing"} & job)


def _asks_about_conversation(text: str, around: str, system: str) -> bool:
    """Return True for an instruction of a program around a conversation, or above it in the system prompt."""
    hits = _hits(around)
    if around.rstrip().endswith(":"):  # "Standalone question:"
        hits["only"] = 1
    if not (_THINGS | _FORMS | {"searching", "loosely"}) & hits.keys():  # a heading at most
        hits = _hits(system)
    if (
        {"answering", "answers"} & hits.keys()
        or _is_of_person(around)
        or ("?" in around and not (_STRICT_FORMS & hits.keys() or hits.keys() >= _NAMING))
    ):
        return False
    if "work" in hits and not ("machine" in hits and _CONVERSATION & hits.keys()):
        return False
    if (_CONTENT | {"searching"}) & hits.keys():
        return bool((_FORMS | _CONVERSATION) & hits.keys())
    if "condense" in hits:
        return bool((_CONVERSATION | {"going_on"}) & hits.keys())
    if "editing" in hits or _OPEN_LINE.search(text):
        return False
    if {"conversation", "loosely", "going_on"} & hits.keys():
        return bool(_FORMS & hits.keys())
    return {"machine", "parties"} <= hits.keys()


def _is_alone(text: str) -> bool:
    """Return True for a message without a conversation when it begins with an instruction of a program, for the text
    behind it or for what is being typed."""
    paragraph = text.lstrip()[:_PARAGRAPH_CHARS].partition("\n\n")[0]
    hits = _hits(paragraph)
    if {"work", "answering"} & hits.keys() or "?" in paragraph:
        return False
    is_completion = "typing" in hits and "software" not in hits and bool(_STRICT_FORMS & hits.keys())
    is_label = "message" in hits and bool(_LABELS & hits.keys()) and bool(_FORMS & hits.keys())
    return (is_completion or is_label) and not _is_of_person(paragraph)


def speaks_of_conversation(last: str) -> bool:
    """Return True for a message behind others when a program wrote it, and wants a title for them or the like."""
    return len(last) <= _OWN_CHARS and _speaks_of_conversation(last)


@Memo
def _speaks_of_conversation(last: str) -> bool:
    text = last.lower()
    if _around_conversation(text) is not None:  # it is about that one
        return False
    hits = _hits(text)
    if "conversation" not in hits or not _CONTENT & hits.keys() or not _STRICT_FORMS & hits.keys():
        return False
    return "work" not in hits and "?" not in text and not _is_of_person(text)


def _around_conversation(text: str) -> str | None:
    """Return what stands before and behind the conversation that stands in a text; None when there is none."""
    begin, end = text[:_BEGIN_CHARS], text[-_END_CHARS:]
    lines = [line.start() for line in _SPEAKER_LINE.finditer(begin)]
    marks = [at for mark in SIGNATURES.transcript if (at := begin.find(mark)) >= 0]
    if len(lines) < 2 and not marks:
        return None
    if marks:
        closes = max(end.rfind("</"), end.rfind("]"))
        behind = end[closes:].partition("\n")[2] if closes >= 0 else ""
    else:
        last = max((line.end() for line in _SPEAKER_LINE.finditer(end)), default=0)
        behind = end[last:].rpartition("\n\n")[2] or end[last:]
    return f"{begin[: min(marks + lines)][:_OWN_CHARS]}\n{behind}"


def _hits(text: str) -> dict[str, int]:
    """Return the lists that the words of an instruction belong to, and `machine` for the braces of JSON."""
    text = text[:_OWN_CHARS]
    hits = LEXICON.count(tokens(text), text)
    if _JSON.search(text):
        hits["machine"] = hits.get("machine", 0) + 1
    return hits


def _is_of_person(text: str) -> bool:
    """Return True for the words of a person who asks for himself.  Examples, which stand in quotes or behind a colon,
    may hold such words in a prompt of a program."""
    own = _EXAMPLE.sub(" ", text[:_OWN_CHARS])
    hits = LEXICON.count(tokens(own), own)
    return "person" in hits or hits.get("speaker", 0) > hits.get("handing", 0)


# --- gaps in programs -------------------------------------------------------------------------------


def fills_gap(system: str, text: str) -> bool:
    """Return True for a prompt that wants a gap in a program to be filled."""
    return any(mark in text for mark in _GAP_SIGNS) and _fills_gap(f"{system}\0{text[:_GAP_CHARS]}")


@Memo
def _fills_gap(texts: str) -> bool:
    system, _, text = texts.lower().partition("\0")
    text = text.strip()
    if not any(mark in text for mark in SIGNATURES.gaps):
        return False
    if text.startswith(_GAP_BEGINNINGS) or text.endswith(_GAP_ENDS):
        return True
    own = f"{system}\n{text[:_PARAGRAPH_CHARS]}"
    return "fill" in _hits(own) and "?" not in own and not _is_of_person(own)

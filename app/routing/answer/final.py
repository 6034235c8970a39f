"""Find the final answer in the text of an answer: what a JSON member, a box, "The answer is …" or a short text states.

Only the beginning and the end of a long text are read, since final answers stand there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.routing.answer.lists import WORDS
from app.routing.answer.plain import plain

HEAD_CHARS, TAIL_CHARS = 2_000, 6_000  # of a text
_CUE_CHARS = 1_500  # before the end, and the first ones
_SHORT_CHARS = 160
_LINE_CHARS = 400
_ANSWER_MEMBERS = frozenset(WORDS["answer member"])
_REASON_MEMBERS = frozenset(WORDS["reason member"])
_COURTESIES = ("let me know", "hope this", "feel free", "if you have any", "if you need", "happy to help")
_SENTENCE = re.compile(r"[.!?。！？](?=\s|$)|[。！？]|\n")
_BOLD = re.compile(r"\*\*([^*\n]{1,80})\*\*")
_MEMBER = re.compile(r"""["'](?:final_?)?(?:answer|result|output|solution)["']\s{0,4}:\s{0,4}""", re.IGNORECASE)
# Models write LaTeX into JSON without escaping its backslashes: \\frac would begin with a form feed.
_BARE_BACKSLASH = re.compile(
    r"(?<!\\)\\(?=(?:frac|fbox|forall|boxed|begin|beta|bar|binom|bf|text|times|theta|tan|tau|to|triangle|right|rho|rangle"
    r'|rm|nu|neq|ne|not|nabla)(?![a-z])|[^"\\/bfnrtu])'
)
_FENCE = "```"
_MONTH_NEXT = re.compile(r"\s{1,2}(?:Jan|Feb|M[aä]r|Apr|Ma[iy]|Jun|Jul|Aug|Sep|O[ck]t|Nov|De[cz])")


@dataclass(frozen=True, slots=True)
class Statement:
    """Hold the final answer of a text."""

    text: str  # in plain characters
    is_stated: bool  # by a member, a box, or words such as "the answer is"
    is_whole: bool  # the answer says nothing else
    first: str = ""  # the first sentence of the answer
    document: object = None  # the JSON that the answer is, or None


def bounded(text: str) -> str:
    """Return the beginning and the end of a text."""
    return text if len(text) <= HEAD_CHARS + TAIL_CHARS else text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]


def statement(text: str) -> Statement:
    """Return the final answer of a text."""
    text = bounded(text.rpartition("</think>")[2]).strip()
    first = plain(text[: _sentence_end(text[:_LINE_CHARS])])
    document = document_of(text)
    if document is not None and (value := _value_of(document)) is not None:
        return Statement(plain(value), True, False, first, document)
    marked = _tagged(text) or _member(text) or _boxed(text) or _hashed(text) or _cued(text)
    if marked:
        return Statement(plain(marked), True, False, first, document)
    if len(text) <= _SHORT_CHARS and "\n" not in text.strip():
        return Statement(plain(text), False, True, first, document)
    if bold := _BOLD.findall(text[-_LINE_CHARS:]):
        return Statement(plain(bold[-1]), True, False, first, document)
    return Statement(plain(_conclusion(text)), False, False, first, document)


def document_of(text: str) -> object:
    """Return the JSON document that a text is, or that stands in it with few words around it; else None."""
    inner = fenced(text) if _FENCE in text else text
    start = min((at for at in (inner.find("{"), inner.find("[")) if at >= 0), default=-1)
    end = max(inner.rfind("}"), inner.rfind("]"))
    if start < 0 or end <= start or inner.count("{") + inner.count("[") > 500:
        return None
    if start + len(inner) - end > 0.5 * len(inner) + 80:
        return None
    inner = inner[start : end + 1]
    return parsed(_BARE_BACKSLASH.sub(r"\\\\", inner) if "\\" in inner else inner)


def parsed(text: str) -> object:
    """Return the object or the list that a text is as JSON, or None."""
    try:
        document = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, (dict, list)) else None


def fenced(text: str) -> str:
    """Return the content of the longest code block, or the text."""
    pieces = text.split(_FENCE)
    if len(pieces) < 2:
        return text
    block = max(pieces[1::2], key=len)
    name, _, rest = block.partition("\n")
    return rest if rest and len(name) < 20 and " " not in name.strip() else block


def _value_of(document: object) -> str | None:
    """Return the member that holds the final answer, as text; None when the whole document is the answer."""
    if not isinstance(document, Mapping):
        return None
    names = {str(name).lower(): value for name, value in list(document.items())[:100]}
    rest = {name: value for name, value in names.items() if name not in _REASON_MEMBERS}
    answers = [name for name in names if name in _ANSWER_MEMBERS]
    if len(answers) == 1 and len(rest) <= 2:
        value = names[answers[0]]
    elif len(rest) == 1 < len(names):
        value = next(iter(rest.values()))
    else:
        return None
    return value_text(value) if not isinstance(value, Mapping) else None


def value_text(value: object) -> str:
    """Return a JSON value as text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)[:_LINE_CHARS]


def _member(text: str) -> str:
    """Return the member `answer` of JSON that cannot be parsed."""
    tail = text[-_CUE_CHARS:]
    matches = list(_MEMBER.finditer(tail))
    if not matches:
        return ""
    rest = tail[matches[-1].end() :]
    quote = rest[:1]
    if quote in ('"', "'"):
        end = rest.rfind(quote)
        line_end = rest.find(quote + "\n")
        return rest[1 : line_end if line_end > 0 else end] if end > 0 else rest[1:]
    return rest.partition("\n")[0].strip().rstrip(",}").strip()


def _tagged(text: str) -> str:
    """Return the content of the last `<answer>…</answer>` or `[ANSWER]…[/ANSWER]`."""
    for opening, closing in (("<answer>", "</answer>"), ("[ANSWER]", "[/ANSWER]")):
        _, mark, rest = text.rpartition(opening)
        if mark and (content := rest.partition(closing)[0].strip()):
            return content[:_LINE_CHARS]
    return ""


def _boxed(text: str) -> str:
    """Return the content of the last `\\boxed{…}`."""
    at = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if at < 0:
        return ""
    start = text.index("{", at) + 1
    depth = 1
    for end in range(start, min(len(text), start + _LINE_CHARS)):
        depth += (text[end] == "{") - (text[end] == "}")
        if not depth:
            return text[start:end]
    return ""


def _hashed(text: str) -> str:
    """Return the line behind the last `####`, if it is the last line."""
    _, mark, rest = text[-_LINE_CHARS:].rpartition("####")
    rest = rest.strip(" #")
    return rest if mark and rest and "\n" not in rest else ""


def _cued(text: str) -> str:
    """Return what stands behind the last words such as "the answer is"."""
    for part in (text[-_CUE_CHARS:], text[:_LINE_CHARS]):
        lower = part.lower()
        lower = lower if len(lower) == len(part) else part
        end = max((at + len(cue) for cue in WORDS["answer"] if (at := _last_of(cue, lower)) >= 0), default=-1)
        if end >= 0 and (sentence := _first_sentence(part[end:])):
            return sentence
    return ""


def _last_of(cue: str, text: str) -> int:
    """Return the last place of a cue that no word begins or ends in the middle of, or -1."""
    at = text.rfind(cue)
    if at > 0 and text[at - 1].isalnum() and cue[0].isascii():
        return -1
    after = text[at + len(cue) : at + len(cue) + 1] if at >= 0 else ""
    return -1 if after.isalnum() and cue[-1].isalnum() and cue.isascii() else at


def _first_sentence(text: str) -> str:
    """Return the first sentence of a text, without signs in front of it."""
    text = text[: 2 * _LINE_CHARS].lstrip(" \t\r\n:*_=>`\"'-–—：是为為は")
    return text[: _sentence_end(text)].strip() if text else ""


def _sentence_end(text: str) -> int:
    """Return the end of the first sentence of a text."""
    for match in _SENTENCE.finditer(text):
        end = match.start()
        if match[0] == "." and text[end - 1 : end].isdigit() and _MONTH_NEXT.match(text, end + 1):
            continue
        if match[0] != "\n" and end < 3 and not text[:end].strip("(").isalnum():
            continue
        if text[:end].strip():
            return end
    return min(len(text), _LINE_CHARS)


def _conclusion(text: str) -> str:
    """Return the last sentence that says something, one that begins with "so" or "therefore" first."""
    sentences = [sentence for sentence in _sentences(text[-3 * _LINE_CHARS :]) if not _is_courtesy(sentence)][-4:]
    for sentence in reversed(sentences):
        if sentence.lower().lstrip("*_ ").startswith(WORDS["so"]):
            return sentence
    return sentences[-1] if sentences else text[-_LINE_CHARS:]


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE.finditer(text):
        if sentence := text[start : match.start()].strip():
            yield sentence
        start = match.end()
    if sentence := text[start:].strip():
        yield sentence


def _is_courtesy(sentence: str) -> bool:
    lower = sentence.lower()
    return any(words in lower for words in _COURTESIES)

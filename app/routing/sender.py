"""Tell who sends a request: the program, whether it declares tools, and what it is for.  Pure.

signatures.txt holds the shapes by which programs are known.  They are compared in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from app.routing.lexicon import tokens
from app.routing.memo import Memo
from app.routing.signatures import OTHER, SIGNATURES, Signature
from app.types import JsonObject, Lane

CLIENTS = (*(signature.name for signature in SIGNATURES.clients), OTHER.name)
HEADERS = ("user-agent", "originator", "x-app", "x-title")  # that tell the program

_HEAD_CHARS = 600
_MOST_SYSTEM_MESSAGES = 4
_MOST_TOOLS = 200
_MOST_PARTS = 40
_TRANSCRIPT_CHARS = 4_000  # in which the lines of a conversation are looked for
_ROLE_LINE = re.compile(r"(?im)^[ \t>*#\[]*(?:user|assistant|human|ai|bot|model|system)\]?[*]*:")
_SEPARATORS = str.maketrans("", "", "_-. :/")


_ASK = frozenset(" ".join(SIGNATURES.lists["background ask"]).split())
_FORM = frozenset(" ".join(SIGNATURES.lists["background form"]).split())


@dataclass(frozen=True, slots=True)
class Sender:
    """Hold who sends a request."""

    client: str  # a name of signatures.txt, or `other`
    tools: bool  # it declares tools
    purpose: Lane
    signature: Signature


NO_SENDER = Sender("other", False, Lane.INTERACTIVE, OTHER)


def sender_of(chat: JsonObject, headers: Mapping[str, str]) -> Sender:
    """Return who sends a request.  `headers` holds the request headers of HEADERS, with names in lower case."""
    messages = [message for message in _list(chat.get("messages")) if isinstance(message, Mapping)]
    system = _head(message for message in messages if message.get("role") in ("system", "developer"))
    first = next((text_of(message) for message in messages if message.get("role") == "user"), "")
    signature = _by_headers(headers) or _by_texts(f"{system}\0{first[:_HEAD_CHARS].lower()}")
    names = [name for tool in _tools(chat) if (name := _tool_name(tool))]
    if _is_background(messages, system, signature):
        purpose = Lane.BACKGROUND
    elif signature.is_harness or _acts(" ".join(names)):
        purpose = Lane.AGENT
    else:
        purpose = Lane.INTERACTIVE
    return Sender(signature.name, bool(names), purpose, signature)


def _by_headers(headers: Mapping[str, str]) -> Signature | None:
    """Return the signature that the headers match, if any."""
    if not headers:
        return None
    values = {name: value.lower() for name, value in headers.items()}
    for signature in SIGNATURES.clients:
        if any(part in values.get(name, "") for name, part in signature.headers):
            return signature
    return None


@Memo
def _by_texts(texts: str) -> Signature:
    """Return the signature that the system prompts or the first message of the user match, which a zero divides."""
    system, _, first = texts.partition("\0")
    for signature in SIGNATURES.clients:
        if any(part in system for part in signature.system) or any(part in first for part in signature.ask):
            return signature
    return OTHER


def _tools(chat: JsonObject) -> Iterator[Mapping[str, object]]:
    for tool in [*_list(chat.get("tools")), *_list(chat.get("functions"))][:_MOST_TOOLS]:
        if isinstance(tool, Mapping):
            yield tool


def _tool_name(tool: Mapping[str, object]) -> str:
    """Return the name of a declared tool, or the type of one that a server has built in."""
    function = tool.get("function")
    name = (function if isinstance(function, Mapping) else tool).get("name") or tool.get("type")
    return name if isinstance(name, str) else ""


@Memo
def _acts(names: str) -> bool:
    """Return True when one of the tools acts on a machine."""
    return any(name.lower().translate(_SEPARATORS) in SIGNATURES.acting_tools for name in names.split(" "))


def _is_background(messages: Sequence[Mapping[str, object]], system: str, signature: Signature) -> bool:
    """Return True for a prompt that a program sends, and for which no person waits."""
    if any(mark in system for mark in SIGNATURES.lists["background system"]):
        return True
    asks = [text for message in messages if message.get("role") == "user" and (text := text_of(message))]
    if len(asks) != 1 or any(message.get("role") == "assistant" for message in messages):
        return False
    return _is_about_transcript(f"{system}\0{asks[0]}") or any(
        part in asks[0][:_HEAD_CHARS].lower() for part in signature.ask
    )


@Memo
def _is_about_transcript(texts: str) -> bool:
    """Return True for a prompt that holds a conversation, and wants a title, tags, queries or the like for it.  A zero
    stands between the system prompts and the message of the user."""
    system, _, text = texts.partition("\0")
    begin, end = text[:_TRANSCRIPT_CHARS].lower(), text[-_HEAD_CHARS:].lower()
    lines = list(islice(_ROLE_LINE.finditer(begin), 2))
    if len(lines) < 2 and not any(mark in begin for mark in SIGNATURES.lists["transcript"]):
        return False
    before = begin[: lines[0].start()] if lines else begin
    behind = end[max((line.end() for line in _ROLE_LINE.finditer(end)), default=0) :]
    return any(_ASK & words and _FORM & words for words in map(_words, (system, before[:_HEAD_CHARS], behind)))


def _words(text: str) -> set[str]:
    words = tokens(text)
    return {
        *words,
        *("_".join(pair) for pair in pairwise(words)),
        *map("_".join, zip(words, words[1:], words[2:], strict=False)),
    }


def _head(messages: Iterable[Mapping[str, object]]) -> str:
    """Return the beginnings of the system prompts in lower case."""
    return "\n".join(text_of(message)[:_HEAD_CHARS] for message in islice(messages, _MOST_SYSTEM_MESSAGES)).lower()


def text_of(message: Mapping[str, object]) -> str:
    """Return the text of a message, shortened."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = (part.get("text") for part in _list(content)[:_MOST_PARTS] if isinstance(part, Mapping))
    return "\n".join(part for part in parts if isinstance(part, str))


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []

"""Reads a chat body: what the user asks now, what was asked before, and how long it all is.

Nothing here trusts the body's shape: any JSON object is read without raising, and what has the wrong type
counts as absent.  Text is capped before it is looked at; only `tokens` is about the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.types import JsonObject

HEAD_CHARS = 6_000  # of one message: kept from its start …
TAIL_CHARS = 2_000  # … and from its end; askers put their question at either
SYSTEM_CHARS = 600  # a longer system prompt describes an agent, not the task
IMAGE_TYPES = frozenset({"image_url", "input_image"})
IMAGE_TOKENS = 1_000  # servers bill an image by its size in pixels, never by its base64 length
MESSAGE_TOKENS = 4  # role and separators
_MAX_BLOCKS = 40
_as_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode

# What editors and agents wrap around a prompt.  HTML names must stay out: they are code.
_HARNESS = frozenset(
    {"system", "reminder", "instructions", "context", "document", "documents", "doc", "file", "files", "attachment"}
    | {"attachments", "environment", "editor", "workspace", "selection", "quote", "transcript", "article", "passage"}
    | {"source", "sources", "memory", "tool", "tools"}
)


@dataclass(frozen=True, slots=True)
class Ask:
    """The words to judge."""

    text: str  # what the user says now, without harness blocks
    before: str  # what the user said in the turn before; "" in a first turn
    system: str  # a short system prompt: it may hold the instruction for what the user pastes
    image: bool  # any message holds an image part
    tokens: int


def read(chat: JsonObject) -> Ask:
    """The ask in a chat body of any shape."""
    messages: list[Mapping[str, Any]] = [m for m in _items(chat.get("messages")) if isinstance(m, dict)]
    turns = _user_turns(messages)
    return Ask(
        text=next(turns, ""),
        before=next(turns, ""),
        system=_system(messages),
        image=any(_has_image(message) for message in messages),
        tokens=_tokens(chat, messages),
    )


def read_text(text: str) -> Ask:
    """The ask in one prompt."""
    return Ask(text=_ask(text), before="", system="", image=False, tokens=MESSAGE_TOKENS + count_tokens(text))


def count_tokens(text: str) -> int:
    """About 4 characters a token; UTF-8 bytes over 3 where the script is not Latin (CJK: about 1 a character)."""
    if text.isascii():
        return (len(text) + 3) // 4
    wide = len(text.encode("utf-8", "replace")) - len(text)  # bytes beyond one per character
    return (len(text) + 3) // 4 + wide * 3 // 8


def _user_turns(messages: list[Mapping[str, Any]]) -> Iterator[str]:
    """What the user said, the last turn first.  A message of harness text or tool results alone is no turn."""
    for message in reversed(messages):
        if message.get("role") == "user" and (text := _ask(_capped(message.get("content")))):
            yield text


def _system(messages: list[Mapping[str, Any]]) -> str:
    """The first system prompt, when it is short."""
    for message in messages:
        if message.get("role") in ("system", "developer"):
            text = "\n".join(_texts(message.get("content"))).strip()
            return text if len(text) <= SYSTEM_CHARS else ""
    return ""


def _capped(content: object) -> str:
    """A message's text: the first HEAD_CHARS and the last TAIL_CHARS of it."""
    parts = [text for text in _texts(content) if text]
    if sum(map(len, parts)) > HEAD_CHARS + TAIL_CHARS:
        head = "\n".join(part[:HEAD_CHARS] for part in parts[:8])[:HEAD_CHARS]
        tail = "\n".join(part[-TAIL_CHARS:] for part in parts[-8:])[-TAIL_CHARS:]
        return head + "\n" + tail
    return "\n".join(parts)


def _ask(text: str) -> str:
    """`text` without the blocks that an editor or agent put around the user's words."""
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]
    if "<" in text and "</" in text:
        text = _without_blocks(text)
    return text.strip()


def _without_blocks(text: str) -> str:
    kept, begin = [], 0
    for _ in range(_MAX_BLOCKS):
        start, end = _next_block(text, begin)
        if start < 0:
            break
        kept.append(text[begin:start])
        begin = end
    return "\n".join([*kept, text[begin:]])


def _next_block(text: str, begin: int) -> tuple[int, int]:
    """Where the next harness block starts and ends; (-1, -1) when there is none."""
    start = text.find("<", begin)
    for _ in range(_MAX_BLOCKS):
        if start < 0:
            break
        name = text[start + 1 : start + 41].split(">")[0].split(" ")[0]
        if _is_harness(name):
            close = f"</{name}>"
            end = text.find(close, start)
            if end >= 0:
                return start, end + len(close)
        start = text.find("<", start + 1)
    return -1, -1


def _is_harness(name: str) -> bool:
    plain = name.replace("-", "").replace("_", "")
    return plain.isalpha() and (plain != name or name.lower() in _HARNESS)


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _texts(content: object) -> Iterator[str]:
    """The text pieces of a message's content."""
    if isinstance(content, str):
        yield content
    for part in _items(content):
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            text = part.get("text")
            if isinstance(text, str):
                yield text


def _has_image(message: Mapping[str, Any]) -> bool:
    return any(_is_image(part) for part in _items(message.get("content")))


def _is_image(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return (isinstance(kind, str) and kind in IMAGE_TYPES) or "image_url" in part


def _tokens(chat: JsonObject, messages: list[Mapping[str, Any]]) -> int:
    total = _json_tokens(chat.get("tools")) + _json_tokens(chat.get("functions"))
    instructions = chat.get("instructions")
    total += count_tokens(instructions) if isinstance(instructions, str) else 0
    return total + sum(_message_tokens(message) for message in messages)


def _message_tokens(message: Mapping[str, Any]) -> int:
    content = message.get("content")
    if type(content) is str and "tool_calls" not in message:
        return MESSAGE_TOKENS + count_tokens(content)
    total = MESSAGE_TOKENS + sum(count_tokens(text) for text in _texts(content))
    total += IMAGE_TOKENS * sum(_is_image(part) for part in _items(content))
    return total + _json_tokens(message.get("tool_calls"))


def _json_tokens(value: object) -> int:
    try:
        return count_tokens(_as_json(value)) if value else 0
    except (RecursionError, ValueError):  # nested deeper than any body the web layer lets in
        return 0

"""Read the prompt from a chat body: the turns of the user, a short system prompt, and the size of the whole request.

A body of any shape is read without an error: a member of the wrong type counts as absent.  Long texts are shortened
before they are searched; only `tokens` counts the whole request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from app.routing.signatures import ASK_TAGS, OTHER, Signature
from app.types import JsonObject

HEAD_CHARS = 6_000  # read from the start of a message …
TAIL_CHARS = 2_000  # … and from its end: users put their question in either place
SYSTEM_CHARS = 600  # a longer system prompt describes an agent, not the task
IMAGE_TYPES = frozenset({"image_url", "input_image"})
IMAGE_TOKENS = 1_000  # servers count an image by its size in pixels, never by the length of its base64
MESSAGE_TOKENS = 4  # role and separators
_MAX_BLOCKS = 40
_TEXTS_BEFORE = 6  # that tell what a turn may refer to
_ASK_TAG = re.compile(r"<([A-Za-z][A-Za-z_-]{1,30})(?: [^<>]{0,200})?>")
_as_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode

# The tags that editors and agents put around their own text in a prompt.  Names of HTML are not here: they are code.
_HARNESS_TAGS = frozenset(
    {"system", "reminder", "instructions", "context", "document", "documents", "doc", "file", "files", "attachment"}
    | {"attachments", "environment", "editor", "workspace", "selection", "quote", "transcript", "article", "passage"}
    | {"source", "sources", "memory", "tool", "tools"}
)


@dataclass(frozen=True, slots=True)
class UserTurn:
    """Hold one message of the user."""

    text: str  # without harness blocks
    has_image: bool = False
    before: tuple[str, ...] = ()  # the latest texts before it, of both sides


@dataclass(frozen=True, slots=True)
class Prompt:
    """Hold the parts of a request that the classifier judges."""

    turns: tuple[UserTurn, ...]  # the first one first
    system: str  # a short system prompt: it may hold the instruction for a text that the user pastes
    has_image: bool  # any message holds an image part
    tokens: int


def read(chat: JsonObject, signature: Signature = OTHER) -> Prompt:
    """Return the prompt of a chat body of any shape, as the program of a signature writes it."""
    messages: list[JsonObject] = [message for message in _items(chat.get("messages")) if isinstance(message, dict)]
    return Prompt(
        turns=tuple(_user_turns(messages, signature)),
        system=_system(messages),
        has_image=any(map(_has_image, messages)),
        tokens=_tokens(chat, messages),
    )


def read_text(text: str) -> Prompt:
    """Return the prompt of a single text."""
    tokens = MESSAGE_TOKENS + count_tokens(text)
    return Prompt(turns=(UserTurn(_own_words(text)),), system="", has_image=False, tokens=tokens)


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: 4 ASCII characters are a token, and about one character of Chinese or Japanese."""
    if text.isascii():
        return (len(text) + 3) // 4
    wide = len(text.encode("utf-8", "replace")) - len(text)  # bytes beyond one for each character
    return (len(text) + 3) // 4 + wide * 3 // 8


def _user_turns(messages: list[JsonObject], signature: Signature) -> list[UserTurn]:
    """Return the turns of the user.  A message that holds harness text or the output of a program is no turn."""
    turns: list[UserTurn] = []
    texts: list[str] = []
    for message in messages:
        role, text = message.get("role"), _shortened(message.get("content"))
        if role == "user":
            if signature.restarts(text):
                turns.clear()
                continue
            own, has_image = "" if signature.puts_in(text) else _own_words(signature.cut(text)), _has_image(message)
            if own or has_image:
                turns.append(UserTurn(own, has_image, tuple(texts[-_TEXTS_BEFORE:])))
        if text and role in ("user", "assistant"):
            texts.append(text)
    return turns


def _system(messages: list[JsonObject]) -> str:
    """Return the first system prompt when it is short, else ""."""
    for message in messages:
        if message.get("role") in ("system", "developer"):
            text = "\n".join(_texts(message.get("content"))).strip()
            return text if len(text) <= SYSTEM_CHARS else ""
    return ""


def _shortened(content: object) -> str:
    """Return the text of a message; of a long one the first HEAD_CHARS and the last TAIL_CHARS."""
    if isinstance(content, str) and len(content) <= HEAD_CHARS + TAIL_CHARS:
        return content
    parts = [text for text in _texts(content) if text]
    if sum(map(len, parts)) > HEAD_CHARS + TAIL_CHARS:
        head = "\n".join(part[:HEAD_CHARS] for part in parts[:8])[:HEAD_CHARS]
        tail = "\n".join(part[-TAIL_CHARS:] for part in parts[-8:])[-TAIL_CHARS:]
        return head + "\n" + tail
    return "\n".join(parts)


def _own_words(text: str) -> str:
    """Return a text without the blocks that an editor or agent put around the words of the user."""
    if len(text) > HEAD_CHARS + TAIL_CHARS:
        text = text[:HEAD_CHARS] + "\n" + text[-TAIL_CHARS:]
    if "<" in text and "</" in text:
        text = _without_blocks(text).strip() or _inside_ask_tag(text)
    return text.strip()


def _inside_ask_tag(text: str) -> str:
    """Return the ask that stands inside of a tag for asks; "" when there is none."""
    for begin in _ASK_TAG.finditer(text):
        if begin[1].lower().replace("-", "_") in ASK_TAGS:
            end = text.find(f"</{begin[1]}>", begin.end())
            if end >= 0:
                return text[begin.end() : end]
    return ""


def _without_blocks(text: str) -> str:
    parts, begin = [], 0
    for _ in range(_MAX_BLOCKS):
        start, end = _next_block(text, begin)
        if start < 0:
            break
        parts.append(text[begin:start])
        begin = end
    return "\n".join([*parts, text[begin:]])


def _next_block(text: str, begin: int) -> tuple[int, int]:
    """Return start and end of the next harness block; (-1, -1) when there is none."""
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


def _is_harness(tag: str) -> bool:
    """Return True for a tag of two words, such as `system-reminder`, and for those of _HARNESS_TAGS."""
    letters = tag.replace("-", "").replace("_", "")
    return letters.isalpha() and (letters != tag or tag.lower() in _HARNESS_TAGS)


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _texts(content: object) -> Iterator[str]:
    """Yield the texts of a message's content."""
    if isinstance(content, str):
        yield content
    for part in _items(content):
        if isinstance(part, str):
            yield part
        elif isinstance(part, dict):
            text = part.get("text")
            if isinstance(text, str):
                yield text


def _has_image(message: JsonObject) -> bool:
    content = message.get("content")
    return isinstance(content, list) and any(map(_is_image, content))


def _is_image(part: object) -> bool:
    if not isinstance(part, dict):
        return False
    kind = part.get("type")
    return (isinstance(kind, str) and kind in IMAGE_TYPES) or "image_url" in part


def _tokens(chat: JsonObject, messages: list[JsonObject]) -> int:
    total = _json_tokens(chat.get("tools")) + _json_tokens(chat.get("functions"))
    instructions = chat.get("instructions")
    total += count_tokens(instructions) if isinstance(instructions, str) else 0
    return total + sum(map(_message_tokens, messages))


def _message_tokens(message: JsonObject) -> int:
    content = message.get("content")
    if type(content) is str and "tool_calls" not in message:
        return MESSAGE_TOKENS + count_tokens(content)
    total = MESSAGE_TOKENS + sum(count_tokens(text) for text in _texts(content))
    total += IMAGE_TOKENS * sum(_is_image(part) for part in _items(content))
    return total + _json_tokens(message.get("tool_calls"))


def _json_tokens(value: object) -> int:
    try:
        return count_tokens(_as_json(value)) if value else 0
    except (RecursionError, ValueError):  # nested more deeply than a body of the web layer can be
        return 0

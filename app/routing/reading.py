"""Read the prompt from a chat body: the turns of the user, a short system prompt, and the size of the whole request.

A body of any shape is read without an error: a member of the wrong type counts as absent.  Long texts are shortened
before they are searched; only `tokens` counts the whole request.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from app.routing.blocks import inside, own_words, without_outer_blocks
from app.routing.signatures import OTHER, Signature
from app.types import JsonObject

HEAD_CHARS = 6_000  # read from the start of a message …
TAIL_CHARS = 2_000  # … and from its end: users put their question in either place
SYSTEM_CHARS = 600  # a longer system prompt describes an agent, not the task
IMAGE_TYPES = frozenset({"image_url", "input_image"})
IMAGE_TOKENS = 1_000  # servers count an image by its size in pixels, never by the length of its base64
MESSAGE_TOKENS = 4  # role and separators
_MOST_TEXTS = 20  # of one message, at its beginning and at its end
_TEXTS_BEFORE = 6  # that tell what a turn may refer to
_as_json = json.JSONEncoder(ensure_ascii=False, check_circular=False, default=str).encode


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
    return Prompt(turns=(UserTurn(_own_words([text], [""], OTHER)),), system="", has_image=False, tokens=tokens)


def count_tokens(text: str) -> int:
    """Estimate the tokens of a text: 4 ASCII characters are a token, and about one character of Chinese or Japanese."""
    if text.isascii():
        return (len(text) + 3) // 4
    wide = len(text.encode("utf-8", "replace")) - len(text)  # bytes beyond one for each character
    return (len(text) + 3) // 4 + wide * 3 // 8


def tokens_of(chat: JsonObject) -> int:
    """Estimate the tokens of a whole chat body."""
    return _tokens(chat, [message for message in _items(chat.get("messages")) if isinstance(message, dict)])


def _user_turns(messages: list[JsonObject], signature: Signature) -> list[UserTurn]:
    """Return the turns of the user.  A message that holds harness text or the output of a program is no turn."""
    turns: list[UserTurn] = []
    others: list[UserTurn] = []  # what stands for a conversation that was shortened, or wholly inside of a tag
    texts: list[str] = []
    for message in messages:
        role = message.get("role")
        if role == "assistant":
            if text := _shortened(message.get("content")):
                texts.append(text)
        elif role == "user":
            parts = parts_of(content := message.get("content"))
            kinds = [signature.kind_of(part) for part in parts]
            has_image = not isinstance(content, str) and _has_image(message)
            if "restart" in kinds:
                turns.clear()
            elif (text := _own_words(parts, kinds, signature)) or has_image:
                turns.append(UserTurn(text, has_image, tuple(texts[-_TEXTS_BEFORE:])))
                texts.append(text)
            elif not turns and (text := _other_words(parts, kinds)):
                others.append(UserTurn(text))
    return turns or others[-1:]


def _own_words(parts: list[str], kinds: list[str], signature: Signature) -> str:
    """Return the words of the user in a message."""
    if len(parts) == 1 and not kinds[0] and len(parts[0]) <= HEAD_CHARS and "<" not in parts[0]:
        return signature.cut(parts[0]).strip()
    own = [part for part, kind in zip(parts, kinds, strict=True) if not kind]
    if len(own) > 1:  # a part may be a block that is longer than what is read of a message
        own = [text for part in own if (text := without_outer_blocks(part)) and not text.isspace()]
    text = without_outer_blocks("\n".join(own)) if own else ""
    return own_words(_shortened(signature.cut(text)))


def _other_words(parts: list[str], kinds: list[str]) -> str:
    """Return a text of a message without words of the user that may stand for them."""
    texts = [part for part, kind in zip(parts, kinds, strict=True) if kind in ("", "summary")]
    return inside(_shortened(texts[-1])) if texts else ""


def _system(messages: list[JsonObject]) -> str:
    """Return the first system prompt when it is short, else ""."""
    for message in messages:
        if message.get("role") in ("system", "developer"):
            text = "\n".join(texts_of(message.get("content"))).strip()
            return text if len(text) <= SYSTEM_CHARS else ""
    return ""


def _shortened(content: object) -> str:
    """Return the text of a message; of a long one the first HEAD_CHARS and the last TAIL_CHARS."""
    if isinstance(content, str) and len(content) <= HEAD_CHARS + TAIL_CHARS:
        return content
    parts = [text for text in texts_of(content) if text]
    if sum(map(len, parts)) > HEAD_CHARS + TAIL_CHARS:
        head = "\n".join(part[:HEAD_CHARS] for part in parts[:8])[:HEAD_CHARS]
        tail = "\n".join(part[-TAIL_CHARS:] for part in parts[-8:])[-TAIL_CHARS:]
        return head + "\n" + tail
    return "\n".join(parts)


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def parts_of(content: object) -> list[str]:
    """Return the texts of a message's content; of many the first and the last ones."""
    if isinstance(content, str):
        return [content]
    texts = list(texts_of(content))
    return texts if len(texts) <= 2 * _MOST_TEXTS else [*texts[:_MOST_TEXTS], *texts[-_MOST_TEXTS:]]


def texts_of(content: object) -> Iterator[str]:
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
    total = MESSAGE_TOKENS + sum(count_tokens(text) for text in texts_of(content))
    total += IMAGE_TOKENS * sum(_is_image(part) for part in _items(content))
    return total + _json_tokens(message.get("tool_calls"))


def _json_tokens(value: object) -> int:
    try:
        return count_tokens(_as_json(value)) if value else 0
    except (RecursionError, ValueError):  # nested more deeply than a body of the web layer can be
        return 0

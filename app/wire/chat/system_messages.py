"""Put system messages into the form that chat templates want: one, in front.

Many templates refuse a system message that does not stand first, and know no `developer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.types import JsonDict, JsonObject

SYSTEM_ROLES = ("system", "developer")
BETWEEN = "\n\n"  # between texts that were separate messages


def system_message(messages: Sequence[JsonObject]) -> JsonDict:
    """Return one system message that says what the given ones say."""
    if len(messages) == 1:
        return {**messages[0], "role": "system"}
    return {"role": "system", "content": joined([message.get("content") for message in messages])}


def joined(contents: Sequence[object]) -> str | list[object]:
    """Return contents as one: a string when they are strings, else an array of parts."""
    texts = [content for content in contents if isinstance(content, str)]
    if len(texts) == len(contents):
        return BETWEEN.join(text for text in texts if text)
    parts: list[object] = []
    for content in contents:
        if isinstance(content, str):
            parts.append({"type": "text", "text": content})
        elif isinstance(content, list):
            parts += content
    return parts

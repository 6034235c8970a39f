"""Join system messages into one message at the beginning, as chat templates need it.  Many templates refuse a system
message at another position, and the role `developer`.
"""

from __future__ import annotations

from collections.abc import Sequence

from app.types import JsonDict, JsonObject

SYSTEM_ROLES = ("system", "developer")
BETWEEN = "\n\n"  # between texts that were separate messages


def system_message(messages: Sequence[JsonObject]) -> JsonDict:
    """Return one system message with the texts of all."""
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

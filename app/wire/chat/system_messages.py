"""Put system messages into the form that chat templates want: one, in front.

Many templates refuse a system message that does not stand first, and know no `developer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.types import JsonObject

SYSTEM_ROLES = ("system", "developer")
BETWEEN = "\n\n"  # between texts that were separate messages


def system_message(messages: Sequence[JsonObject]) -> dict[str, Any]:
    """Return one system message that says what the given ones say."""
    if len(messages) == 1:
        return {**messages[0], "role": "system"}
    return {"role": "system", "content": joined([message.get("content") for message in messages])}


def joined(contents: Sequence[Any]) -> str | list[Any]:
    """Return contents as one: a string when they are strings, else an array of parts."""
    if all(isinstance(content, str) for content in contents):
        return BETWEEN.join(content for content in contents if content)
    parts: list[Any] = []
    for content in contents:
        if isinstance(content, str):
            parts.append({"type": "text", "text": content})
        else:
            parts += content or ()
    return parts

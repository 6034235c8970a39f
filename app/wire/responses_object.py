"""The Response object, its usage, and what a chat finish reason makes of its status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.types import JsonObject
from app.wire.chat import MOST_COUNTED
from app.wire.responses_request import ResponsesRequest
from app.wire.tool_calls import numbered


def response_object(
    request: ResponsesRequest,
    *,
    response_id: str,
    created_at: int,
    model: str,
    status: str,
    output: Sequence[JsonObject] = (),
    usage: JsonObject | None = None,
    completed_at: int | None = None,
    reason: str | None = None,
    error: JsonObject | None = None,
) -> dict[str, Any]:
    """A Response with every field that clients may read."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "completed_at": completed_at if status == "completed" else None,
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "error": error,
        "model": model,
        "output": list(output),
        **request.echo,
        "usage": usage,
    }


def usage_object(usage: Any) -> dict[str, Any] | None:
    """Chat usage in Responses names; None when the backend told none."""
    if not isinstance(usage, Mapping) or not usage:
        return None
    read, written = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": read,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens"),
        },
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": _count(completion, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or read + written,
    }


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return int(value) if isinstance(value, (int, float)) and 0 <= value <= MOST_COUNTED else 0


def first_choice(chunk: JsonObject) -> JsonObject:
    """The choice that we asked for; empty when the chunk has none."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and choice.get("index") in (None, 0):
            return choice
    return {}


def message_of(chat: JsonObject) -> tuple[JsonObject, dict[str, Any]] | None:
    """(choice, message) of a whole chat answer; None when it holds no answer."""
    choice = first_choice(chat)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    return choice, {**message, "tool_calls": numbered(message)}

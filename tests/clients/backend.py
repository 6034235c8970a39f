"""What a chat-only model server says, call by call."""

from __future__ import annotations

import json
from typing import Any

from tests.fakes import replies
from tests.fakes.replies import Step

Call = dict[str, Any]


def call(call_id: str, name: str, arguments: Any, index: int = 0) -> Call:
    """A tool call; `arguments` is a document, or text as it is."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return {"index": index, "id": call_id, "type": "function", "function": {"name": name, "arguments": text}}


def said(text: str = "", *calls: Call, reasoning: str | None = None) -> list[Step]:
    """A whole answer."""
    message: dict[str, Any] = {"tool_calls": list(calls)} if calls else {}
    if reasoning:
        message["reasoning"] = reasoning
    return replies.reply(200, replies.completion(text, **message))


def streamed(*pieces: Any, finish: str = "stop", tokens: tuple[int, int] = (10, 5)) -> list[Step]:
    """A stream that ends as Ollama's do: finish_reason, usage, `[DONE]`.  A piece is text, or members of a delta."""
    chunks = [piece if isinstance(piece, str) else replies.delta("", **piece) for piece in pieces]
    usage = {**replies.delta(), "choices": [], "usage": replies.usage(*tokens)}
    return replies.sse(*chunks, replies.delta(finish=finish), usage, replies.DONE, finish=False)


def fragments(call_id: str, name: str, *arguments: str, index: int = 0) -> list[dict[str, Any]]:
    """Deltas of one call, the way OpenAI's servers cut it: id and name first, then bits of arguments."""
    rest = [{"index": index, "function": {"arguments": piece}} for piece in arguments]
    return [{"tool_calls": [call(call_id, name, "", index)]}, *({"tool_calls": [piece]} for piece in rest)]

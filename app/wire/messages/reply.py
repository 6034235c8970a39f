"""Write the message for a whole chat reply."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from app import finish
from app.errors import BackendProtocol
from app.types import JsonDict, JsonObject
from app.wire.chat.reply import message_of
from app.wire.messages.blocks import Blocks
from app.wire.messages.request import MessagesRequest
from app.wire.reply_facts import MOST_COUNTED
from app.wire.translator import ReplyContext

_REFUSED = "content_filter"  # as finish.cut_of names it


def from_chat(chat: JsonObject, request: MessagesRequest, context: ReplyContext) -> JsonDict:
    """Return the message for a whole chat reply.  Raise BackendProtocol when it holds none."""
    choice_and_message = message_of(chat)
    if choice_and_message is None:
        raise BackendProtocol("The backend's answer holds no message.")
    choice, message = choice_and_message
    reason = finish.reason_of(choice.get("finish_reason"))
    if finish.is_failure(reason):
        raise BackendProtocol(f"The backend gave its answer up (finish_reason {reason[:40]!r}).")
    blocks = blocks_for(request, context)
    blocks.read(message)
    blocks.finish(cut=finish.cut_of(reason) is not None)
    if blocks.problem:
        raise BackendProtocol(f"The answer cannot be used: {blocks.problem}.")
    refused = bool(message.get("refusal"))
    end = stop_of(reason, choice.get("stop_reason"), request.stop, has_calls=blocks.has_calls, refused=refused)
    return {**message_object(context), "content": blocks.content, **end, "usage": usage_object(chat.get("usage"))}


def blocks_for(request: MessagesRequest, context: ReplyContext) -> Blocks:
    """Return the writer of the blocks of a reply."""
    names = frozenset(str(tool.get("name")) for tool in request.tools)
    return Blocks(context.new_id, names, thinks=request.thinks, shows_thinking=request.shows_thinking)


def message_object(context: ReplyContext) -> JsonDict:
    """Return the members of a message that are known before its content."""
    return {"id": context.reply_id, "type": "message", "role": "assistant", "model": context.model}


def stop_of(
    reason: str, matched: object, sequences: Collection[str], *, has_calls: bool, refused: bool = False
) -> JsonDict:
    """Return `stop_reason` and `stop_sequence` for a finish reason.  `matched` is the stop sequence as some servers
    name it (vLLM's `stop_reason`)."""
    cut = finish.cut_of(reason)
    if refused or cut == _REFUSED:
        return {"stop_reason": "refusal", "stop_sequence": None}
    if cut is not None:
        return {"stop_reason": "max_tokens", "stop_sequence": None}
    if has_calls:
        return {"stop_reason": "tool_use", "stop_sequence": None}
    if isinstance(matched, str) and matched in sequences:
        return {"stop_reason": "stop_sequence", "stop_sequence": matched}
    return {"stop_reason": "end_turn", "stop_sequence": None}


def usage_object(usage: object, estimate: int = 0) -> JsonDict:
    """Return chat usage in the names of the Messages API, whose `input_tokens` leave out cached ones.  Without usage,
    `estimate` stands for the tokens of the input."""
    if not isinstance(usage, Mapping) or not usage:
        return _usage(estimate, 0, 0, 0)
    details = usage.get("prompt_tokens_details")
    cached, written = _count(details, "cached_tokens"), _count(details, "cache_write_tokens")
    prompt = _count(usage, "prompt_tokens")
    return _usage(max(prompt - cached - written, 0), _count(usage, "completion_tokens"), cached, written)


def _usage(input_tokens: int, output_tokens: int, cached: int, written: int) -> JsonDict:
    return {
        "input_tokens": input_tokens,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": cached,
        "output_tokens": output_tokens,
    }


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return int(value) if isinstance(value, (int, float)) and 0 <= value <= MOST_COUNTED else 0

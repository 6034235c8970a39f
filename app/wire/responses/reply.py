"""Write the Response for a whole chat reply, and read a Response that a backend wrote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app import finish
from app.errors import BackendProtocol
from app.types import JsonDict, JsonObject
from app.wire.chat.reply import message_of
from app.wire.reply_facts import (
    MOST_COUNTED,
    REFUSAL,
    ReplyFacts,
    ReplyReading,
    objects_in,
    text_of,
    token_count,
    word_of,
)
from app.wire.responses.assembler import Assembler
from app.wire.responses.request import ResponsesRequest, is_id

_TOOL_CALLS = "tool_calls"


def from_chat(
    chat: JsonObject,
    request: ResponsesRequest,
    *,
    response_id: str,
    created_at: int,
    completed_at: int,
    model: str,
    new_id: Callable[[str], str],
) -> JsonDict:
    """Return the Response for a whole chat reply.  Raise BackendProtocol when it holds no message."""
    choice_and_message = message_of(chat)
    if choice_and_message is None:
        raise BackendProtocol("The backend's answer holds no message.")
    choice, message = choice_and_message
    finish_reason = finish.reason_of(choice.get("finish_reason"))
    if finish.is_failure(finish_reason):
        raise BackendProtocol(f"The backend gave its answer up (finish_reason {finish_reason[:40]!r}).")
    reason = finish.cut_of(finish_reason)
    items = Assembler(request, new_id)  # a whole reply is treated as a stream of one delta
    items.read(message, choice.get("logprobs"))
    items.finish(cut=reason is not None)
    if items.problem:
        raise BackendProtocol(f"The answer cannot be used: {items.problem}.")
    response = response_object(
        request,
        response_id=response_id,
        created_at=created_at,
        completed_at=completed_at,
        model=model,
        status="incomplete" if reason else "completed",
        reason=reason,
        output=items.output,
        usage=usage_object(chat.get("usage")),
    )
    return {**response, "output_text": output_text(response)}


def output_text(response: JsonObject) -> str:
    """Return the texts of a Response as one string."""
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


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
) -> JsonDict:
    """Return a Response with every field that clients may read."""
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


def usage_object(usage: object) -> JsonDict | None:
    """Return chat usage in the names of the Responses API; None when the backend sent none."""
    if not isinstance(usage, Mapping) or not usage:
        return None
    input_tokens, output_tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
    prompt, completion = usage.get("prompt_tokens_details"), usage.get("completion_tokens_details")
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {
            "cached_tokens": _count(prompt, "cached_tokens"),
            "cache_write_tokens": _count(prompt, "cache_write_tokens"),
        },
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": _count(completion, "reasoning_tokens")},
        "total_tokens": _count(usage, "total_tokens") or input_tokens + output_tokens,
    }


def _count(counts: object, name: str) -> int:
    value = counts.get(name) if isinstance(counts, Mapping) else None
    return int(value) if isinstance(value, (int, float)) and 0 <= value <= MOST_COUNTED else 0


# --- of a backend that speaks the Responses API itself


def read_reply(response: JsonObject) -> ReplyReading:
    """Return the facts of a Response.  A failed one has a status that the client reads."""
    usage = response.get("usage")
    usage = usage if isinstance(usage, Mapping) else {}
    return ReplyReading(
        facts=_facts_of(response),
        input_tokens=token_count(usage.get("input_tokens")),
        output_tokens=token_count(usage.get("output_tokens")),
    )


def _facts_of(response: JsonObject) -> ReplyFacts:
    facts = ReplyFacts()
    details = response.get("incomplete_details")
    if response.get("status") == "completed":
        facts.finish = "stop"
    elif isinstance(details, Mapping):
        facts.finish = word_of(details.get("reason"))
    for item in objects_in(response.get("output")):
        if str(item.get("type")).endswith("_call"):
            facts.chars += len(text_of(item.get("arguments")) or text_of(item.get("input")))
            facts.finish = _TOOL_CALLS if facts.finish == "stop" else facts.finish
        for part in objects_in(item.get("content")) if item.get("type") == "message" else ():
            facts.chars += len(text_of(part.get("text"))) + len(text_of(part.get("refusal")))
            facts.finish = REFUSAL if part.get("refusal") else facts.finish
    return facts


def item_ids(response: JsonObject) -> tuple[str, ...]:
    """Return the ids of the items in a Response."""
    return tuple(item["id"] for item in objects_in(response.get("output")) if is_id(item.get("id")))

"""Read a whole chat completion, and write it as the one chunk of a stream."""

from __future__ import annotations

from collections.abc import Mapping

from app import finish
from app.types import JsonDict, JsonObject
from app.wire.reply_facts import REFUSAL, ReplyFacts, ReplyReading, text_of, token_count
from app.wire.tool_calls import numbered


def read_reply(document: JsonObject) -> ReplyReading:
    """Return the facts of a chat completion.  When there are several choices, the last one has the finish reason."""
    choices, facts, failure = document.get("choices"), ReplyFacts(), ""
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, Mapping):
            continue
        reason, message = finish.reason_of(choice.get("finish_reason")), choice.get("message")
        facts.finish = reason.lower() or None
        failure = failure or (reason if finish.is_failure(reason) else "")
        if isinstance(message, Mapping):
            facts.chars += _chars_of(message)
            facts.finish = REFUSAL if text_of(message.get("refusal")) else facts.finish
    input_tokens, output_tokens = usage_of(document)
    lack = "" if choices else "a choice"
    return ReplyReading(facts=facts, input_tokens=input_tokens, output_tokens=output_tokens, lack=lack, failure=failure)


def usage_of(document: JsonObject) -> tuple[int | None, int | None]:
    """Return the input and output tokens of a reply or a chunk; None when it is missing."""
    usage = document.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    return token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))


def _chars_of(message: JsonObject) -> int:
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(text_of(part.get("text")) for part in content if isinstance(part, Mapping))
    calls = message.get("tool_calls")
    calls = [*calls] if isinstance(calls, list) else []
    if message.get("function_call"):
        calls.append({"function": message["function_call"]})
    return len(text_of(content)) + len(text_of(message.get("refusal"))) + sum(map(_chars_of_call, calls))


def _chars_of_call(call: object) -> int:
    members = [call.get("function"), call.get("custom")] if isinstance(call, Mapping) else []
    texts = (
        text_of(member.get("arguments")) or text_of(member.get("input"))
        for member in members
        if isinstance(member, Mapping)
    )
    return sum(map(len, texts))


def first_choice(chunk: JsonObject) -> JsonObject:
    """Return the first choice of a chunk; empty when it has none."""
    choices = chunk.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, Mapping) and choice.get("index") in (None, 0):
            return choice
    return {}


def message_of(chat: JsonObject) -> tuple[JsonObject, JsonDict] | None:
    """Return the choice and the message of a whole chat reply; None when it holds no message."""
    choice = first_choice(chat)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    return choice, {**message, "tool_calls": numbered(message)}


def as_chunk(document: JsonObject) -> JsonDict:
    """Return a whole completion as the one chunk of a stream, for a backend that ignored `stream: true`."""
    chunk = {name: value for name, value in document.items() if name != "choices"}
    chunk["object"] = "chat.completion.chunk"
    choices = document.get("choices")
    chunk["choices"] = [
        {**{name: value for name, value in choice.items() if name != "message"}, "delta": _delta(choice.get("message"))}
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, Mapping)
    ]
    return chunk


def _delta(message: object) -> JsonDict:
    if not isinstance(message, Mapping):
        return {}
    delta = dict(message)
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls) if isinstance(call, Mapping)]
    return delta

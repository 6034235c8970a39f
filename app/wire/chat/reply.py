"""Chat completions: what a whole one says, and what it looks like as the one chunk of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.types import JsonObject
from app.wire.reply_facts import REFUSAL, ReplyFacts, objects_in, text_of, token_count, word_of
from app.wire.tool_calls import numbered


def usage_of(document: JsonObject) -> tuple[int | None, int | None]:
    """(input, output) tokens of an answer or a chunk; None where it does not say."""
    usage = document.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    return token_count(usage.get("prompt_tokens")), token_count(usage.get("completion_tokens"))


def lack_of(document: JsonObject) -> str:
    """Return what a document lacks to be a chat completion; "" when it is one."""
    return "" if document.get("choices") else "a choice"


def facts_of(document: JsonObject) -> ReplyFacts:
    """Return the facts of a whole chat completion."""
    facts = ReplyFacts()
    for choice in objects_in(document.get("choices")):
        message = choice.get("message")
        facts.finish = word_of(choice.get("finish_reason"))
        if isinstance(message, Mapping):
            facts.chars += sum(map(len, _message_texts(message)))
            facts.finish = REFUSAL if text_of(message.get("refusal")) else facts.finish
    return facts


def _message_texts(message: Mapping[str, Any]) -> Iterator[str]:
    yield text_of(message.get("content"))
    for part in objects_in(message.get("content")):
        yield text_of(part.get("text"))
    yield text_of(message.get("refusal"))
    for call in (*objects_in(message.get("tool_calls")), {"function": message.get("function_call")}):
        for member in ("function", "custom"):
            called = call.get(member)
            if isinstance(called, Mapping):
                yield text_of(called.get("arguments")) or text_of(called.get("input"))


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


def as_chunk(document: Mapping[str, Any]) -> dict[str, Any]:
    """A whole completion as the one chunk of a stream, for a backend that ignored `stream: true`."""
    chunk = {name: value for name, value in document.items() if name != "choices"}
    chunk["object"] = "chat.completion.chunk"
    choices = document.get("choices")
    chunk["choices"] = [
        {**{name: value for name, value in choice.items() if name != "message"}, "delta": _delta(choice.get("message"))}
        for choice in (choices if isinstance(choices, list) else ())
        if isinstance(choice, Mapping)
    ]
    return chunk


def _delta(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        return {}
    delta = dict(message)
    if isinstance(calls := delta.get("tool_calls"), list):
        delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls) if isinstance(call, Mapping)]
    return delta

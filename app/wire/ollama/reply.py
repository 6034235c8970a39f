"""Read a whole reply of /api/chat, and write it as a chat completion."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app import finish
from app.types import JsonDict, JsonObject
from app.wire.reply_facts import ReplyFacts, ReplyReading, objects_in, text_of, token_count, word_of
from app.wire.translator import ReplyContext

_MOST_LOAD_NS = 86_400 * 10**9


def completion(document: JsonObject, context: ReplyContext) -> JsonDict:
    """Return the chat completion for a whole reply."""
    message, calls = message_of(document, context)
    chat_message: JsonDict = {"role": "assistant", "content": message.get("content") or ""}
    if thinking := message.get("thinking"):
        chat_message["reasoning"] = thinking
    if calls:
        chat_message["tool_calls"] = calls
    choice: JsonDict = {
        "index": 0,
        "message": chat_message,
        "finish_reason": finish_reason(document, calls=bool(calls)),
    }
    if logprobs := document.get("logprobs"):
        choice["logprobs"] = {"content": logprobs}
    return {**head(context), "object": "chat.completion", "choices": [choice], "usage": usage(document)}


def head(context: ReplyContext) -> JsonDict:
    """Return the common members of a completion and of all chunks of a stream."""
    reply_id = context.new_id("chatcmpl").replace("_", "-", 1)
    return {"id": reply_id, "created": int(context.clock()), "model": context.model}


def message_of(document: JsonObject, context: ReplyContext, first: int = 0) -> tuple[JsonObject, list[JsonDict]]:
    """Return the message of a reply or of one line of a stream, and its tool calls in OpenAI's form, counted from
    `first`."""
    message = document.get("message")
    if not isinstance(message, Mapping):
        return {}, []
    calls = objects_in(message.get("tool_calls"))
    return message, [_call(call, first + index, context) for index, call in enumerate(calls)]


def _call(call: JsonObject, index: int, context: ReplyContext) -> JsonDict:
    function = call.get("function")
    name = text_of(function.get("name")) if isinstance(function, Mapping) else ""
    call_id = text_of(call.get("id")) or context.new_id("call")
    return {
        "index": index,
        "id": call_id,
        "type": "function",
        "function": {"name": name, "arguments": _arguments(call)},
    }


def _arguments(call: JsonObject) -> str:
    """Return the arguments of a call as JSON text, the form in which clients get them."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    return arguments if isinstance(arguments, str) else json.dumps(arguments or {}, ensure_ascii=False)


def finish_reason(document: JsonObject, *, calls: bool) -> str | None:
    """Return the finish reason in OpenAI's words; None before the end.  `calls`: the reply has tool calls."""
    if not document.get("done"):
        return None
    reason = word_of(document.get("done_reason")) or "stop"
    return "tool_calls" if reason == "stop" and calls else reason


def usage(document: JsonObject) -> JsonDict:
    """Return the usage of a finished reply in OpenAI's form.  A prompt in the cache is counted completely."""
    read, written = tokens_of(document)
    return {"prompt_tokens": read or 0, "completion_tokens": written or 0, "total_tokens": (read or 0) + (written or 0)}


def tokens_of(document: JsonObject) -> tuple[int | None, int | None]:
    """Return (input, output) tokens; None when the reply has no number."""
    return token_count(document.get("prompt_eval_count")), token_count(document.get("eval_count"))


def load_ms(document: JsonObject) -> float | None:
    """Return the ms that the server took to load the model.  They are some 10 ms when it was loaded already."""
    duration_ns = document.get("load_duration")
    return duration_ns / 1e6 if type(duration_ns) is int and 0 <= duration_ns < _MOST_LOAD_NS else None


def read_reply(document: JsonObject) -> ReplyReading:
    """Return the facts of a whole reply."""
    read, written = tokens_of(document)
    return ReplyReading(
        facts=ReplyFacts(chars_of(document), finish_reason(document, calls=has_calls(document)), load_ms(document)),
        input_tokens=read,
        output_tokens=written,
        lack="" if isinstance(document.get("message"), Mapping) else "a message",
        failure=failure_of(document),
    )


def chars_of(document: JsonObject) -> int:
    """Return the characters of a reply or of one line of a stream: text, and the arguments of tool calls."""
    message = document.get("message")
    if not isinstance(message, Mapping):
        return 0
    calls = [_arguments(call) for call in objects_in(message.get("tool_calls"))]
    return len(text_of(message.get("content"))) + sum(map(len, calls))


def has_calls(document: JsonObject) -> bool:
    message = document.get("message")
    return isinstance(message, Mapping) and bool(message.get("tool_calls"))


def failure_of(document: JsonObject) -> str:
    """Return the finish reason with which the server failed; "" when it did not fail."""
    reason = finish.reason_of(document.get("done_reason"))
    return reason if finish.is_failure(reason) else ""


def is_document(begin: bytes, content_type: str) -> bool:
    """Return True when the body is no stream.  A stream is JSON lines, and one line is a stream as well."""
    return "html" in content_type.lower() or not begin.lstrip().startswith(b"{")

"""Write the messages of a backend as chat completions, and their events as chat chunks."""

from __future__ import annotations

import json
from collections.abc import Mapping

from app.types import JsonDict, JsonObject, Wire
from app.wire import sse
from app.wire.messages.watch import finish_of, tokens_of
from app.wire.reply_facts import objects_in, text_of, token_count
from app.wire.responses.errors import backend_error
from app.wire.translator import ReplyContext


def completion(document: JsonObject, context: ReplyContext) -> JsonDict:
    """Return the chat completion for a whole message."""
    choice = {
        "index": 0,
        "message": {"role": "assistant", **chat_message(document)},
        "finish_reason": finish_of(document.get("stop_reason")) or "stop",
    }
    usage = document.get("usage")
    return {
        **_head(context),
        "object": "chat.completion",
        "choices": [choice],
        "usage": chat_usage(usage if isinstance(usage, Mapping) else {}),
    }


def completion_as_chunk(document: JsonObject, context: ReplyContext) -> bytes:
    """Return a whole message as the one chunk of a stream."""
    whole = completion(document, context)
    (choice,) = whole["choices"]
    delta = choice.pop("message")
    delta |= {"tool_calls": [{"index": at, **call} for at, call in enumerate(delta.get("tool_calls") or ())]}
    return sse.event({**whole, "object": "chat.completion.chunk", "choices": [{**choice, "delta": delta}]}) + sse.DONE


def chat_message(document: JsonObject) -> JsonDict:
    """Return the content of a whole message as members of a chat message."""
    blocks = objects_in(document.get("content"))
    texts = [text_of(block.get("text")) for block in blocks if block.get("type") == "text"]
    message: JsonDict = {"content": "".join(texts)}
    if thinking := "".join(text_of(block.get("thinking")) for block in blocks):
        message["reasoning_content"] = thinking
    if calls := [_call(block, json.dumps(block.get("input") or {})) for block in blocks if _is_call(block)]:
        message["tool_calls"] = calls
    return message


def chat_usage(usage: JsonObject) -> JsonDict:
    """Return usage in chat's names, whose prompt tokens include cached ones."""
    read, written = tokens_of(usage)
    return {
        "prompt_tokens": read or 0,
        "completion_tokens": written or 0,
        "total_tokens": (read or 0) + (written or 0),
        "prompt_tokens_details": {"cached_tokens": token_count(usage.get("cache_read_input_tokens")) or 0},
    }


class BlockDeltas:
    """Turn the events of content blocks into deltas of the chat API."""

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}  # index of a block -> index of its call

    def of(self, event: JsonObject) -> JsonDict:
        """Return the delta for an event; an empty one when it holds no output."""
        kind = event.get("type")
        if kind == "content_block_start":
            return self._start(event.get("index"), event.get("content_block"))
        delta = event.get("delta")
        if kind != "content_block_delta" or not isinstance(delta, Mapping):
            return {}
        if text := text_of(delta.get("text")):
            return {"content": text}
        if thinking := text_of(delta.get("thinking")):
            return {"reasoning_content": thinking}
        index, piece = event.get("index"), text_of(delta.get("partial_json"))
        number = self._calls.get(index) if type(index) is int else None
        if number is None or not piece:
            return {}
        return {"tool_calls": [{"index": number, "function": {"arguments": piece}}]}

    def _start(self, index: object, block: object) -> JsonDict:
        if type(index) is not int or not isinstance(block, Mapping) or not _is_call(block):
            return {}
        number = self._calls[index] = len(self._calls)
        return {"tool_calls": [{"index": number, **_call(block, "")}]}


class Chunks:
    """Write the events of one message as chat chunks."""

    def __init__(self, context: ReplyContext) -> None:
        self._head = {**_head(context), "object": "chat.completion.chunk"}
        self._wants_usage = _wants_usage(context)
        self._usage: JsonDict = {}
        self._deltas = BlockDeltas()

    def read(self, raw: bytes) -> bytes:
        """Return the chunks for one event."""
        event = sse.json_of(sse.data_of(raw) or b"") or {}
        kind = event.get("type")
        if kind == "message_start":
            message = event.get("message")
            self._note_usage(message.get("usage") if isinstance(message, Mapping) else None)
            return self._chunk({"role": "assistant", "content": ""})
        if kind == "message_delta":
            self._note_usage(event.get("usage"))
            delta = event.get("delta")
            return self._chunk({}, finish_of(delta.get("stop_reason")) if isinstance(delta, Mapping) else None)
        if kind == "message_stop":
            usage = {**self._head, "choices": [], "usage": chat_usage(self._usage)}
            return (sse.event(usage) if self._wants_usage else b"") + sse.DONE
        if kind == "error":
            return sse.event({"error": backend_error(event)})
        delta = self._deltas.of(event)
        return self._chunk(delta) if delta else b""

    def _note_usage(self, usage: object) -> None:
        """Read a usage: that of the end counts, but it may lack the input."""
        if isinstance(usage, Mapping):
            self._usage |= {name: value for name, value in usage.items() if value is not None}

    def _chunk(self, delta: JsonObject, finish: str | None = None) -> bytes:
        return sse.event({**self._head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _head(context: ReplyContext) -> JsonDict:
    reply_id = context.new_id("chatcmpl").replace("_", "-", 1)
    return {"id": reply_id, "created": int(context.clock()), "model": context.model}


def _is_call(block: JsonObject) -> bool:
    return block.get("type") == "tool_use"


def _call(block: JsonObject, arguments: str) -> JsonDict:
    function = {"name": text_of(block.get("name")), "arguments": arguments}
    return {"id": text_of(block.get("id")), "type": "function", "function": function}


def _wants_usage(context: ReplyContext) -> bool:
    """Return True when a chunk with the usage is sent: chat clients must ask for it, all other clients get it."""
    options = context.body.chat.get("stream_options")
    is_requested = isinstance(options, Mapping) and bool(options.get("include_usage"))
    return is_requested or context.body.wire is not Wire.CHAT

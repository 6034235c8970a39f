"""Repeat the prompt: a backend without a server and without a model, for the first try after an installation and for
tests of clients.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping

from app.backends.base import Backend
from app.backends.reply import Whole
from app.types import JsonObject, Outgoing, Target, Wire
from app.wire import sse
from app.wire.reply_facts import ReplyFacts

_NOTE = "[echo: no model is set up, this is your own text] "


class EchoBackend(Backend):
    type = "echo"
    hosted = False
    default_endpoint = "http://localhost"  # never called
    in_process = True
    default_models = ("echo",)

    def url(self, outgoing: Outgoing) -> None:  # noqa: ARG002
        return None

    def open(self, outgoing: Outgoing, target: Target, *, stream: bool, private: bool) -> Whole | EchoStream:  # type: ignore[override]  # noqa: ARG002
        chat = json.loads(outgoing.body)
        text = _NOTE + _last_text(chat)
        head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": target.model}
        usage = {"prompt_tokens": len(text.split()), "completion_tokens": len(text.split())}
        usage["total_tokens"] = sum(usage.values())
        if stream:
            return EchoStream(head, text, usage, chat)
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        document = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
        return Whole(json.dumps(document).encode(), document)

    def discover(self) -> tuple[str, ...]:
        return self.config.models


class EchoStream:
    """Yield the same reply word by word."""

    wire = Wire.CHAT

    def __init__(self, head: JsonObject, text: str, usage: Mapping[str, int], chat: JsonObject) -> None:
        self.input_tokens, self.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        self.facts = ReplyFacts(len(text), "stop")
        options = chat.get("stream_options")
        wants_usage = isinstance(options, Mapping) and bool(options.get("include_usage"))
        self._events = _events({**head, "object": "chat.completion.chunk"}, text, usage if wants_usage else None)

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def __next__(self) -> bytes:
        return next(self._events)

    def close(self) -> None:
        self._events = iter(())


def _events(head: JsonObject, text: str, usage: Mapping[str, int] | None) -> Iterator[bytes]:
    def chunk(delta: Mapping[str, str], finish: str | None = None) -> bytes:
        return sse.event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": ""})
    for number, word in enumerate(text.split(" ")):
        yield chunk({"content": word if number == 0 else f" {word}"})
    yield chunk({}, "stop")
    if usage is not None:
        yield sse.event({**head, "choices": [], "usage": usage})
    yield sse.DONE


def _last_text(chat: JsonObject) -> str:
    """Return the text of the last user message."""
    for message in reversed(chat.get("messages") or ()):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            if isinstance(content, str):
                return content
            parts = content if isinstance(content, list) else ()
            return " ".join(str(part["text"]) for part in parts if isinstance(part, Mapping) and "text" in part)
    return ""

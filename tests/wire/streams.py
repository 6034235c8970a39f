"""Chat answers to feed and Responses streams to read: what the Responses tests share."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.types import Dialect
from app.wire import sse
from app.wire.responses.body import ResponsesBody
from app.wire.responses.reply import from_chat
from app.wire.responses.request import ResponsesRequest, parse
from app.wire.responses.stream import EventStream, translate
from tests.wire.grammar import Event, check_response, valid

NOW = 1_790_000_000
SDK_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
SDK_ERROR_CODES = ("server_error", "rate_limit_exceeded", "invalid_prompt")


def ids() -> Callable[[str], str]:
    """Fresh ids, the same in every run."""
    count = itertools.count(1)
    return lambda prefix: f"{prefix}_{next(count)}"


def request(**fields: Any) -> ResponsesRequest:
    return parse({"model": "auto", "input": "hello"} | fields)


def chat(*, streamed: bool = False, dialect: Dialect | None = None, **fields: Any) -> dict[str, Any]:
    """The chat body for a Responses request."""
    body = ResponsesBody(request(**fields)).encode("m", dialect or Dialect(), stream=streamed)
    return dict(json.loads(body))


def messages(items: Any, dialect: Dialect | None = None, **fields: Any) -> list[dict[str, Any]]:
    return list(chat(dialect=dialect, input=items, **fields)["messages"])


# --- a backend's side ----------------------------------------------------------------------------


def delta(finish: str | None = None, *, logprobs: Any = None, usage: Any = None, **members: Any) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": 0, "delta": members, "finish_reason": finish}
    if logprobs is not None:
        choice["logprobs"] = {"content": logprobs}
    chunk: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": [choice]}
    return chunk | ({"usage": usage} if usage is not None else {})


def text(*pieces: str) -> list[dict[str, Any]]:
    return [delta(content=piece) for piece in pieces]


def call(
    index: int | None = 0, call_id: str | None = None, name: str | None = None, arguments: Any = None, **more: Any
) -> dict[str, Any]:
    """A tool-call fragment with only the members that are given."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    fragment = {key: value for key, value in (("index", index), ("id", call_id)) if value is not None}
    return {**fragment, "type": "function", "function": function, **more}


def calls(*fragments: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return delta(finish, tool_calls=list(fragments))


def body(chunks: Iterable[dict[str, Any] | bytes], done: bool = True) -> bytes:
    """Chunks as a backend would send them."""
    sent = b"".join(chunk if isinstance(chunk, bytes) else sse.event(chunk) for chunk in chunks)
    return sent + (sse.DONE if done else b"")


def answer(finish: str | None = "stop", *, logprobs: Any = None, usage: Any = None, **message: Any) -> dict[str, Any]:
    """A whole chat answer."""
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish, "logprobs": logprobs}
    return {"id": "chatcmpl-1", "object": "chat.completion", "choices": [choice], "usage": usage}


# --- the client's side ---------------------------------------------------------------------------


def stream(asked: ResponsesRequest | None = None, **more: Any) -> EventStream:
    return EventStream(
        asked or request(),
        response_id="resp_1",
        created_at=NOW,
        model="qwen3:8b",
        new_id=ids(),
        clock=lambda: NOW + 2.7,
        **more,
    )


def events_of(
    chunks: Iterable[dict[str, Any] | bytes] | bytes, asked: ResponsesRequest | None = None, *, done: bool = True
) -> list[Event]:
    """The client's events for a backend's stream, checked against the grammar and the SDK."""
    raw = chunks if isinstance(chunks, bytes) else body(chunks, done)
    return sdk_valid(valid(b"".join(translate([raw], stream(asked)))))


def sdk_valid(events: list[Event]) -> list[Event]:
    """Events that the OpenAI SDK's own types take."""
    for event in events:
        error = event.get("response", {}).get("error")
        if not error or error["code"] in SDK_ERROR_CODES:  # the SDK's list of codes is closed, the wire's is not
            SDK_EVENT.validate_python(event)
    return events


def response_of(chat_answer: dict[str, Any], asked: ResponsesRequest | None = None) -> dict[str, Any]:
    """The Response for a whole chat answer, checked against the SDK."""
    response = from_chat(
        chat_answer,
        asked or request(),
        response_id="resp_1",
        created_at=NOW,
        completed_at=NOW + 2,
        model="qwen3:8b",
        new_id=ids(),
    )
    assert not check_response(response)
    Response.model_validate(response)
    json.dumps(response, allow_nan=False)
    return response


def kinds(events: list[Event]) -> list[str]:
    """Event types without their common prefix."""
    return [event["type"].removeprefix("response.") for event in events]


def final(events: list[Event]) -> dict[str, Any]:
    return dict(events[-1]["response"])


def output(events: list[Event]) -> list[dict[str, Any]]:
    return list(final(events)["output"])


def shape(items: Iterable[dict[str, Any]]) -> list[Any]:
    """Items by what they say: ("text", …), ("refusal", …), ("reasoning", …), ("call", name, arguments) …"""
    said: list[Any] = []
    for item in items:
        if item["type"] == "message":
            parts = item["content"]
            said += [(part["type"].removeprefix("output_"), part.get("text", part.get("refusal"))) for part in parts]
        elif item["type"] == "reasoning":
            said.append(("reasoning", "".join(part["text"] for part in item["summary"])))
        elif item["type"] == "function_call":
            said.append(("call", item["name"], item["arguments"]))
        else:
            said.append(("custom", item["name"], item["input"]))
    return said

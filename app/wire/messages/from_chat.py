"""Write a chat request as a Messages request, for backends that speak this API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from app.errors import CapabilityMissing, Untranslatable
from app.types import JsonDict, JsonObject
from app.wire.chat.system_messages import BETWEEN, SYSTEM_ROLES
from app.wire.json_body import is_too_deep

Block = JsonDict

_LIMITS = ("max_completion_tokens", "max_tokens")  # the newer name counts
_ILLEGAL_IN_ID = re.compile(r"[^a-zA-Z0-9_-]")
_HOTTEST = 1.0  # the highest temperature; chat allows 2
_CHOICES = {"auto": {"type": "auto"}, "required": {"type": "any"}, "none": {"type": "none"}}
_READ = frozenset(
    (
        *("model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options"),
        *(*_LIMITS, "temperature", "top_p", "stop", "response_format", "n", "store"),
    )
)


def write_body(chat: JsonObject, model: str, most_tokens: int, *, stream: bool) -> JsonDict:
    """Return the body for one model.  `most_tokens` is the limit where the client names none.  Raise
    CapabilityMissing for content that this API has no form for, and Untranslatable for a mistake of the client."""
    system, turns = _turns(chat["messages"], model)
    limit = next((chat[name] for name in _LIMITS if chat.get(name) is not None), most_tokens)
    body: JsonDict = {"model": model, "max_tokens": limit, "messages": turns}
    if system:
        body["system"] = system
    if chat.get("temperature") is not None:
        body["temperature"] = _at_most(chat["temperature"], _HOTTEST)
    if chat.get("top_p") is not None:
        body["top_p"] = chat["top_p"]
    if stop := _stop(chat.get("stop")):
        body["stop_sequences"] = stop
    if tools := _tools(chat.get("tools")):
        body["tools"] = tools
        if (choice := _choice(chat)) is not None:
            body["tool_choice"] = choice
    if (schema := _schema(chat.get("response_format"))) is not None:
        body["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    if stream:
        body["stream"] = True
    return body


def dropped_members(chat: JsonObject) -> tuple[str, ...]:
    """Return the members of a chat body that this API has no form for."""
    return tuple(name for name, value in chat.items() if name not in _READ and value is not None)


def _at_most(value: object, most: float) -> object:
    return min(value, most) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _stop(stop: object) -> list[str]:
    """Return the stop sequences; this API refuses those of white space."""
    words = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
    return [word for word in words if isinstance(word, str) and word.strip()]


def _turns(messages: Sequence[JsonObject], model: str) -> tuple[str, list[JsonDict]]:
    """Return the system prompt and the turns.  Results of tools stand in the user's turn after their calls, with the
    words that follow them."""
    system: list[str] = []
    turns: list[JsonDict] = []
    for message in messages:
        role = message["role"]
        if role in SYSTEM_ROLES:
            system += [block["text"] for block in _blocks(message.get("content"), model) if block["type"] == "text"]
            continue
        role = "assistant" if role == "assistant" else "user"
        blocks = [*_WRITERS.get(message["role"], _user)(message, model)]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    if not turns:
        raise Untranslatable("`messages` must hold more than system messages.", param="messages")
    return BETWEEN.join(system), turns


def _user(message: JsonObject, model: str) -> Iterator[Block]:
    yield from _blocks(message.get("content"), model)


def _assistant(message: JsonObject, model: str) -> Iterator[Block]:
    yield from _blocks(message.get("content"), model)
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        yield {
            "type": "tool_use",
            "id": _id(call.get("id")),
            "name": function.get("name") or "",
            "input": _input(function.get("arguments")),
        }


def _result(message: JsonObject, model: str) -> Iterator[Block]:
    content = [*_blocks(message.get("content"), model)]
    yield {"type": "tool_result", "tool_use_id": _id(message.get("tool_call_id")), "content": content}


_WRITERS = {"assistant": _assistant, "tool": _result, "function": _result}


def _id(value: object) -> str:
    """Return an id of a call with the characters that this API allows."""
    return _ILLEGAL_IN_ID.sub("_", value) if isinstance(value, str) and value else "call"


def _input(arguments: object) -> JsonObject:
    if not isinstance(arguments, str):
        return arguments if isinstance(arguments, Mapping) else {}
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, Mapping) and not is_too_deep(parsed) else {"raw": arguments}


def _blocks(content: object, model: str) -> Iterator[Block]:
    """Yield the blocks of a content; this API refuses empty texts."""
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for part in content if isinstance(content, list) else ():
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            if text.strip():
                yield {"type": "text", "text": text}
        else:
            yield _media(part, model)


def _media(part: JsonObject, model: str) -> Block:
    image, file = part.get("image_url"), part.get("file")
    url = image.get("url") if isinstance(image, Mapping) else image
    if isinstance(url, str):
        return {"type": "image", "source": _source(url)}
    data = file.get("file_data") if isinstance(file, Mapping) else None
    if isinstance(data, str):
        return {"type": "document", "source": _source(data)}
    text = f"The Messages API for {model} does not support content other than text, images and documents."
    raise CapabilityMissing(text, lacks=[(model, "content other than text, images and documents")])


def _source(url: str) -> JsonDict:
    head, _, data = url.partition(",")
    kind = head.removeprefix("data:").removesuffix(";base64")
    if head.startswith("data:") and head.endswith(";base64"):
        return {"type": "base64", "media_type": kind, "data": data}
    return {"type": "url", "url": url}


def _tools(tools: object) -> list[JsonDict]:
    return [_tool(tool["function"]) for tool in (tools if isinstance(tools, list) else ()) if tool.get("function")]


def _tool(function: JsonObject) -> JsonDict:
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    tool = {"name": function.get("name") or "", "input_schema": schema}
    return {**tool, "description": function["description"]} if function.get("description") else tool


def _choice(chat: JsonObject) -> JsonDict | None:
    choice, parallel = chat.get("tool_choice"), chat.get("parallel_tool_calls")
    if isinstance(choice, Mapping):
        function = choice.get("function")
        written = {"type": "tool", "name": function.get("name") or ""} if isinstance(function, Mapping) else None
    else:
        written = dict(_CHOICES[choice]) if choice in _CHOICES else None
    if parallel is False:
        written = written or {"type": "auto"}
        if written["type"] != "none":
            written["disable_parallel_tool_use"] = True
    return written


def _schema(form: object) -> JsonObject | None:
    named = form.get("json_schema") if isinstance(form, Mapping) and form.get("type") == "json_schema" else None
    schema = named.get("schema") if isinstance(named, Mapping) else None
    return schema if isinstance(schema, Mapping) else None

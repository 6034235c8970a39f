"""Write a chat body as a body of Ollama's /api/chat.

Each body has `truncate: false`: without it, the server shortens a prompt that does not fit, without an error.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

from app.types import JsonDict, JsonObject, Loading
from app.wire.chat.system_messages import BETWEEN, SYSTEM_ROLES, system_message

# Options of a single reply (api/types.go, Options). Options of the Runner load the model again, so only the operator
# sets them.
SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "seed",
    "num_predict",
    "num_keep",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "stop",
)
_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
}
_READ = frozenset(
    (
        *("model", "messages", "tools", "tool_choice", "stream", "stream_options", "response_format", "stop"),
        *("max_tokens", "max_completion_tokens", "options", "logprobs", "top_logprobs", "reasoning_effort"),
        *SAMPLING,
    )
)


def write_body(chat: JsonObject, model: str, loading: Loading, *, stream: bool) -> JsonDict:
    """Return the body for one model of the server."""
    body: JsonDict = {
        "model": model,
        "messages": [_message(message, chat["messages"]) for message in _system_first(chat["messages"])],
        "stream": stream,
        "truncate": False,
    }
    if chat.get("tools") and chat.get("tool_choice") != "none":
        body["tools"] = chat["tools"]
    if (form := _format(chat.get("response_format"))) is not None:
        body["format"] = form
    if options := _options(chat, loading):
        body["options"] = options
    if loading.keep_alive is not None:
        body["keep_alive"] = loading.keep_alive
    if (think := _think(chat, loading)) is not None:
        body["think"] = think
    for name in ("logprobs", "top_logprobs"):
        if chat.get(name):
            body[name] = chat[name]
    return body


def dropped_members(chat: JsonObject) -> tuple[str, ...]:
    """Return the members of a chat body that /api/chat does not support."""
    names = [name for name, value in chat.items() if name not in _READ and value is not None]
    if chat.get("tool_choice") not in (None, "auto", "none"):
        names.append("tool_choice")
    options = chat.get("options")
    if isinstance(options, Mapping):
        names += [f"options.{name}" for name in options if name not in SAMPLING]
    return tuple(names)


def _options(chat: JsonObject, loading: Loading) -> JsonDict:
    client_options = chat.get("options")
    options = (
        {name: client_options[name] for name in SAMPLING if name in client_options}
        if isinstance(client_options, Mapping)
        else {}
    )
    options |= {name: chat[name] for name in SAMPLING if chat.get(name) is not None}
    limit = chat.get("max_completion_tokens")
    limit = chat.get("max_tokens") if limit is None else limit
    if limit is not None:
        options["num_predict"] = limit
    if isinstance(options.get("stop"), str):
        options["stop"] = [options["stop"]]
    if loading.num_ctx is not None:
        options["num_ctx"] = loading.num_ctx
    return options


def _think(chat: JsonObject, loading: Loading) -> bool | str | None:
    """Return the value of `think`. A model without reasoning refuses it, so it is left out then."""
    if not loading.thinks:
        return None
    if loading.think is not None:
        return loading.think
    effort = chat.get("reasoning_effort")
    return _EFFORTS.get(effort.lower()) if isinstance(effort, str) else None


def _format(wanted: object) -> object:
    """Return `json` or the schema; None for text."""
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") == "json_object":
        return wanted.get("schema") or "json"
    named = wanted.get("json_schema")
    return named.get("schema") if wanted.get("type") == "json_schema" and isinstance(named, Mapping) else None


def _system_first(messages: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """Return the messages with all system messages joined at the beginning, because many chat templates allow no
    other position."""
    front = [message for message in messages if message["role"] in SYSTEM_ROLES]
    if not front or (len(front) == 1 and front[0] is messages[0]):
        return messages
    return [system_message(front), *(message for message in messages if message["role"] not in SYSTEM_ROLES)]


def _message(message: JsonObject, messages: Sequence[JsonObject]) -> JsonDict:
    texts, images = _parts(message.get("content"))
    role = message["role"]
    written: JsonDict = {"role": "system" if role == "developer" else role, "content": BETWEEN.join(texts)}
    if images:
        written["images"] = images
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        written["thinking"] = thinking
    if calls := message.get("tool_calls"):
        written["tool_calls"] = [_call(call, index) for index, call in enumerate(calls)]
    if role == "tool":
        call_id = message.get("tool_call_id")
        written["tool_name"] = message.get("name") or _called_name(messages, call_id)
        written["tool_call_id"] = call_id or ""
    return written


def _parts(content: object) -> tuple[list[str], list[str]]:
    """Return the texts and the images (base64) of a message's content."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return ([content] if isinstance(content, str) else []), []
    texts, images = [], []
    for part in content:
        if isinstance(part.get("text"), str):
            texts.append(part["text"])
        image = part.get("image_url")
        url = image.get("url") if isinstance(image, Mapping) else image
        if isinstance(url, str):
            images.append(url.rpartition(",")[2] if url.startswith("data:") else url)
    return texts, images


def _call(call: JsonObject, index: int) -> JsonDict:
    function = call["function"]
    return {
        "id": call.get("id") or "",
        "function": {"index": index, "name": function.get("name") or "", "arguments": _arguments(function)},
    }


def _arguments(function: JsonObject) -> JsonObject:
    """Return the arguments as an object: the server refuses a string."""
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            return {"arguments": function["arguments"]}
    return arguments if isinstance(arguments, Mapping) else {"arguments": arguments}


def _called_name(messages: Sequence[JsonObject], call_id: object) -> str:
    """Return the name of the function that a call with this id called; "" when there is none."""
    return next((name for other_id, name in _called(messages) if other_id == call_id), "")


def _called(messages: Sequence[JsonObject]) -> Iterator[tuple[object, str]]:
    for message in messages:
        for call in message.get("tool_calls") or ():
            yield call.get("id"), call["function"].get("name") or ""

"""Write a chat body as a body of Ollama's /api/chat.

Each body has `truncate: false`: without it, the server shortens a prompt that does not fit, without an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from app.errors import CapabilityMissing, Untranslatable
from app.types import JsonDict, JsonObject, Loading
from app.wire.chat.system_messages import BETWEEN, SYSTEM_ROLES, system_message
from app.wire.json_body import is_too_deep

# Options of a single reply (api/types.go, Options). Options of the Runner load the model again, so only the operator
# sets them.  A value of another type, or one that is too large, is a 500 of the server.
_INTEGERS = ("top_k", "seed", "num_predict", "num_keep", "repeat_last_n")
_FLOATS = (
    *("temperature", "top_p", "min_p", "typical_p"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)
SAMPLING = (*_INTEGERS, *_FLOATS, "stop")
_MOST = dict.fromkeys(_INTEGERS, 2.0**63) | dict.fromkeys(_FLOATS, 3.4e38)  # int64 and float32
_LIMITS = ("max_completion_tokens", "max_tokens")  # the newer name counts
_EFFORTS: Mapping[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "high",
    "max": "high",
    "ultra": "high",
}
_READ = frozenset(
    (
        *("model", "messages", "tools", "tool_choice", "stream", "stream_options", "response_format", "stop"),
        *(*_LIMITS, "options", "logprobs", "top_logprobs", "reasoning_effort", "reasoning"),
        *SAMPLING,
    )
)


def write_body(chat: JsonObject, model: str, loading: Loading, *, stream: bool) -> JsonDict:
    """Return the body for one model of the server.  Raise CapabilityMissing for content that only other servers read,
    and Untranslatable for a mistake of the client."""
    called = _called_names(chat["messages"])
    body: JsonDict = {
        "model": model,
        "messages": [_message(message, called, model) for message in _system_first(chat["messages"])],
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
    options = _checked(client_options, "options.") if isinstance(client_options, Mapping) else {}
    options |= _checked(chat)
    limit = next((name for name in _LIMITS if chat.get(name) is not None), None)
    if limit is not None:
        options["num_predict"] = _number(chat[limit], limit, _MOST["num_predict"])
    if loading.num_ctx is not None:
        options["num_ctx"] = loading.num_ctx
    return options


def _checked(document: JsonObject, place: str = "") -> JsonDict:
    """Return the sampling options in a document.  Raise Untranslatable for a value that the server cannot read."""
    options = {
        name: _number(document[name], place + name, most)
        for name, most in _MOST.items()
        if document.get(name) is not None
    }
    stop = document.get("stop")
    if stop is None:
        return options
    words = [stop] if isinstance(stop, str) else stop
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise Untranslatable(f"`{place}stop` must be a string or an array of strings.", param=f"{place}stop")
    return options | {"stop": words}


def _number(value: object, name: str, most: float) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -most < value < most:
        raise Untranslatable(f"`{name}` must be a number, at most {most:g}.", param=name)
    return value


def _think(chat: JsonObject, loading: Loading) -> bool | str | None:
    """Return the value of `think`. A model without reasoning refuses it, so it is left out then."""
    if not loading.thinks:
        return None
    if loading.think is not None:
        return loading.think
    reasoning = chat.get("reasoning")  # the server's chat API reads it too, before the other
    effort = reasoning.get("effort") if isinstance(reasoning, Mapping) else chat.get("reasoning_effort")
    return _EFFORTS.get(effort.lower()) if isinstance(effort, str) else None


def _format(wanted: object) -> object:
    """Return `json` or the schema; None for text.  The server takes only objects, though `true` is a schema too."""
    if not isinstance(wanted, Mapping):
        return None
    if wanted.get("type") == "json_object":
        schema = wanted.get("schema")
        return schema if schema and isinstance(schema, Mapping) else "json"
    named = wanted.get("json_schema")
    if wanted.get("type") != "json_schema" or not isinstance(named, Mapping):
        return None
    schema = named.get("schema")
    return "json" if isinstance(schema, bool) else schema


def _system_first(messages: Sequence[JsonObject]) -> Sequence[JsonObject]:
    """Return the messages with all system messages joined at the beginning, because many chat templates allow no
    other position."""
    front = [message for message in messages if message["role"] in SYSTEM_ROLES]
    if not front or (len(front) == 1 and front[0] is messages[0]):
        return messages
    return [system_message(front), *(message for message in messages if message["role"] not in SYSTEM_ROLES)]


def _message(message: JsonObject, called: Mapping[object, str], model: str) -> JsonDict:
    texts, images = _parts(message.get("content"), model)
    role = message["role"].lower()
    written: JsonDict = {"role": "system" if role == "developer" else role, "content": BETWEEN.join(texts)}
    if images:
        written["images"] = images
    thinking = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(thinking, str):
        written["thinking"] = thinking
    if calls := message.get("tool_calls"):
        written["tool_calls"] = [_call(call, index) for index, call in enumerate(calls)]
    if role == "tool":
        call_id = str(message.get("tool_call_id") or "")
        written["tool_name"] = message.get("name") or called.get(call_id, "")
        written["tool_call_id"] = call_id
    return written


def _parts(content: object, model: str) -> tuple[list[str], list[str]]:
    """Return the texts of a message's content, and its images and sounds in base64, which the server tells apart."""
    if not isinstance(content, Sequence) or isinstance(content, str):
        return ([content] if isinstance(content, str) else []), []
    texts, media = [], []
    for part in content:
        text = part.get("text", part.get("refusal"))
        if isinstance(text, str):
            texts.append(text)
        else:
            media.append(_base64(part, model))
    return texts, media


def _base64(part: JsonObject, model: str) -> str:
    """Return the data of an image or a sound.  Raise CapabilityMissing for any other part: another server may read
    it."""
    image, sound = part.get("image_url"), part.get("input_audio")
    url = image.get("url") if isinstance(image, Mapping) else image
    if isinstance(url, str):
        head, _, data = url.partition(",")
        if head.lower().startswith("data:") and head.lower().endswith(";base64"):
            return data
        raise _lacking(model, "images by URL: send them as data: URLs in base64")
    encoded = sound.get("data") if isinstance(sound, Mapping) else None
    if not isinstance(encoded, str):
        raise _lacking(model, "content other than text, images and audio")
    return encoded


def _lacking(model: str, content: str) -> CapabilityMissing:
    text = f"Ollama's API for {model} does not support {content}."
    return CapabilityMissing(text, lacks=[(model, content)], kind=Untranslatable.kind)


def _call(call: JsonObject, index: int) -> JsonDict:
    function = call.get("function") or {}
    return {
        "id": call.get("id") or "",
        "function": {"index": index, "name": function.get("name") or "", "arguments": _arguments(function)},
    }


def _arguments(function: JsonObject) -> JsonObject:
    """Return the arguments as an object: the server refuses a string."""
    arguments = function.get("arguments")
    if not isinstance(arguments, str):
        return arguments if isinstance(arguments, Mapping) else {} if arguments is None else {"arguments": arguments}
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        parsed = None
    return parsed if isinstance(parsed, Mapping) and not is_too_deep(parsed) else {"arguments": arguments}


def _called_names(messages: Sequence[JsonObject]) -> Mapping[object, str]:
    """Return the function that each call was for, by the id of the call.  The last one counts, as in the server."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    return {call["id"]: _name(call) for call in calls if isinstance(call.get("id"), str)}


def _name(call: JsonObject) -> str:
    function = call.get("function") or {}
    return str(function.get("name") or "")

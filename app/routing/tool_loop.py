"""Recognise the requests of a tool loop by the tool calls of the answers before them.  Pure.

A tool call has a hash, of the start of its conversation and of its id.  The ids of some servers repeat, so the start of
the conversation counts too.  A call without an id counts by its name and its arguments: the router gives it an id only
when it writes the reply.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import blake2b

from app.routing.pools import conversation_of
from app.types import ChatRequest, JsonObject

_MOST_CALLS = 32  # of one message that are looked at


def hashes_of_answer(request: ChatRequest, message: JsonObject) -> tuple[int, ...]:
    """Return the hash of each tool call in the answer to a request."""
    conversation = str(conversation_of(request).key)
    return tuple(_hash(conversation, call_id or _content(call)) for call_id, call in _calls(message))


def hashes_of_results(request: ChatRequest) -> tuple[int, ...]:
    """Return the hashes of the tool calls whose results a request returns; none when it does not end with results."""
    messages = request.body.chat.get("messages")
    if not isinstance(messages, list) or not messages or not _is_result(messages[-1]):
        return ()
    for message in reversed(messages):
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            conversation = str(conversation_of(request).key)
            names = (name for call_id, call in _calls(message) for name in (call_id, _content(call)) if name)
            return tuple(_hash(conversation, name) for name in names)
        if not _is_result(message):
            return ()
    return ()


def _is_result(message: object) -> bool:
    return isinstance(message, Mapping) and message.get("role") in ("tool", "function")


def _calls(message: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    """Yield the id of each tool call ("" = it has none), and the call."""
    calls = message.get("tool_calls")
    for call in calls[:_MOST_CALLS] if isinstance(calls, list) else ():
        if isinstance(call, Mapping):
            call_id = call.get("id")
            yield (call_id if isinstance(call_id, str) else ""), call


def _content(call: JsonObject) -> str:
    """Return the name and the arguments of a tool call, alike for every way to write them as JSON."""
    function = call.get("function") or call.get("custom")
    if not isinstance(function, Mapping):
        return ""
    arguments = function.get("arguments", function.get("input"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return f"{function.get('name')} {arguments}"
    return f"{function.get('name')} {json.dumps(arguments, sort_keys=True)}"


def _hash(conversation: str, name: str) -> int:
    """Return 63 bits, never 0."""
    data = f"{conversation} {name}".encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest()) >> 1 or 1

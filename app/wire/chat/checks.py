"""Check the types of the members of a chat body before any call.  A body is refused for a mistake that every server
refuses.  llama.cpp, also inside Ollama, answers some of these mistakes with a 500: the router would try the next
backend, and count a failure of the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from app.errors import RequestError
from app.types import JsonObject

_NO_PARAMETERS: JsonObject = {}


def check_message(message: object, index: int) -> int:
    """Return the number of content parts of a message.  Raise RequestError naming the member that is wrong."""
    if not isinstance(message, dict):
        raise _wrong(f"messages[{index}]", "an object")
    role = message.get("role")
    if len(message) == 2 and type(message.get("content")) is str and type(role) is str and role.strip():
        return 0  # most messages are like this: a role and a text
    where = f"messages[{index}]"
    if not isinstance(role, str) or not role.strip():  # servers have roles of their own, so any name is allowed
        raise _wrong(f"{where}.role", "a string that is not empty")
    for name in ("name", "tool_call_id"):
        if not _is_text(message.get(name)):
            raise _wrong(f"{where}.{name}", "a string")
    for place, call in _objects(message.get("tool_calls"), f"{where}.tool_calls"):
        _function(call, place)
    content = message.get("content")
    if isinstance(content, str) or (content is None and role != "user"):  # null is legal beside tool calls
        return 0
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        raise _wrong(f"{where}.content", "a string or an array of parts")
    for at, part in enumerate(content):
        if part.get("type") == "text" and not isinstance(part.get("text"), str):
            raise _wrong(f"{where}.content[{at}].text", "a string")
    return len(content)


def check_options(document: JsonObject) -> None:
    """Raise RequestError for tools, stop words or a schema of a type that no server accepts."""
    tools = document.get("tools")
    if tools and isinstance(tools, list) and all(map(_is_usual, tools)):
        tools = None
    for place, tool in _objects(tools, "tools"):
        function = _function(tool, place)
        if not _is_text(function.get("description")):
            raise _wrong(f"{place}.function.description", "a string")
        if not is_schema(function.get("parameters")):
            raise _wrong(f"{place}.function.parameters", "an object")
    stop = document.get("stop")
    if isinstance(stop, list) and not all(isinstance(word, str) for word in stop):
        raise _wrong("stop", "a string or an array of strings")
    response_format = document.get("response_format")
    if isinstance(response_format, Mapping) and response_format.get("type") == "json_schema":
        form = response_format.get("json_schema")
        if isinstance(form, Mapping) and not is_schema(form.get("schema")):
            raise _wrong("response_format.json_schema.schema", "an object")


def _is_usual(tool: object) -> bool:
    """Return True for a valid tool in the usual form, so that no error position is needed."""
    function = tool.get("function") if type(tool) is dict else None
    return (
        type(function) is dict
        and type(function.get("name")) is str
        and type(function.get("description", "")) is str
        and type(function.get("parameters", _NO_PARAMETERS)) is dict
    )


def _function(entry: JsonObject, place: str) -> JsonObject:
    """Return the function of a tool or a call; empty when it has none."""
    function = entry.get("function")
    if not isinstance(function, (dict, type(None))):
        raise _wrong(f"{place}.function", "an object")
    function = function or {}
    if not _is_text(function.get("name")):
        raise _wrong(f"{place}.function.name", "a string")
    return function


def _objects(entries: object, where: str) -> Iterator[tuple[str, JsonObject]]:
    if not isinstance(entries, (list, type(None))):
        raise _wrong(where, "an array of objects")
    for index, entry in enumerate(entries or ()):
        if not isinstance(entry, dict):
            raise _wrong(f"{where}[{index}]", "an object")
        yield f"{where}[{index}]", entry


def _is_text(value: object) -> bool:
    return isinstance(value, (str, type(None)))


def is_schema(value: object) -> bool:
    """Return whether a value can be a JSON schema; true and false are schemas too, null is none."""
    return isinstance(value, (dict, bool, type(None)))


def _wrong(where: str, kind: str) -> RequestError:
    return RequestError(f"`{where}` must be {kind}.", param=where)

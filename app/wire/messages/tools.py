"""Offer the tools of a Messages request as chat functions.

Tools that only Anthropic's servers can run (web search, code execution …) have no chat equivalent and are left out,
and so are tools without a schema, which only Anthropic's models know (bash, text editor, computer).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.errors import RequestError
from app.types import JsonDict, JsonObject

MOST_TOOLS = 5000  # more than any client sends
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def check_tools(tools: object) -> tuple[JsonObject, ...]:
    """Return the tools of a request.  Raise RequestError that names the wrong one."""
    if tools is None:
        return ()
    if not isinstance(tools, list):
        raise RequestError("`tools` must be an array of objects.", param="tools")
    if len(tools) > MOST_TOOLS:
        raise RequestError(f"A request must not hold more than {MOST_TOOLS} tools.", param="tools")
    for at, tool in enumerate(tools):
        where = f"tools[{at}]"
        if not isinstance(tool, Mapping):
            raise RequestError(f"`{where}` must be an object.", param=where)
        if not is_function(tool):
            continue
        if not isinstance(tool.get("name"), str) or not tool["name"]:
            raise RequestError(f"`{where}.name` must be a string that is not empty.", param=f"{where}.name")
        if not isinstance(tool["input_schema"], Mapping):
            raise RequestError(f"`{where}.input_schema` must be an object.", param=f"{where}.input_schema")
        if not isinstance(tool.get("description"), (str, type(None))):
            raise RequestError(f"`{where}.description` must be a string.", param=f"{where}.description")
    return tuple(tools)


def is_function(tool: JsonObject) -> bool:
    """Return True for a tool that the client runs, and describes itself."""
    return tool.get("type") in (None, "custom") and (tool.get("input_schema") is not None or "name" not in tool)


def parse_choice(choice: object) -> JsonObject | None:
    """Return `tool_choice`.  Raise RequestError when no server could read it."""
    if choice is None:
        return None
    kind = choice.get("type") if isinstance(choice, Mapping) else None
    is_named = kind == "tool" and isinstance(choice, Mapping) and isinstance(choice.get("name"), str)
    is_word = isinstance(kind, str) and kind in _CHOICES
    if not isinstance(choice, Mapping) or not (is_word or is_named):
        names = ", ".join((*_CHOICES, "tool with a name"))
        raise RequestError(f"`tool_choice.type` must be one of {names}.", param="tool_choice")
    return choice


def chat_tools(tools: Sequence[JsonObject], choice: JsonObject | None) -> JsonDict:
    """Return the members of a chat body for the tools; none when no tool is left."""
    functions = [_function(tool) for tool in tools if is_function(tool)]
    if not functions:
        return {}
    members: JsonDict = {"tools": functions}
    if choice is not None:
        kind = choice["type"]
        members["tool_choice"] = _CHOICES.get(kind) or {"type": "function", "function": {"name": choice["name"]}}
        if choice.get("disable_parallel_tool_use"):
            members["parallel_tool_calls"] = False
    return members


def _function(tool: JsonObject) -> JsonDict:
    function = {"name": tool["name"], "parameters": tool["input_schema"]}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}

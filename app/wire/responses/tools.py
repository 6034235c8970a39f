"""Offer Responses tools as chat functions, and find the tool for a chat function's name.

Functions and custom tools are offered; the tools of a namespace are offered under a flat name; tools that only
OpenAI can run (web search and the like) have no chat equivalent and are left out.  Tools can also be inside the
input, as an item from which on they are available; a chat backend gets all of them from the beginning.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from app.errors import RequestError
from app.types import JsonDict, JsonObject
from app.wire.chat.checks import is_schema
from app.wire.responses import custom

_ILLEGAL = re.compile(r"[^A-Za-z0-9_-]")
_LONGEST_NAME = 64
_NEVER_MARKED = 54  # characters at the end of a name that are never changed
MOST_TOOLS = 5000  # more than any client sends
_CHOICES = ("none", "auto", "required")


@dataclass(frozen=True, slots=True)
class Tool:
    """Hold one tool for the backend, under the client's name for it."""

    kind: str  # function | custom
    name: str
    namespace: str | None
    function: JsonObject  # chat's function object; its name is unique


class Toolbox:
    """Hold the tools of one request."""

    def __init__(
        self,
        tools: Sequence[JsonObject] = (),
        choice: str | JsonObject | None = None,
        parallel: bool | None = None,
    ) -> None:
        self._tools = tuple(tools)
        self._choice = choice
        self._parallel = parallel
        self._by_wire_name: dict[str, Tool] = {}
        self._wire_names: dict[tuple[str | None, str], str] = {}
        self._attempts: dict[str, int] = {}  # end of a flat name -> number of names that were tried
        for tool in tools:  # names without a namespace first: they are not changed
            if tool["type"] in ("function", "custom"):
                self._offer(tool, None, str(tool["name"]))
        for space in tools:
            if space["type"] == "namespace":
                for tool in space["tools"]:
                    if tool["type"] in ("function", "custom"):
                        self._offer(tool, space["name"], self._free_name(space["name"], tool["name"]))

    def after(self, tools: Sequence[JsonObject]) -> Toolbox:
        """Return this toolbox with older tools added; when two have the same name, the newer one is used."""
        return Toolbox((*tools, *self._tools), self._choice, self._parallel) if tools else self

    def members(self) -> JsonDict:
        """Return the members of a chat body for the tools; none when nothing is offered."""
        tools, choice = self._allowed(), self._chat_choice()
        if not tools:
            return {}
        members: JsonDict = {"tools": [{"type": "function", "function": tool.function} for tool in tools]}
        if choice is not None:
            members["tool_choice"] = choice
        if self._parallel is not None:
            members["parallel_tool_calls"] = self._parallel
        return members

    @property
    def wire_names(self) -> Collection[str]:
        """Return the names of the tools for the backend."""
        return self._by_wire_name.keys()

    @property
    def hosted(self) -> list[str]:
        """Return the types of the tools that only a server of this API runs; chat has none of them."""
        return [tool["type"] for tool in self._tools if tool["type"] not in ("function", "custom", "namespace")]

    def tool(self, wire_name: str) -> Tool | None:
        """Return the tool that has a name at the backend."""
        return self._by_wire_name.get(wire_name)

    def wire_name(self, name: str, namespace: str | None) -> str:
        """Return the name of a tool at the backend, also of a tool that is no longer in the request."""
        return self._wire_names.get((namespace, name)) or (flat_name(namespace, name) if namespace else name)

    def _offer(self, tool: JsonObject, namespace: str | None, wire_name: str) -> None:
        if tool["type"] == "custom":
            function = custom.as_function(tool, wire_name)
        else:
            members = {key: tool.get(key) for key in ("description", "parameters", "strict")}
            function = {"name": wire_name, **{key: value for key, value in members.items() if value is not None}}
        self._by_wire_name[wire_name] = Tool(tool["type"], tool["name"], namespace, function)
        self._wire_names[namespace, tool["name"]] = wire_name

    def _free_name(self, namespace: str, name: str) -> str:
        if wire_name := self._wire_names.get((namespace, name)):
            return wire_name
        wire_name = flat_name(namespace, name)
        end = wire_name[-_NEVER_MARKED:]
        while wire_name in self._by_wire_name:  # the count continues, so that many similar names need no quadratic work
            attempt = self._attempts[end] = self._attempts.get(end, 1) + 1
            wire_name = flat_name(namespace, name, f"n{attempt}_")
        return wire_name

    def _allowed(self) -> list[Tool]:
        tools = list(self._by_wire_name.values())
        if not (isinstance(self._choice, Mapping) and self._choice["type"] == "allowed_tools"):
            return tools
        names = {_meant(entry) for entry in self._choice["tools"]}
        return [tool for tool in tools if not names.isdisjoint(_ways_to_name(tool))]

    def _chat_choice(self) -> str | JsonDict | None:
        choice = self._choice
        if not isinstance(choice, Mapping):
            return choice
        if choice["type"] == "allowed_tools":
            return str(choice.get("mode") or "auto")
        if choice["type"] not in ("function", "custom"):
            return None  # a hosted tool, which was left out
        for tool in self._by_wire_name.values():
            if _meant(choice) in _ways_to_name(tool):
                return {"type": "function", "function": {"name": tool.function["name"]}}
        if not self._by_wire_name:
            return None
        raise RequestError(f"tool_choice names {choice.get('name')!r}, which is not in tools.", param="tool_choice")


def flat_name(namespace: str, name: str, mark: str = "") -> str:
    """Return `namespace__name` with the characters and the length that chat servers allow; models use its end.
    `mark` is a prefix that distinguishes names which would otherwise be equal."""
    flat = _ILLEGAL.sub("_", f"{namespace}__{name}")
    return mark + flat[len(mark) - _LONGEST_NAME :]


def _meant(entry: JsonObject) -> tuple[str, ...]:
    """Return the names in an entry of a tool choice: (namespace, ""), ("", tool), (namespace, tool), or nothing."""
    name, space = entry.get("name"), entry.get("namespace")
    if not isinstance(name, str):
        return ()
    return (name, "") if entry.get("type") == "namespace" else (str(space or ""), name)


def _ways_to_name(tool: Tool) -> tuple[tuple[str, str], ...]:
    """Return the names by which an entry of a tool choice may mean `tool`."""
    if tool.namespace is None:
        return (("", tool.name),)
    return ("", tool.name), (tool.namespace, tool.name), (tool.namespace, "")


# --- reading what the client sent ----------------------------------------------------------------


def parse_tools(value: object, where: str = "tools") -> tuple[JsonDict, ...]:
    """Return `tools` in the Responses form.  Check the members that the router reads; `where` is their position in
    the body."""
    if value is None:
        return ()
    if not isinstance(value, list):
        raise RequestError(f"{where} must be an array.", param=_field(where))
    return tuple(_parse_tool(tool, f"{where}[{at}]") for at, tool in enumerate(value))


def count_tools(value: object) -> int:
    """Count the tools in a list that was not checked yet, tools in namespaces included."""
    if not isinstance(value, list):
        return 0
    return sum(1 + (count_tools(tool.get("tools")) if isinstance(tool, Mapping) else 0) for tool in value)


def _field(where: str) -> str:
    """Return the top-level field of a place such as `input[3].tools[0]`."""
    return where.partition("[")[0]


def _parse_tool(value: object, where: str) -> JsonDict:
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise RequestError(f"{where} must be an object with a type.", param=_field(where))
    tool: JsonDict = dict(value)
    if tool["type"] == "function" and isinstance(tool.get("function"), Mapping):
        tool |= tool.pop("function")  # chat's nested shape, which some clients send here too
    if tool["type"] in ("function", "custom", "namespace") and not (
        isinstance(tool.get("name"), str) and tool["name"].strip()
    ):
        raise RequestError(f"{where} needs a name.", param=_field(where))
    if not isinstance(tool.get("description"), (str, type(None))):
        raise RequestError(f"{where}.description must be a string.", param=_field(where))
    if tool["type"] == "function":
        if not is_schema(tool.get("parameters")):
            raise RequestError(f"{where}.parameters must be an object.", param=_field(where))
        return {"type": "function", "name": "", "description": None, "parameters": None, "strict": None} | tool
    if tool["type"] == "namespace":
        if not isinstance(tool.get("tools"), list):
            raise RequestError(f"{where}.tools must be an array.", param=_field(where))
        tool["tools"] = [_parse_tool(inner, f"{where}.tools[{at}]") for at, inner in enumerate(tool["tools"])]
    return tool


def parse_choice(value: object) -> str | JsonDict | None:
    """Return `tool_choice`: a word, or an object in Responses shape."""
    if value is None or (isinstance(value, str) and value in _CHOICES):
        return value
    if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
        raise RequestError(f"tool_choice must be one of {', '.join(_CHOICES)}, or an object.", param="tool_choice")
    choice = dict(value)
    if isinstance(choice.get("function"), Mapping):
        choice |= choice.pop("function")  # chat's nested shape
    if choice["type"] == "allowed_tools":
        tools = choice.get("tools")
        if not isinstance(tools, list) or not all(isinstance(entry, Mapping) for entry in tools):
            raise RequestError("tool_choice.tools must be an array of objects.", param="tool_choice")
        if choice.get("mode") not in (None, "auto", "required"):
            raise RequestError("tool_choice.mode must be auto or required.", param="tool_choice")
    return choice

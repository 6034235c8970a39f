"""Check the tool calls of an answer against the tools of its request."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property

from app.routing.answer.reading import Answer, Question, ToolCall, objects_in
from app.routing.answer.schema import Schema
from app.routing.answer.wanted import parsed
from app.types import JsonObject

_FINISHES = frozenset(("tool_calls", "tool_use", "function_call"))
# How models write a call into their text; servers that do not know the form leave it there.
_MARKS = (
    "<tool_call", "<toolcall", "<function_call", "<function=", "<invoke", "<tool_use", "<|tool_call", "<|python_tag|>",
    "<｜tool▁call", "[tool_call", "```tool_c", "functools[", "✿function✿", "to=functions.",
)  # fmt: skip
_BEHIND_MARK = 300  # characters in which the name of the tool follows
_MOST_TEXT = 20_000  # characters in which a call is searched
_ARGUMENTS = ("arguments", "parameters", "args", "input", "action_input")


class _Tool:
    """Hold a tool that a request declares."""

    def __init__(self, definition: JsonObject, *, is_free: bool = False) -> None:
        self._definition = definition
        self.is_free = is_free  # it takes a text of any form

    @cached_property
    def schema(self) -> Schema:
        """The schema of the arguments."""
        return Schema(self._definition.get("parameters"))


Tools = dict[str, _Tool]


def call_fault(question: Question, answer: Answer, finish: str) -> str | None:
    """Return `tool` when a call is missing, or names no tool of the request, or does not fit its tool."""
    tools = dict(_tools(question.body))
    choice = question.body.get("tool_choice")
    if answer.calls:
        is_fault = choice == "none" or not all(_fits(call, question, tools) for call in answer.calls)
    else:
        is_fault = finish in _FINISHES or (bool(tools) and (_must_call(choice) or _holds_call(answer.text, tools)))
    return "tool" if is_fault else None


def _tools(body: JsonObject) -> Iterator[tuple[str, _Tool]]:
    """Yield the tools with their names; OpenAI's old form is a list of functions."""
    for entry in (*objects_in(body.get("tools")), *objects_in(body.get("functions"))):
        custom = entry.get("custom")
        function = custom if isinstance(custom, Mapping) else entry.get("function")
        definition = function if isinstance(function, Mapping) else entry
        name = definition.get("name")
        if isinstance(name, str):
            yield name, _Tool(definition, is_free=entry.get("type") == "custom")


def _must_call(choice: object) -> bool:
    """Return True when the request wants a call in any case."""
    if isinstance(choice, Mapping):
        allowed = choice.get("allowed_tools")
        return choice.get("type") == "function" or (isinstance(allowed, Mapping) and allowed.get("mode") == "required")
    return choice in ("required", "any")


# --- calls -------------------------------------------------------------------------------------


def _fits(call: ToolCall, question: Question, tools: Tools) -> bool:
    if question.body and call.name not in _allowed(question.body.get("tool_choice"), tools):
        return False
    tool = tools.get(call.name)
    if tool and tool.is_free:
        return True
    try:
        text = _text(call.arguments)
        arguments = parsed(text) if text.strip() else {}  # many servers send nothing to a tool without parameters
    except ValueError:
        return False
    return isinstance(arguments, dict) and (tool is None or tool.schema.fits(arguments, len(text)))


def _allowed(choice: object, tools: Tools) -> Tools | tuple[str, ...]:
    """Return the names that a call may have."""
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        if isinstance(name, str) and name in tools:
            return (name,)
    return tools


def _text(arguments: object) -> str:
    """Return arguments as JSON text.  Raise ValueError when they have none."""
    if arguments is None or isinstance(arguments, str):
        return arguments or ""
    try:
        return json.dumps(arguments)
    except (TypeError, RecursionError):
        raise ValueError("not JSON") from None


# --- calls in the text -----------------------------------------------------------------------------


def _holds_call(text: str, tools: Tools) -> bool:
    """Return True when a text has a call of a declared tool in it."""
    text = text[:_MOST_TEXT].strip()
    return _is_call(text.strip("`").removeprefix("json").strip(), tools) or _has_mark(text, tools)


def _is_call(text: str, tools: Tools) -> bool:
    """Return True when a text is nothing but a call: `name(…)`, or a JSON object with a name and arguments."""
    name, bracket, _ = text.partition("(")
    if bracket and text.endswith(")") and name.removeprefix("print(").removeprefix("functions.").strip() in tools:
        return True
    if not text.startswith(("{", "[")) or not text.endswith(("}", "]")):
        return False
    try:
        value = parsed(text)
    except ValueError:
        return False
    calls = objects_in(value if isinstance(value, list) else [value])
    return bool(calls) and all(_is_written_call(call, tools) for call in calls)


def _is_written_call(call: JsonObject, tools: Tools) -> bool:
    function = call.get("function")
    members = function if isinstance(function, Mapping) else call
    names = (members.get(name) for name in ("name", "tool", "function", "tool_name", "action"))
    is_known = any(isinstance(name, str) and name in tools for name in names)
    return is_known and any(name in members for name in _ARGUMENTS)


def _has_mark(text: str, tools: Tools) -> bool:
    """Return True when a line outside of code blocks begins with the mark of a call, and a tool's name follows."""
    folded = text.lower()
    for mark in _MARKS:
        at = folded.find(mark)
        if at >= 0 and not text[text.rfind("\n", 0, at) + 1 : at].strip() and text.count("```", 0, at) % 2 == 0:
            behind = text[at : at + _BEHIND_MARK]
            if any(name and name in behind for name in tools):
                return True
    return False

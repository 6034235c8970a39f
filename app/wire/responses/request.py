"""Check the request of POST /v1/responses, and fill in every default.

`null` always means absent.  Unknown fields are no error, and are not sent to chat backends.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from app.errors import RequestError
from app.types import JsonDict, JsonObject
from app.wire.chat.request import MOST_PIECES, model_name
from app.wire.members import NUMBER, read_member
from app.wire.responses.tools import MOST_TOOLS, Toolbox, count_tools, parse_choice, parse_tools

_SAMPLING = {
    "temperature": 1.0,
    "top_p": 1.0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
}  # members that the response repeats
_NEEDED = {  # the required members of each item type
    "message": ("role",),
    "item_reference": ("id",),
    "function_call": ("call_id", "name"),
    "custom_tool_call": ("call_id", "name"),
    "function_call_output": ("call_id",),
    "custom_tool_call_output": ("call_id",),
}
_ELSEWHERE = ("conversation", "prompt")  # the model would not see the referenced text, and answer another question
# Members that can refer to items of another client: a backend must read the values that were checked.
LEADS_TO_STORED = ("input", "previous_response_id", *_ELSEWHERE)
_TOOL_CARRIERS = ("additional_tools", "tool_search_output")  # items that bring tools
_ROLES = ("user", "assistant", "system", "developer")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponsesRequest:
    """Hold one request to /v1/responses."""

    model: str  # trimmed; "" when absent
    input: tuple[JsonObject, ...]  # items as they came; a string is one user message
    toolbox: Toolbox
    echo: JsonObject  # the members of a Response that repeat the request, defaults filled in
    stream: bool = False
    store: bool = True
    previous_response_id: str | None = None
    instructions: str | None = None
    sampling: JsonObject  # temperature and the like: only what the client sent
    max_output_tokens: int | None = None
    text_format: JsonObject  # Responses shape
    verbosity: str | None = None
    effort: str | None = None
    logprobs: bool = False
    top_logprobs: int = 0
    encrypted_reasoning: bool = False  # reasoning items carry `encrypted_content`

    @property
    def references(self) -> tuple[str, ...]:
        """Return the ids of stored items that the input refers to."""
        return tuple(item["id"] for item in self.input if item_type(item) == "item_reference")

    def after(self, history: Sequence[JsonObject]) -> ResponsesRequest:
        """Return the request as a continuation of `history`, with the tools in its items."""
        return replace(self, toolbox=self.toolbox.after(_carried(history, "history")))

    def unstored(self) -> ResponsesRequest:
        """Return the request with `store: false`."""
        return replace(self, store=False, echo={**self.echo, "store": False}) if self.store else self


def item_type(item: JsonObject) -> str:
    """Return the type of an input item; messages and references may omit it."""
    return str(item.get("type") or ("message" if item.get("role") else "item_reference"))


def is_id(value: object) -> bool:
    """Return True when a value can be the id of a stored item."""
    return isinstance(value, str) and value != "" and value.isprintable()


def parse(fields: JsonObject) -> ResponsesRequest:
    """Return the request in a JSON document.  Raise RequestError that names the wrong field."""
    if read_member(fields, "background", bool):
        raise RequestError("background responses are not supported; leave background out.", param="background")
    for name in _ELSEWHERE:
        if fields.get(name) is not None:
            raise RequestError(
                f"{name} is not supported: what it names is kept at OpenAI. Send it as input and instructions.",
                param=name,
            )
    items = _input(fields)
    item_tools = sum(count_tools(item.get("tools")) for item in items if item_type(item) in _TOOL_CARRIERS)
    if count_tools(fields.get("tools")) + item_tools > MOST_TOOLS:
        raise RequestError(f"A request must not hold more than {MOST_TOOLS} tools.", param="tools")
    tools, choice = parse_tools(fields.get("tools")), parse_choice(fields.get("tool_choice"))
    parallel = read_member(fields, "parallel_tool_calls", bool)
    text, reasoning = read_member(fields, "text", dict) or {}, read_member(fields, "reasoning", dict) or {}
    text_format = _text_format(read_member(text, "format", dict, "text.") or {"type": "text"})
    include = read_member(fields, "include", list) or []
    echo: JsonDict = _echo(fields) | {
        "tools": list(tools),
        "tool_choice": choice or "auto",
        "parallel_tool_calls": parallel is not False,
        "text": {"format": text_format, **_sent(text, "verbosity")},
        "reasoning": {"effort": reasoning.get("effort"), "summary": reasoning.get("summary")},
    }
    return ResponsesRequest(
        model=model_name(read_member(fields, "model", str) or ""),
        input=items,
        toolbox=Toolbox((*tools, *_carried(items, "input")), choice, parallel),
        echo=echo,
        stream=read_member(fields, "stream", bool) or False,
        store=echo["store"],
        previous_response_id=echo["previous_response_id"],
        instructions=echo["instructions"],
        sampling=_sent(fields, *_SAMPLING),
        max_output_tokens=echo["max_output_tokens"],
        text_format=text_format,
        verbosity=read_member(text, "verbosity", str, "text."),
        effort=read_member(reasoning, "effort", str, "reasoning."),
        logprobs="message.output_text.logprobs" in include,
        top_logprobs=echo["top_logprobs"],
        encrypted_reasoning="reasoning.encrypted_content" in include,
    )


def _echo(fields: JsonObject) -> JsonDict:
    """Return the members of a Response that repeat a field or its default."""

    def field(
        name: str, kind: type[T] | tuple[type[T], ...], default: T | None = None, at_least: int | None = None
    ) -> T | None:
        value = read_member(fields, name, kind)
        if isinstance(value, int) and at_least is not None and value < at_least:
            raise RequestError(f"{name} must be at least {at_least}.", param=name)
        return default if value is None else value

    return {
        "previous_response_id": field("previous_response_id", str),
        "instructions": field("instructions", str),
        "max_tool_calls": field("max_tool_calls", int),
        **{name: field(name, NUMBER, default) for name, default in _SAMPLING.items()},
        "top_logprobs": field("top_logprobs", int, 0, at_least=0),
        "max_output_tokens": field("max_output_tokens", int, at_least=1),
        "truncation": field("truncation", str, "disabled"),
        "store": field("store", bool, True),
        "background": False,
        "service_tier": field("service_tier", str, "default"),
        "metadata": field("metadata", dict, {}),
        "safety_identifier": field("safety_identifier", str),
        "prompt_cache_key": field("prompt_cache_key", str),
    }


def _sent(fields: JsonObject, *names: str) -> JsonDict:
    """Return the fields among `names` that the client gave a value."""
    return {name: fields[name] for name in names if fields.get(name) is not None}


def _text_format(form: JsonObject) -> JsonDict:
    """Return `text.format` with every member that is echoed."""
    kind = form.get("type")
    if kind in ("text", "json_object"):
        return {"type": kind}
    if kind != "json_schema":
        raise RequestError("text.format.type must be text, json_object or json_schema.", param="text.format")
    if not isinstance(form.get("name"), str) or not isinstance(form.get("schema"), Mapping):
        raise RequestError("text.format needs a name and a schema.", param="text.format")
    return {"type": kind} | {name: form.get(name) for name in ("name", "description", "schema", "strict")}


def _input(fields: JsonObject) -> tuple[JsonObject, ...]:
    value = fields.get("input")
    if value is None and fields.get("previous_response_id") is not None:
        return ()
    if isinstance(value, str):
        return ({"type": "message", "role": "user", "content": value},)
    if not isinstance(value, list):
        raise RequestError("input is required: a string or an array of items.", param="input")
    pieces = len(value)
    for at, item in enumerate(value):
        _check_item(item, f"input[{at}]")
        content = item.get("content")
        pieces += len(content) if isinstance(content, list) else 0
    if pieces > MOST_PIECES:
        raise RequestError(f"input must not hold more than {MOST_PIECES} items and parts.", param="input")
    return tuple(value)


def _carried(items: Sequence[JsonObject], where: str) -> list[JsonObject]:
    """Return the tools inside items (for some models, Codex sends all its tools in this way)."""
    return [
        tool
        for at, item in enumerate(items)
        if item_type(item) in _TOOL_CARRIERS
        for tool in parse_tools(item.get("tools"), f"{where}[{at}].tools")
    ]


def _check_item(item: object, where: str) -> None:
    if not isinstance(item, Mapping):
        raise RequestError(f"{where} must be an object.", param="input")
    kind = item_type(item)
    for name in _NEEDED.get(kind, ()):
        if not isinstance(item.get(name), str) or not item[name]:
            raise RequestError(f"{where} ({kind}) needs {name}.", param="input")
    if kind in ("function_call", "custom_tool_call") and not isinstance(item.get("namespace"), (str, type(None))):
        raise RequestError(f"{where}.namespace must be a string.", param="input")
    if kind == "message" and item["role"] not in _ROLES:
        raise RequestError(f"{where}.role must be one of {', '.join(_ROLES)}.", param="input")

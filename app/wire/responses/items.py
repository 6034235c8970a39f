"""Write the items of a Response, each with its events.  The constructor opens an item, `write` fills it, and `end`
closes it and returns the whole item.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Protocol

from app.types import JsonDict, JsonObject
from app.wire.json_end import JsonEnd
from app.wire.reasoning import seal_reasoning
from app.wire.responses.custom import Unwrapper
from app.wire.responses.tools import Tool

Event = JsonDict
Emit = Callable[[Event], None]


class Item(Protocol):
    """Write one item."""

    @property
    def complete(self) -> bool:
        """Return True when the item is complete, so that it can be closed before the end of the reply."""

    def end(self, status: str) -> JsonDict:
        """Emit the closing events, and return the whole item."""


class _Events:
    """Emit the events of one item."""

    def __init__(self, emit: Emit, index: int, item_id: str) -> None:
        self._emit = emit
        self._index = index
        self.id = item_id

    def added(self, item: JsonObject) -> None:
        self._emit({"type": "response.output_item.added", "output_index": self._index, "item": item})

    def done(self, item: JsonObject) -> None:
        self._emit({"type": "response.output_item.done", "output_index": self._index, "item": item})

    def inside(self, kind: str, **members: object) -> None:
        self._emit({"type": kind, "item_id": self.id, "output_index": self._index, **members})


class MessageItem:
    """Write a message; text and refusal are parts of it, one after the other."""

    complete = True

    def __init__(self, emit: Emit, index: int, item_id: str) -> None:
        self._events = _Events(emit, index, item_id)
        self._parts: list[JsonDict] = []  # closed ones
        self._kind = ""  # of the open part: output_text | refusal
        self._pieces: list[str] = []
        self._logprobs: list[object] = []
        self._events.added(self._item("in_progress"))

    def write(self, kind: str, text: str, logprobs: list[object]) -> None:
        if kind != self._kind:
            self._end_part()
            self._kind = kind
            self._inside("response.content_part.added", part=self._part())
        self._pieces.append(text)
        if kind == "refusal":
            self._inside("response.refusal.delta", delta=text)
        else:
            self._logprobs += logprobs
            self._inside("response.output_text.delta", delta=text, logprobs=logprobs)

    def end(self, status: str) -> JsonDict:
        self._end_part()
        item = self._item(status)
        self._events.done(item)
        return item

    def _end_part(self) -> None:
        if not self._kind:
            return
        part = self._part()
        if self._kind == "refusal":
            self._inside("response.refusal.done", refusal=part["refusal"])
        else:
            self._inside("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        self._inside("response.content_part.done", part=part)
        self._parts.append(part)
        self._kind, self._pieces, self._logprobs = "", [], []

    def _part(self) -> JsonDict:
        text = "".join(self._pieces)
        if self._kind == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": list(self._logprobs)}

    def _inside(self, kind: str, **members: object) -> None:
        self._events.inside(kind, content_index=len(self._parts), **members)

    def _item(self, status: str) -> JsonDict:
        content = list(self._parts)
        return {"type": "message", "id": self._events.id, "status": status, "role": "assistant", "content": content}


class ReasoningItem:
    """Write the backend's reasoning as a summary, the one form that every client can show."""

    complete = True

    def __init__(self, emit: Emit, index: int, item_id: str, *, sealed: bool) -> None:
        self._events = _Events(emit, index, item_id)
        self._sealed = sealed
        self._pieces: list[str] = []
        self._events.added({"type": "reasoning", "id": item_id, "summary": []})
        self._inside("response.reasoning_summary_part.added", part={"type": "summary_text", "text": ""})

    def write(self, text: str) -> None:
        self._pieces.append(text)
        self._inside("response.reasoning_summary_text.delta", delta=text)

    def end(self, status: str) -> JsonDict:  # noqa: ARG002  a reasoning item has no status
        text = "".join(self._pieces)
        part = {"type": "summary_text", "text": text}
        self._inside("response.reasoning_summary_text.done", text=text)
        self._inside("response.reasoning_summary_part.done", part=part)
        item: JsonDict = {"type": "reasoning", "id": self._events.id, "summary": [part]}
        if self._sealed:
            item["encrypted_content"] = seal_reasoning(text)
        self._events.done(item)
        return item

    def _inside(self, kind: str, **members: object) -> None:
        self._events.inside(kind, summary_index=0, **members)


class CallItem:
    """Write a call of a function: the model's text is its arguments."""

    type, member = "function_call", "arguments"
    delta_event, done_event = "response.function_call_arguments.delta", "response.function_call_arguments.done"

    def __init__(self, emit: Emit, index: int, item_id: str, *, call_id: str, name: str, tool: Tool | None) -> None:
        self._events = _Events(emit, index, item_id)
        self._client_text: list[str] = []  # the text that the client got
        self._head = {"type": self.type, "id": item_id, "call_id": call_id, "name": tool.name if tool else name}
        self._namespace = {"namespace": tool.namespace} if tool and tool.namespace else {}
        self.closed = False
        self._arguments: list[str] = []  # the text of the backend
        self._end = JsonEnd()
        self._end_looked_for = 0  # pieces
        self._parses: bool | None = None  # True = valid JSON; None = not tried yet
        self._events.added(self._item("in_progress", ""))

    @property
    def arguments(self) -> str:
        return "".join(self._arguments)

    @property
    def complete(self) -> bool:
        for piece in self._arguments[self._end_looked_for :]:
            self._end.feed(piece)
        self._end_looked_for = len(self._arguments)
        if self._end.ended and self._parses is None:
            self._parses = _is_json(self.arguments)
        return self._end.ended and bool(self._parses)

    def write(self, fragment: str) -> None:
        self._arguments.append(fragment)
        self._give(self._readable(fragment))

    def end(self, status: str) -> JsonDict:
        self._give(self._rest(status))
        text = "".join(self._client_text)
        self._events.inside(self.done_event, **self._done_members(), **{self.member: text})
        item = self._item(status, text)
        self._events.done(item)
        self.closed = True
        return item

    def _readable(self, fragment: str) -> str:
        return fragment

    def _rest(self, status: str) -> str:
        """Return the rest of the text.  Clients parse the arguments, so a call without arguments gets `{}`."""
        return "{}" if status == "completed" and not self.arguments.strip() else ""

    def _done_members(self) -> JsonDict:
        return {"name": self._head["name"]}

    def _give(self, text: str) -> None:
        if text:
            self._client_text.append(text)
            self._events.inside(self.delta_event, delta=text)

    def _item(self, status: str, text: str) -> JsonDict:
        return {**self._head, **self._namespace, self.member: text, "status": status}


class CustomCallItem(CallItem):
    """Write a call of a custom tool: the client gets the one string inside the arguments."""

    type, member = "custom_tool_call", "input"
    delta_event, done_event = "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"

    def __init__(self, emit: Emit, index: int, item_id: str, *, call_id: str, name: str, tool: Tool | None) -> None:
        self._unwrapper = Unwrapper()
        super().__init__(emit, index, item_id, call_id=call_id, name=name, tool=tool)

    def _readable(self, fragment: str) -> str:
        return self._unwrapper.feed(fragment)

    def _rest(self, status: str) -> str:  # noqa: ARG002
        return self._unwrapper.finish()

    def _done_members(self) -> JsonDict:
        return {}


def _is_json(text: str) -> bool:
    try:
        json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return False
    return True

"""Turn chat deltas into the items of a Response.

Items are closed in the order in which they were opened; the closed ones are the Response's `output`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping

from app.types import JsonDict, JsonObject
from app.wire.responses.items import CallItem, CustomCallItem, Event, Item, MessageItem, ReasoningItem
from app.wire.responses.request import ResponsesRequest
from app.wire.tool_calls import Fragment, ToolCalls, fragments_in

_TEXTS = ("reasoning_content", "reasoning", "content", "refusal")


class Assembler:
    """Read deltas; `take` returns their events."""

    def __init__(self, request: ResponsesRequest, new_id: Callable[[str], str]) -> None:
        self.output: list[JsonDict] = []  # closed items
        self.problem = ""  # the reason why the reply cannot be used
        self._request = request
        self._new_id = new_id
        self._events: list[Event] = []
        self._open: deque[Item] = deque()  # closed in this order
        self._text: MessageItem | ReasoningItem | None = None  # the open one; always the last of `_open`
        self._calls = ToolCalls(lambda: new_id("call"), request.toolbox.wire_names)
        self._fragments: deque[Fragment] = deque()  # begins with the first undecided fragment
        self._call_items: dict[int, CallItem] = {}  # by the index of the call

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def read(self, delta: JsonObject, logprobs: object = None) -> None:
        """Read one delta: reasoning, then text, then calls."""
        if self._fragments and any(text_of(delta.get(name)) for name in _TEXTS):
            self._settle()
        if reasoning := text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")):
            self._reasoning().write(reasoning)
        if text := text_of(delta.get("content")):
            self._message().write("output_text", text, self._logprobs(logprobs))
        if refusal := text_of(delta.get("refusal")):
            self._message().write("refusal", refusal, [])
        calls = fragments_in(delta)
        if not calls and isinstance(delta.get("function_call"), Mapping):
            calls = [{"function": delta["function_call"]}]  # the older form, before tools
        for raw in calls:
            if isinstance(raw, Mapping) and (fragment := self._calls.read(raw)):
                self._fragments.append(fragment)
        self._write_calls()

    def finish(self, *, cut: bool = False) -> None:
        """Close everything at the end of the reply; `cut` = a limit ended it."""
        self._settle()
        if self.problem:
            return
        while self._open:
            if not cut or (len(self._open) > 1 and self._open[0].complete):
                self._close_first("completed")
            else:
                self._cut_first()

    def abandon(self) -> None:
        """Close everything after a failure."""
        self._settle()
        while self._open:
            self._cut_first()

    # --- items ---

    def _emit(self, event: Event) -> None:
        self._events.append(event)

    def _reasoning(self) -> ReasoningItem:
        if not isinstance(self._text, ReasoningItem):
            index = self._make_room()
            sealed = self._request.encrypted_reasoning
            self._text = ReasoningItem(self._emit, index, self._new_id("rs"), sealed=sealed)
            self._open.append(self._text)
        return self._text

    def _message(self) -> MessageItem:
        if not isinstance(self._text, MessageItem):
            index = self._make_room()
            self._text = MessageItem(self._emit, index, self._new_id("msg"))
            self._open.append(self._text)
        return self._text

    def _call(self, first: Fragment) -> CallItem:
        index = self._make_room()
        tool = self._request.toolbox.tool(first.name)
        members: JsonDict = {"call_id": first.id or self._new_id("call"), "name": first.name, "tool": tool}
        if tool and tool.kind == "custom":
            item: CallItem = CustomCallItem(self._emit, index, self._new_id("ctc"), **members)
        else:
            item = CallItem(self._emit, index, self._new_id("fc"), **members)
        self._open.append(item)
        return item

    def _make_room(self) -> int:
        """Close the items that must or can be closed before another item, and return its index.  An open text must
        be closed, with all items before it.  When only calls are open, the complete ones are closed.
        """
        while self._open and (self._text is not None or self._open[0].complete):
            self._close_first("completed")
        return len(self.output) + len(self._open)

    def _close_first(self, status: str) -> None:
        item = self._open.popleft()
        if item is self._text:
            self._text = None
        self.output.append(item.end(status))

    def _cut_first(self) -> None:
        """Close an incomplete item.  An incomplete custom call stays open: its input is free text, and clients run
        every call that is done, whatever its status is.  An incomplete function call is no valid JSON."""
        item = self._open[0]
        if isinstance(item, CustomCallItem) and not item.complete:
            self._open.popleft()
        else:
            self._close_first("incomplete")

    # --- calls ---

    def _settle(self) -> None:
        self._calls.settle()
        self._write_calls()

    def _write_calls(self) -> None:
        """Write the decided fragments.  The client gets a call as soon as its name is known."""
        while self._fragments and not self._fragments[0].undecided:
            self._write(self._fragments.popleft())

    def _write(self, fragment: Fragment) -> None:
        item = self._call_items.get(fragment.index)
        if item is None:
            if not fragment.name:
                if fragment.arguments.strip():
                    self.problem = "the backend sent a tool call without a name"
                return
            item = self._call_items[fragment.index] = self._call(fragment)
        if not item.closed:
            if fragment.arguments:
                item.write(fragment.arguments)
        elif fragment.arguments.strip() and not item.complete:
            self.problem = "the backend went on with a tool call after other output"

    def _logprobs(self, logprobs: object) -> list[object]:
        content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        if not self._request.logprobs or not isinstance(content, list):
            return []
        return [_finite(entry) for entry in content]


def text_of(value: object) -> str:
    """Return a text that may be a string, a list of parts, or absent."""
    if isinstance(value, list):
        return "".join(_string(part.get("text")) for part in value if isinstance(part, Mapping))
    return _string(value)


def _finite(value: object) -> object:
    """Return `value` without infinities, which some servers write and JSON does not have; OpenAI writes -9999."""
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return -9999.0 if isinstance(value, float) and not math.isfinite(value) else value


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""

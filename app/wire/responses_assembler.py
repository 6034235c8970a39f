"""Chat deltas to Response items: which item each piece of a backend's answer belongs to.

Items are closed in the order in which they were opened, so the finished ones are the Response's `output`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from app.types import JsonObject
from app.wire.responses_output import CallItem, CustomCallItem, Event, Item, MessageItem, ReasoningItem
from app.wire.responses_request import ResponsesRequest


class _Slot:
    """One call as the backend names it; the client hears of it once its name is known."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.held: list[str] = []  # arguments that came before the name
        self.item: CallItem | None = None

    @property
    def arguments(self) -> str:
        return self.item.arguments if self.item else "".join(self.held)


class Assembler:
    """Fed with deltas; `take` hands over the events they made."""

    def __init__(self, request: ResponsesRequest, new_id: Callable[[str], str]) -> None:
        self.output: list[dict[str, Any]] = []  # closed items
        self.problem = ""  # why the answer cannot be used
        self._request = request
        self._new_id = new_id
        self._events: list[Event] = []
        self._open: list[Item] = []
        self._text: MessageItem | ReasoningItem | None = None  # the open one; always the last of `_open`
        self._slots: list[_Slot] = []
        self._at: dict[int, _Slot] = {}  # the latest call at a backend's index
        self._call_ids: set[str] = set()

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def read(self, delta: JsonObject, logprobs: Any = None) -> None:
        """One delta: reasoning, then text, then calls."""
        if reasoning := text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning")):
            self._reasoning().write(reasoning)
        if text := text_of(delta.get("content")):
            self._message().write("output_text", text, self._logprobs(logprobs))
        if refusal := text_of(delta.get("refusal")):
            self._message().write("refusal", refusal, [])
        calls = delta.get("tool_calls")
        if not calls and isinstance(delta.get("function_call"), Mapping):
            calls = [{"function": delta["function_call"]}]  # the form before tools
        for fragment in calls if isinstance(calls, list) else ():
            if isinstance(fragment, Mapping):
                self._read_call(fragment)

    def finish(self, *, cut: bool = False) -> None:
        """Close everything at the end of the answer; `cut` when a limit ended it."""
        if any(slot.item is None and slot.arguments.strip() for slot in self._slots):
            self.problem = "the backend sent a tool call without a name"
            return
        for item in list(self._open):
            if not cut or (item is not self._open[-1] and item.complete):
                self._close(item, "completed")
            else:
                self._cut(item)

    def abandon(self) -> None:
        """Close everything after a failure."""
        for item in list(self._open):
            self._cut(item)

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

    def _call(self, slot: _Slot) -> CallItem:
        index = self._make_room()
        tool = self._request.toolbox.tool(slot.name)
        call_id = slot.id if slot.id and slot.id not in self._call_ids else self._new_id("call")
        self._call_ids.add(call_id)
        members: dict[str, Any] = {"call_id": call_id, "name": slot.name, "tool": tool}
        if tool and tool.kind == "custom":
            item: CallItem = CustomCallItem(self._emit, index, self._new_id("ctc"), **members)
        else:
            item = CallItem(self._emit, index, self._new_id("fc"), **members)
        self._open.append(item)
        return item

    def _make_room(self) -> int:
        """Close what must or can be closed before another item; the index of that item.

        An open text must be closed, and what was opened before it.  Of calls alone, those that are whole go.
        """
        while self._open and (self._text is not None or self._open[0].complete):
            self._close(self._open[0], "completed")
        return len(self.output) + len(self._open)

    def _close(self, item: Item, status: str) -> None:
        self._open.remove(item)
        if item is self._text:
            self._text = None
        self.output.append(item.end(status))

    def _cut(self, item: Item) -> None:
        """Close an item that more should have followed.  Half a custom call is left open: its input is free text, and
        clients run what is done, whatever its status says.  Half a function call does not parse."""
        if isinstance(item, CustomCallItem) and not item.complete:
            self._open.remove(item)
        else:
            self._close(item, "incomplete")

    # --- calls ---

    def _read_call(self, fragment: JsonObject) -> None:
        """One fragment of a call.  Its index says which call, but not every server can be believed."""
        function = fragment.get("function")
        function = function if isinstance(function, Mapping) else {}
        call_id, name = _string(fragment.get("id")), _string(function.get("name"))
        index = fragment.get("index")
        index = index if isinstance(index, int) else None
        arguments = arguments_of(function.get("arguments"))
        if not (call_id or name or arguments):
            return
        slot = self._find(index, call_id, name, arguments)
        if slot is None:
            slot = _Slot()
            self._slots.append(slot)
        if index is not None:
            self._at[index] = slot
        slot.id, slot.name = slot.id or call_id, slot.name or name
        self._write(slot, arguments)

    def _find(self, index: int | None, call_id: str, name: str, arguments: str) -> _Slot | None:
        """The call that a fragment continues, or None when it begins one."""
        last = self._slots[-1] if self._slots else None
        here = last if index is None else self._at.get(index)
        known = next((slot for slot in reversed(self._slots) if call_id and slot.id == call_id), None)
        if not name:  # the first fragment of a call names it, so this is a later one
            return known or here or (None if call_id and index is not None else last)
        if here is not None and not here.name and (not here.id or call_id in ("", here.id)):
            return here
        slot = known if call_id else here
        return slot if slot is not None and _continues(slot, call_id, name, arguments) else None

    def _write(self, slot: _Slot, arguments: str) -> None:
        if slot.item is None:
            if not slot.name:
                slot.held.append(arguments)
                return
            arguments = "".join(slot.held) + arguments
            slot.item = self._call(slot)
        if not slot.item.closed:
            if arguments:
                slot.item.write(arguments)
        elif arguments.strip() and not slot.item.complete:
            self.problem = "the backend went on with a tool call after other output"

    def _logprobs(self, logprobs: Any) -> list[Any]:
        content = logprobs.get("content") if isinstance(logprobs, Mapping) else None
        return _finite(content) if self._request.logprobs and isinstance(content, list) else []


def text_of(value: Any) -> str:
    """Text that may come as a string, as parts, or not at all."""
    if isinstance(value, list):
        return "".join(_string(part.get("text")) for part in value if isinstance(part, Mapping))
    return _string(value)


def arguments_of(value: Any) -> str:
    """Arguments as a string, whether the backend sent one or an object."""
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)


def _finite(value: Any) -> Any:
    """`value` without infinities, which some servers write and JSON does not have; -9999 is OpenAI's sign for them."""
    if isinstance(value, list):
        return [_finite(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _finite(entry) for name, entry in value.items()}
    return -9999.0 if isinstance(value, float) and not math.isfinite(value) else value


def _string(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _continues(slot: _Slot, call_id: str, name: str, arguments: str) -> bool:
    """Whether a fragment that carries a name belongs to `slot`: some servers repeat the name in every fragment."""
    if name != slot.name:
        return call_id == slot.id != "" and not slot.arguments
    return not (arguments.strip() and slot.item is not None and slot.item.complete)

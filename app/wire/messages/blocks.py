"""Turn chat deltas into the content blocks of a message, one after the other: a block ends before the next begins."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from app.types import JsonDict, JsonObject
from app.wire.json_end import JsonEnd
from app.wire.reasoning import seal_reasoning
from app.wire.responses.assembler import text_of
from app.wire.tool_calls import Fragment, ToolCalls, fragments_in

Event = JsonDict


@dataclass(slots=True)
class _Call:
    """Hold a call whose block is open, or waits until the block before it ends."""

    name: str
    id: str
    arguments: list[str] = field(default_factory=list)
    end: JsonEnd = field(default_factory=JsonEnd)
    is_object: bool = False  # the arguments begin as an object
    _has_begun: bool = False  # they hold more than white space
    _next_piece: int = 0  # the index of the piece to send

    def write(self, text: str) -> None:
        if not self._has_begun and (begin := text.lstrip()[:1]):
            self._has_begun, self.is_object = True, begin == "{"
        self.arguments.append(text)
        self.end.feed(text)

    def take(self) -> str:
        """Return the arguments that arrived since the last call of this method.  Arguments that are no object wait for
        the end, because they are sent in one."""
        if not self.is_object:
            return ""
        pieces, self._next_piece = self.arguments[self._next_piece :], len(self.arguments)
        return "".join(pieces)


class Blocks:
    """Read deltas; `take` returns their events."""

    def __init__(
        self, new_id: Callable[[str], str], names: Collection[str], *, thinks: bool, shows_thinking: bool
    ) -> None:
        """Take the names of the tools in the request.  Without `thinks`, thinking has no blocks; without
        `shows_thinking` these have no text, only the seal by which the model gets it back."""
        self.content: list[JsonDict] = []  # the blocks that have ended
        self.problem = ""  # the reason why the reply cannot be used
        self.has_calls = False
        self._new_id = new_id
        self._thinks = thinks
        self._shows_thinking = shows_thinking
        self._events: list[Event] = []
        self._kind = ""  # of the open block: text, thinking or tool_use
        self._pieces: list[str] = []  # of the open text or thinking
        self._reader = ToolCalls(lambda: new_id("toolu"), names)
        self._fragments: deque[Fragment] = deque()  # begins with the first undecided fragment
        self._calls: deque[_Call] = deque()  # the first one is open
        self._by_index: dict[int, _Call] = {}

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def read(self, delta: JsonObject) -> None:
        """Read one delta: reasoning, then text, then calls."""
        thinking = text_of(delta.get("reasoning_content")) or text_of(delta.get("reasoning"))
        if thinking and self._thinks:
            self._write("thinking", thinking)
        if text := text_of(delta.get("content")) or text_of(delta.get("refusal")):
            self._write("text", text)
        for raw in fragments_in(delta):
            if isinstance(raw, dict) and (fragment := self._reader.read(raw)):
                self._fragments.append(fragment)
        self._write_calls()

    def finish(self, *, cut: bool = False) -> None:
        """End all blocks at the end of the reply; `cut` = a limit ended it."""
        self._reader.settle(cut=cut)
        self._write_calls()
        self._end_calls()
        self._end_block()

    # --- texts ---

    def _write(self, kind: str, text: str) -> None:
        if kind != self._kind:
            self._settle_calls()
            self._end_block()
            self._begin(kind, {"thinking": "", "signature": ""} if kind == "thinking" else {"text": ""})
        self._pieces.append(text)
        if kind == "text" or self._shows_thinking:
            self._delta({"type": f"{kind}_delta", kind: text})

    def _end_block(self) -> None:
        if self._kind == "text":
            self._end({"type": "text", "text": "".join(self._pieces)})
        elif self._kind == "thinking":
            text = "".join(self._pieces)
            signature = seal_reasoning(text)
            self._delta({"type": "signature_delta", "signature": signature})
            shown = text if self._shows_thinking else ""
            self._end({"type": "thinking", "thinking": shown, "signature": signature})
        self._pieces = []

    # --- calls ---

    def _settle_calls(self) -> None:
        """End the calls before a text that follows them."""
        if self._fragments or self._calls:
            self._reader.settle()
            self._write_calls()
            self._end_calls()

    def _write_calls(self) -> None:
        while self._fragments and not self._fragments[0].undecided:
            self._write_fragment(self._fragments.popleft())

    def _write_fragment(self, fragment: Fragment) -> None:
        call = self._by_index.get(fragment.index)
        if call is None:
            if not fragment.name:
                self.problem = "the backend sent a tool call without a name" if fragment.arguments.strip() else ""
                return
            call = self._by_index[fragment.index] = _Call(fragment.name, fragment.id or self._new_id("toolu"))
            self._queue(call)
        elif call not in self._calls:
            if fragment.arguments.strip():
                self.problem = "the backend went on with a tool call after other output"
            return
        if fragment.arguments:
            call.write(fragment.arguments)
            if call is self._calls[0]:
                self._write_arguments(call.take())
        while len(self._calls) > 1 and self._calls[0].end.ended:
            self._end_call()

    def _queue(self, call: _Call) -> None:
        self.has_calls = True
        self._calls.append(call)
        if len(self._calls) == 1:
            self._end_block()
            self._begin_call(call)

    def _begin_call(self, call: _Call) -> None:
        self._begin("tool_use", {"id": call.id, "name": call.name, "input": {}})
        self._write_arguments(call.take())

    def _write_arguments(self, text: str) -> None:
        if text:
            self._delta({"type": "input_json_delta", "partial_json": text})

    def _end_calls(self) -> None:
        while self._calls:
            self._end_call()

    def _end_call(self) -> None:
        call = self._calls.popleft()
        arguments = _input(call.arguments)
        if arguments and not call.is_object:
            self._write_arguments(json.dumps(arguments))
        self._end({"type": "tool_use", "id": call.id, "name": call.name, "input": arguments})
        if self._calls:
            self._begin_call(self._calls[0])

    # --- events ---

    def _begin(self, kind: str, members: JsonObject) -> None:
        self._kind = kind
        block = {"type": kind, **members}
        self._events.append({"type": "content_block_start", "index": len(self.content), "content_block": block})

    def _delta(self, delta: JsonObject) -> None:
        self._events.append({"type": "content_block_delta", "index": len(self.content), "delta": delta})

    def _end(self, block: JsonDict) -> None:
        self._events.append({"type": "content_block_stop", "index": len(self.content)})
        self.content.append(block)
        self._kind = ""


def _input(arguments: list[str]) -> JsonDict:
    """Return the arguments of a call as an object; those that are no JSON object stand in one."""
    text = "".join(arguments)
    if text.strip() in ("", "null"):  # servers write `null` for a call without arguments
        return {}
    try:
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return {"raw": text}
    return value if isinstance(value, dict) else {"value": value}

"""Repair tool calls that a chat client could not read.  Everything else passes byte for byte.  Only whole events are
sent, because an event cannot be repaired after it was sent.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from app.errors import StreamInterrupted
from app.types import JsonDict, JsonObject
from app.wire import sse
from app.wire.tool_calls import Fragment, ToolCalls, fragments_in, is_sound, numbered, repaired

_CALLS = re.compile(rb'"tool_calls"\s*+:\s*+[\[{]\s*+[^\s\]}]')  # but no empty list
# A piece of arguments as most servers send it: it needs no parsing to see that it is correct.
_ARGUMENTS = re.compile(
    rb'"tool_calls"\s*+:\s*+\[\s*+\{\s*+"index"\s*+:\s*+(\d{1,9})\s*+,(?:\s*+"type"\s*+:\s*+"function"\s*+,)?\s*+"function"'
    rb'\s*+:\s*+\{\s*+"arguments"\s*+:\s*+("(?:[^"\\]++|\\.)*+")\s*+\}\s*+\}\s*+\]',
    re.DOTALL,
)
_MOST_OPEN_BYTES = 4 * 1024 * 1024  # of an event whose end has not arrived; tool calls are much shorter
_MOST_HELD = 1000  # events that wait for the next one

NewId = Callable[[], str]


def tool_names(chat: JsonObject) -> frozenset[str]:
    """Return the names of the functions that a chat body offers."""
    tools = chat.get("tools")
    functions = [tool.get("function") for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    return frozenset(
        function["name"] for function in functions if isinstance(function, Mapping) and function.get("name")
    )


def repaired_stream(pieces: Iterable[bytes], names: Collection[str], new_id: NewId) -> Iterator[bytes]:
    """Yield the bytes of a chat stream for a chat client.  `names` are the names of the tools in the request; `new_id`
    makes an id for a call.  Raise the error of `pieces` after all events before it were sent."""
    repair = _StreamRepair(names, new_id)
    try:
        for piece in pieces:
            if events := repair.feed(piece):
                yield events
    except StreamInterrupted:
        if events := repair.flush(broken=True):
            yield events
        raise
    if events := repair.flush():
        yield events


def repaired_document(document: JsonObject, new_id: NewId) -> JsonDict | None:
    """Return a whole chat reply with repaired tool calls; None when they are correct."""
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        message = choice.get("message") if isinstance(choice, Mapping) else None
        if isinstance(message, Mapping) and message.get("tool_calls") and _whole_calls(message, new_id) is not None:
            copied = copy.deepcopy(dict(document))
            for each in copied["choices"]:
                if isinstance(each, dict) and isinstance(each.get("message"), dict):
                    calls = _whole_calls(each["message"], new_id)
                    each["message"] |= {} if calls is None else {"tool_calls": calls}
            return copied
    return None


def _whole_calls(message: JsonObject, new_id: NewId) -> list[JsonDict] | None:
    """Return the repaired calls of a whole message; None when they are correct."""
    raw = message.get("tool_calls")
    if not raw:
        return None
    calls = ToolCalls(new_id)
    entries = numbered(message)
    fragments = [(entry, calls.read(entry)) for entry in entries]
    calls.settle(cut=True)
    if isinstance(raw, list) and len(entries) == len(raw) and all(map(_is_sound_call, raw, fragments)):
        return None
    repaired_calls = [repaired(entry, fragment) for entry, fragment in fragments if fragment is not None]
    return [{name: value for name, value in call.items() if name != "index"} for call in repaired_calls]


def _is_sound_call(raw: JsonObject, pair: tuple[JsonObject, Fragment | None]) -> bool:
    entry, fragment = pair
    return fragment is None or (is_sound(entry, fragment) and (raw.get("id") or None) == entry["id"])


class _QueuedEvent:
    """Hold an event with the fragments in it, until they are decided."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.document: JsonDict | None = None
        self.calls: list[tuple[JsonDict, list[tuple[JsonObject, Fragment]]]] = []  # by delta
        self.sound = True

    def read(self, document: JsonDict, calls_of: Callable[[object], ToolCalls]) -> None:
        self.document = document
        for choice, delta in _deltas(document):
            entries = fragments_in(delta)
            if not entries:
                continue
            self.sound = (
                self.sound and entries is delta["tool_calls"] and all(isinstance(each, dict) for each in entries)
            )
            calls = calls_of(choice.get("index"))
            read = [(entry, calls.read(entry)) for entry in entries if isinstance(entry, dict)]
            self.calls.append((delta, [(entry, fragment) for entry, fragment in read if fragment is not None]))

    def bytes(self) -> bytes:
        sound = all(is_sound(raw, fragment) for _, fragments in self.calls for raw, fragment in fragments)
        if self.document is None or (self.sound and sound):
            return self.raw
        for delta, fragments in self.calls:
            delta["tool_calls"] = [repaired(raw, fragment) for raw, fragment in fragments]
        return sse.with_data(self.raw, self.document)


class _StreamRepair:
    def __init__(self, names: Collection[str], new_id: NewId) -> None:
        self._names = names
        self._new_id = new_id
        self._calls: dict[object, ToolCalls] = {}  # by choice
        self._open = bytearray()  # the event that has no end yet
        self._queue: list[_QueuedEvent] = []

    def feed(self, piece: bytes) -> bytes:
        """Return the bytes that can be sent."""
        if self._open or not piece.endswith(b"\n\n"):
            piece = self._whole_events(piece)
        if not self._queue and (b'"tool_calls"' not in piece or self._only_goes_on(piece)):
            return piece
        return b"".join(map(self._pass, sse.with_end_marks(piece)))

    def _only_goes_on(self, piece: bytes) -> bool:
        """Return True when a piece only adds to the arguments of a call, so that it needs no parsing."""
        match = _ARGUMENTS.search(piece) if len(self._calls) == 1 else None
        if match is None or piece.count(b'"tool_calls"') > 1 or piece.count(b'"index"') > 2:
            return False
        (calls,) = self._calls.values()
        return calls.goes_on(int(match[1]), match[2])

    def flush(self, *, broken: bool = False) -> bytes:
        """Return the rest at the end of the body.  When the body is `broken`, an incomplete event is left out:
        clients would fail at its JSON, and not read the error after it."""
        rest = bytes(self._open)
        self._open.clear()
        is_cut = broken and sse.json_of(sse.data_of(rest) or b"") is None
        return self._release(cut=True) + (b"" if is_cut else rest)

    def _whole_events(self, piece: bytes) -> bytes:
        """Return the events that `piece` completes; the rest waits for the next piece."""
        offset = max(0, len(self._open) - 2)  # an end mark may be cut in two
        self._open += piece
        end = max((mark.end() for mark in sse.EVENT_END.finditer(self._open, offset)), default=0)
        if len(self._open) - end > _MOST_OPEN_BYTES:
            end = len(self._open)
        whole = bytes(self._open[:end])
        del self._open[:end]
        return whole

    def _pass(self, event: bytes) -> bytes:
        """Return the bytes that can be sent after an event has arrived."""
        data = sse.data_of(event.rstrip(b"\r\n"))
        calling = data is not None and _CALLS.search(data) is not None
        if not calling and (not self._queue or (data is None and event.startswith(b":"))):
            return event  # no event waits, or this is a comment that keeps the connection alive
        entry = _QueuedEvent(event)
        self._queue.append(entry)
        document = sse.json_of(data) if data is not None else None
        if document is not None and calling:
            entry.read(document, self._calls_of)
        if data is not None and document is None:  # `[DONE]`, and the calls were not ended by a finish reason
            return self._release(cut=True)
        waits = any(calls.undecided for calls in self._calls.values()) and len(self._queue) <= _MOST_HELD
        return b"" if waits and (document is None or _goes_on(document, calling=calling)) else self._release()

    def _release(self, *, cut: bool = False) -> bytes:
        for calls in self._calls.values():
            calls.settle(cut=cut)
        events = b"".join(each.bytes() for each in self._queue)
        self._queue.clear()
        return events

    def _calls_of(self, choice: object) -> ToolCalls:
        key = choice if type(choice) is int else 0
        return self._calls.setdefault(key, ToolCalls(self._new_id, self._names))


def _deltas(document: JsonObject) -> Iterator[tuple[JsonDict, JsonDict]]:
    choices = document.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if isinstance(choice, dict) and isinstance(choice.get("delta"), dict):
            yield choice, choice["delta"]


def _goes_on(document: JsonObject, *, calling: bool) -> bool:
    """Return True when calls may continue after an event: it ends no choice, and has text only together with calls."""
    return isinstance(document.get("choices"), list) and not any(
        choice.get("finish_reason") or (not calling and any(value for name, value in delta.items() if name != "role"))
        for choice, delta in _deltas(document)
    )

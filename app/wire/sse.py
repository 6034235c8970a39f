"""Server-sent events, as far as chat and Responses streams use them: an incremental splitter and two writers.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.  Lines end in LF or CRLF.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # one may stand at the beginning of a stream
_decode = json.JSONDecoder(parse_constant=lambda _: None).decode  # NaN is no JSON: nobody could read it if sent on
_EVENT_END = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")


class Splitter:
    """Cuts a byte stream into events, however the bytes were cut on the way.  Linear in what is fed.

    An event longer than `max_event_bytes` is left out and counted in `oversized`, so that memory is bounded.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._open = bytearray()  # the event that has no end yet
        self._skipping = False  # the open event is too long: its bytes are not kept
        self._max = max_event_bytes
        self.oversized = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The events that `chunk` completes, without their end marks."""
        seen = max(0, len(self._open) - 2)  # an end mark may be cut in two
        self._open += chunk
        ends = [end.span() for end in _EVENT_END.finditer(self._open, seen)]
        events: list[bytes] = []
        begin = 0
        for start, end in ends:
            self._close(bytes(self._open[begin:start]), events)
            begin = end
        del self._open[:begin]
        if len(self._open) > self._max:
            self._skipping = True
            del self._open[:-2]
        return events

    def flush(self) -> list[bytes]:
        """The open event at the end of the body, when its end mark is missing."""
        events: list[bytes] = []
        self._close(bytes(self._open), events)
        self._open.clear()
        return events

    def _close(self, event: bytes, events: list[bytes]) -> None:
        if self._skipping or len(event) > self._max:
            self.oversized += 1
            self._skipping = False
        elif event := event.strip(b"\r\n").removeprefix(_BYTE_ORDER_MARK):
            events.append(event)


def data_of(event: bytes) -> bytes | None:
    """The joined `data:` lines of an event, or None when it has none (a comment, an id)."""
    if event.startswith(b"data:") and b"\n" not in event:
        return event[6:] if event[5:6] == b" " else event[5:]
    lines = [line for line in _LINE_END.split(event) if line.startswith(b"data:")]
    if not lines:
        return None
    return b"\n".join(line[6:] if line[5:6] == b" " else line[5:] for line in lines)


def json_of(data: bytes) -> dict[str, Any] | None:
    """The JSON object in an event's data, or None when there is none (`[DONE]`, garbage).  NaN counts as null."""
    try:
        document = _decode(data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def event(document: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event as bytes, with an `event:` line when it is named."""
    head = f"event: {name}\n" if name else ""
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return f"{head}data: {data}\n\n".encode("utf-8", "backslashreplace")  # a lone surrogate leaves as its JSON escape

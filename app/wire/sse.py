"""Server-sent events, as far as chat and Responses streams use them: an incremental splitter and two writers.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.  Lines end in LF, CRLF or CR.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"

_EVENT_END = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Splitter:
    """Cuts a byte stream into events, however the bytes were cut on the way.

    An event longer than `max_event_bytes` is dropped (its bytes are not kept), so that memory is bounded;
    `oversized` then counts it.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._parts: list[bytes] = []  # what has come of the open event
        self._size = 0
        self._tail = b""  # the last bytes of the open event: an end mark may be cut in two
        self._skipping = False
        self._max = max_event_bytes
        self.oversized = 0

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Yields the bytes of each event that `chunk` completes, without its end mark.  Linear in what is fed."""
        joined = self._tail + chunk
        begin, done = len(self._tail), 0
        for end in _EVENT_END.finditer(joined):
            if end.end() == len(joined) and joined.endswith(b"\r") and not end.group().startswith(b"\r\n"):
                continue  # "\r\r" at the very end may be the first half of "\r\r\n"
            yield from self._close(joined[max(done, begin) : end.start()] if end.start() > begin else b"", end.start() - begin)
            done = begin = end.end()
        rest = joined[max(done, begin) :] if done else chunk
        self._keep(rest)
        self._tail = (joined[done:] if done else joined)[-3:]

    def flush(self) -> Iterator[bytes]:
        """The open event at the end of the body, if the end mark is missing."""
        yield from self._close(b"", 0)
        self._tail = b""

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max:
            self._parts, self._skipping = [], True
        elif piece:
            self._parts.append(piece)

    def _close(self, piece: bytes, cut: int) -> Iterator[bytes]:
        self._keep(piece)
        event, skipped = b"".join(self._parts), self._skipping
        if cut < 0:  # the end mark began in an earlier chunk
            event = event[:cut]
        self._parts, self._size, self._skipping = [], 0, False
        if skipped:
            self.oversized += 1
        elif event.strip(b"\r\n"):
            yield event.strip(b"\r\n")


def data_of(event: bytes) -> bytes | None:
    """The joined `data:` lines of an event, or None when it has none (a comment, an id)."""
    if event.startswith(b"data:") and b"\n" not in event and b"\r" not in event:
        return event[6:] if event[5:6] == b" " else event[5:]
    lines = [line for line in _LINE_END.split(event) if line.startswith(b"data:")]
    if not lines:
        return None
    return b"\n".join(line[6:] if line[5:6] == b" " else line[5:] for line in lines)


def json_of(data: bytes) -> dict[str, Any] | None:
    """The JSON object in an event's data, or None when there is none (`[DONE]`, garbage)."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def event(document: Mapping[str, Any], name: str | None = None) -> bytes:
    """One event as bytes, with an `event:` line when it is named."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(document, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "backslashreplace")

"""Server-sent events, as far as chat and Responses streams use them: an incremental splitter and two writers.

Format: https://html.spec.whatwg.org/multipage/server-sent-events.html.  Lines end in LF or CRLF.
"""

from __future__ import annotations

import json
import re

from app.types import JsonDict, JsonObject

DONE = b"data: [DONE]\n\n"
# A comment without an empty line after it: some clients take the empty line for an empty event, and fail
# (https://github.com/openai/openai-go/issues/621, https://github.com/openai/openai-python/issues/2722).
KEEP_ALIVE = b": keep-alive\n"

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # allowed at the beginning of a stream
_decode = json.JSONDecoder(parse_constant=lambda _: None).decode  # NaN is no JSON: clients could not read it
EVENT_END = re.compile(rb"\n\r?\n")
_LINE_END = re.compile(rb"\r?\n")


class Splitter:
    """Split a byte stream into events; a piece may end anywhere.  The work is linear in the bytes.

    An event longer than `max_event_bytes` is left out and counted in `oversized`, so that memory is bounded.
    """

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._open = bytearray()  # the event whose end has not arrived
        self._skipping = False  # the open event is too long: its bytes are dropped
        self._max = max_event_bytes
        self.oversized = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Return the events that `piece` completes, without their end marks."""
        if not self._open and len(piece) <= self._max and _is_one_event(piece):
            return [piece[:-2]]
        offset = max(0, len(self._open) - 2)  # a piece may end within an end mark
        self._open += piece
        ends = [end.span() for end in EVENT_END.finditer(self._open, offset)]
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

    @property
    def end_mark(self) -> bytes:
        """Return the bytes that end the open event; b"" when no event is open."""
        return missing_end(self._open)

    def flush(self) -> list[bytes]:
        """Return the open event at the end of the body, when its end mark is missing."""
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


def _is_one_event(piece: bytes) -> bool:
    """Return whether a piece is one whole event, as nearly every piece is."""
    return piece.startswith(b"data:") and piece.find(b"\n\n") == len(piece) - 2 and b"\r" not in piece


def is_document(first_bytes: bytes, content_type: str) -> bool:
    """Return True when a JSON or HTML document arrived instead of a stream.  The first character decides, because
    Content-Types are often wrong.  When it is not clear, the Content-Type decides.  Without a Content-Type, the body
    is a stream."""
    first = first_bytes.removeprefix(_BYTE_ORDER_MARK).lstrip()[:1]
    if first and first in b'{["<':
        return True
    if first and first in b":deir":  # a comment, or data, event, error, id, retry
        return False
    kind = content_type.lower()
    return "json" in kind or "html" in kind


def with_end_marks(raw: bytes) -> list[bytes]:
    """Return whole events, each with the mark that ends it."""
    ends = [end.end() for end in EVENT_END.finditer(raw)]
    if not ends or ends[-1] != len(raw):
        ends.append(len(raw))
    return [raw[start:end] for start, end in zip([0, *ends], ends, strict=False) if start != end]


def with_data(event: bytes, document: JsonObject) -> bytes:
    """Return an event with new data and its other lines."""
    lines = [line for line in _LINE_END.split(event) if line and not line.startswith(b"data:")]
    return b"".join(line + b"\n" for line in lines) + _written(document)


def comment(text: str) -> bytes:
    """Return a comment, as which clients read KEEP_ALIVE too."""
    return f": {text}\n".encode("utf-8", "replace")


def missing_end(tail: bytes | bytearray) -> bytes:
    """Return the line ends that are missing after `tail`, so that the next event is separate.  There must not be
    more, because some clients take an additional empty line for an empty event."""
    if not tail.strip(b"\r\n") or tail.endswith((b"\n\n", b"\n\r\n")):
        return b""
    return b"\n" if tail.endswith(b"\n") else b"\n\n"


def read(event: bytes) -> tuple[bytes, bytes | None]:
    """Return the name of an event (its `event:` line) and its joined `data:` lines; None when it has none (a comment,
    an id).

    Older versions of llama.cpp write errors as `error: {…}`, which is no field of the format: it counts as the data of
    an event of that name (https://github.com/ggml-org/llama.cpp/issues/16104).
    """
    if event.startswith(b"data:") and b"\n" not in event:
        return b"", _value(event, 5)
    name, data = b"", []
    for line in _LINE_END.split(event):
        if line.startswith(b"data:"):
            data.append(_value(line, 5))
        elif line.startswith(b"event:"):
            name = line[6:].strip()
        elif line.startswith(b"error:"):
            name = b"error"
            data.append(_value(line, 6))
    return name, b"\n".join(data) if data else None


def _value(line: bytes, colon: int) -> bytes:
    return line[colon + 1 :] if line[colon : colon + 1] == b" " else line[colon:]


def data_of(event: bytes) -> bytes | None:
    """Return the joined `data:` lines of an event; None when it has none (a comment, an id)."""
    return read(event)[1]


def json_of(data: bytes) -> JsonDict | None:
    """Return the JSON object in an event's data; None when there is none (`[DONE]`, garbage).  NaN counts as null."""
    try:
        document = _decode(data.removeprefix(_BYTE_ORDER_MARK).decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def event(document: JsonObject, name: str | None = None) -> bytes:
    """Return one event as bytes, with an `event:` line when it has a name."""
    return (f"event: {name}\n".encode() if name else b"") + _written(document)


def _written(document: JsonObject) -> bytes:
    data = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return f"data: {data}\n\n".encode("utf-8", "backslashreplace")  # a lone surrogate leaves as its JSON escape

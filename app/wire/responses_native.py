"""Responses bodies and streams of a backend that speaks the Responses API itself: passed on, and read from the side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.types import JsonObject
from app.wire import sse

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_MAX_READ_BYTES = 4 * 1024 * 1024


class ResponsesWatch:
    """The same questions that chat_stream.StreamWatch answers, asked of Responses events."""

    closing = b""  # nothing is added to a body that ends well

    def __init__(self) -> None:
        self._splitter = sse.Splitter(_MAX_READ_BYTES)
        self.begun = False
        self.done = False  # the terminal event has come
        self.finished = False
        self.error: Mapping[str, Any] | None = None
        self.input_tokens: int | None = None
        self.output_tokens: int | None = None

    @property
    def ended_well(self) -> bool:
        return self.error is None and self.done

    def feed(self, chunk: bytes) -> None:
        for event in self._splitter.feed(chunk):
            self._read(event)
        if self._splitter.oversized:
            self.begun = True

    def end(self) -> bool:
        """The body is over: reads a last event whose end mark is missing.  True when there was one."""
        events = self._splitter.flush()
        for event in events:
            self._read(event)
        return bool(events)

    def _read(self, event: bytes) -> None:
        data = sse.data_of(event)
        if data is None or data.strip() == b"[DONE]":
            return
        first, self.begun = not self.begun, True
        if not first and b'"response.' in data and not any(end.encode() in data for end in (*_ENDS, '"error"')):
            return  # only the events that can matter are parsed
        document = sse.json_of(data) or {}
        kind = document.get("type")
        if kind == "error" or (kind is None and document.get("error")):
            self.error = document if document.get("error") else {"error": document}
        elif kind in _ENDS:
            self.done = True
            response = document.get("response")
            self._end(str(kind), response if isinstance(response, Mapping) else {})

    def _end(self, kind: str, response: JsonObject) -> None:
        if kind == "response.failed" and self.error is None:
            self.error = {"error": response.get("error") or {"message": "the response failed"}}
        self.input_tokens, self.output_tokens = native_usage(response)


def native_usage(response: JsonObject) -> tuple[int | None, int | None]:
    """(input, output) tokens of a Response object."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    read, written = (
        count if type(count) is int and count >= 0 else None
        for count in (usage.get("input_tokens"), usage.get("output_tokens"))
    )
    return read, written


def response_id(event: bytes) -> str | None:
    """The id in a `response.created` event, or in any event that holds a Response."""
    document = sse.json_of(sse.data_of(event) or b"") or {}
    response = document.get("response")
    found = response.get("id") if isinstance(response, Mapping) else None
    return found if isinstance(found, str) else None

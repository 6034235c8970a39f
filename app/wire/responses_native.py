"""Responses bodies and streams of a backend that speaks the Responses API itself: passed on, and read from the side."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonObject
from app.wire import sse
from app.wire.answer_facts import of_response
from app.wire.chat import token_count
from app.wire.chat_stream import StreamWatch
from app.wire.error_document import error_in
from app.wire.responses_request import is_id

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_WORDS = (*(end.encode() for end in _ENDS), b'"error"')


class ResponsesWatch(StreamWatch):
    """The same questions, asked of Responses events.  `done`: the terminal event has come."""

    closing = b""  # nothing is added to a body that ends well

    def _read(self, event: bytes) -> None:
        name, data = sse.read(event)
        if data is None or data.strip() == b"[DONE]":
            if name == b"error":
                self._fail(event, name, b"")
            return
        first, self.begun = not self.begun, True
        if not (first or name == b"error" or b'"response.' not in data or any(word in data for word in _WORDS)):
            return  # only the events that can matter are parsed
        document = sse.json_of(data) or {}
        kind = document.get("type")
        if kind in _ENDS:
            self.done = True
            response = document.get("response")
            self._end(event, str(kind), response if isinstance(response, Mapping) else {})
        else:
            self._fail(event, name, data)

    def _fail(self, event: bytes, name: bytes, data: bytes) -> None:
        if (error := error_in(name, data)) is not None:
            self.begun = True
            self.error, self.error_event = error, event
            self.error_told = error.get("type") == "error" or bool(error.get("error"))

    def _end(self, event: bytes, kind: str, response: JsonObject) -> None:
        if kind == "response.failed" and self.error is None:
            self.error = {"error": response.get("error") or {"message": "the response failed"}}
            self.error_event, self.error_told = event, True
        self.input_tokens, self.output_tokens = native_usage(response)
        self.facts = of_response(response)


def native_usage(response: JsonObject) -> tuple[int | None, int | None]:
    """(input, output) tokens of a Response object."""
    usage = response.get("usage")
    if not isinstance(usage, Mapping):
        return None, None
    return token_count(usage.get("input_tokens")), token_count(usage.get("output_tokens"))


def response_in(event: bytes, *, ends_only: bool) -> JsonObject | None:
    """The Response that an event holds; with `ends_only` of terminal events, the others are not even parsed."""
    if ends_only and not any(end.encode() in event for end in _ENDS):
        return None
    document = sse.json_of(sse.data_of(event) or b"") or {}
    response = document.get("response")
    return response if isinstance(response, Mapping) and isinstance(response.get("id"), str) else None


def item_ids(response: JsonObject) -> tuple[str, ...]:
    """The ids of the items in a Response."""
    output = response.get("output")
    items = [item for item in output if isinstance(item, Mapping)] if isinstance(output, list) else []
    return tuple(item["id"] for item in items if is_id(item.get("id")))

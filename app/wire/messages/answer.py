"""Read the answer in a message that a backend wrote, and in the events of one.  This API tells no probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonObject
from app.wire import sse
from app.wire.answer import Answer, Collector, Deltas
from app.wire.messages.to_chat import BlockDeltas, chat_message
from app.wire.messages.watch import finish_of


def read_answer(document: JsonObject) -> Answer:
    """Return the answer in a whole message."""
    deltas = Deltas()
    deltas.read(chat_message(document))
    deltas.end(finish_of(document.get("stop_reason")))
    return deltas.answer


class MessageCollector(Collector):
    """Read the answer in a stream of message events."""

    def __init__(self) -> None:
        super().__init__()
        self._splitter = sse.Splitter()
        self._blocks = BlockDeltas()

    def _read(self, piece: bytes) -> None:
        self._read_events(self._splitter.feed(piece))

    def _read_rest(self) -> None:
        self._read_events(self._splitter.flush())

    def _read_events(self, events: list[bytes]) -> None:
        for raw in events:
            event = sse.json_of(sse.data_of(raw) or b"") or {}
            delta = event.get("delta")
            if event.get("type") == "message_delta" and isinstance(delta, Mapping):
                self._deltas.end(finish_of(delta.get("stop_reason")))
            elif output := self._blocks.of(event):
                self._deltas.read(output)

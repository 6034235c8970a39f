"""Read the answer in a message that a backend wrote, and in the events of one.  This API tells no probabilities."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonObject
from app.wire.answer import Answer, Deltas, EventCollector
from app.wire.messages.to_chat import BlockDeltas, chat_message
from app.wire.messages.watch import finish_of


def read_answer(document: JsonObject) -> Answer:
    """Return the answer in a whole message."""
    deltas = Deltas()
    deltas.read(chat_message(document))
    deltas.end(finish_of(document.get("stop_reason")))
    return deltas.answer


class MessageCollector(EventCollector):
    """Read the answer in a stream of message events."""

    def __init__(self) -> None:
        super().__init__()
        self._blocks = BlockDeltas()

    def _read_event(self, document: JsonObject) -> None:
        delta = document.get("delta")
        if document.get("type") == "message_delta" and isinstance(delta, Mapping):
            self._deltas.end(finish_of(delta.get("stop_reason")))
        elif output := self._blocks.of(document):
            self._deltas.read(output)

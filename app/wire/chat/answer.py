"""Read the answer in a chat completion, and in a stream of chat events."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonObject
from app.wire.answer import Answer, Deltas, EventCollector, logprobs_in
from app.wire.chat.reply import first_choice
from app.wire.tool_calls import numbered


def read_answer(document: JsonObject) -> Answer:
    """Return the answer in a whole reply."""
    deltas = Deltas()
    _read(document, deltas)
    return deltas.answer


class ChunkCollector(EventCollector):
    """Read the answer in a stream of chat events."""

    def _read_event(self, document: JsonObject) -> None:
        _read(document, self._deltas)


def _read(document: JsonObject, deltas: Deltas) -> None:
    """Read a chunk, or a whole reply, whose message counts as a delta."""
    choice = first_choice(document)
    delta = choice.get("delta")
    if not isinstance(delta, Mapping):
        message = choice.get("message")
        delta = {**message, "tool_calls": numbered(message)} if isinstance(message, Mapping) else {}
    logprobs = choice.get("logprobs")
    deltas.read(delta, logprobs_in(logprobs.get("content")) if isinstance(logprobs, Mapping) else ())
    deltas.end(choice.get("finish_reason"))

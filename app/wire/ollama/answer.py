"""Read the answer in a reply of /api/chat, and in a stream of its lines."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonDict, JsonObject
from app.wire.answer import Answer, Collector, logprobs_in
from app.wire.ollama.reply import finish_reason
from app.wire.ollama.stream import Lines
from app.wire.reply_facts import objects_in


def read_answer(document: JsonObject) -> Answer:
    """Return the answer in a whole reply."""
    collector = LineCollector()
    collector.read_line(document)
    return collector.answer


class LineCollector(Collector):
    """Read the answer in a stream of lines."""

    def __init__(self) -> None:
        super().__init__()
        self._lines = Lines()
        self._call_count = 0

    def read_line(self, document: JsonObject) -> None:
        message = document.get("message")
        delta = self._delta(message if isinstance(message, Mapping) else {})
        self._deltas.read(delta, logprobs_in(document.get("logprobs")))
        self._deltas.end(finish_reason(document, calls=self.has_tool_call))

    def _read(self, piece: bytes) -> None:
        for document in self._lines.feed(piece):
            self.read_line(document)

    def _read_rest(self) -> None:
        for document in self._lines.end():
            self.read_line(document)

    def _delta(self, message: JsonObject) -> JsonDict:
        """Return a message as a delta of the chat API.  Each of its calls is a whole one."""
        delta: JsonDict = {"content": message.get("content"), "reasoning": message.get("thinking")}
        calls = objects_in(message.get("tool_calls"))
        delta["tool_calls"] = [{**call, "index": self._call_count + at} for at, call in enumerate(calls)]
        self._call_count += len(calls)
        return delta

"""Read the answer in a Response that a backend wrote, and in the events of one."""

from __future__ import annotations

from collections.abc import Mapping

from app.types import JsonDict, JsonObject
from app.wire.answer import Answer, Deltas, EventCollector, logprobs_in
from app.wire.reply_facts import objects_in

_ENDS = ("response.completed", "response.incomplete", "response.failed")
_PARTS = {"output_text": ("content", "text"), "refusal": ("refusal", "refusal")}  # type -> member of a delta, its text
_CALLS = {"function_call": ("function", "arguments"), "custom_tool_call": ("custom", "input")}
_TEXTS = {  # event -> member of a delta
    "response.output_text.delta": "content",
    "response.refusal.delta": "refusal",
    "response.reasoning_text.delta": "reasoning_content",
    "response.reasoning_summary_text.delta": "reasoning_content",
}
_ARGUMENTS = {
    "response.function_call_arguments.delta": _CALLS["function_call"],
    "response.custom_tool_call_input.delta": _CALLS["custom_tool_call"],
}


def read_answer(response: JsonObject) -> Answer:
    """Return the answer in a whole Response."""
    return _deltas_of(response).answer


class ResponseCollector(EventCollector):
    """Read the answer in a stream of Responses events.  The last event repeats all output."""

    def _read_event(self, document: JsonObject) -> None:
        kind = document.get("type")
        if not isinstance(kind, str):
            return
        item, response, delta, index = (document.get(name) for name in ("item", "response", "delta", "output_index"))
        if kind in _TEXTS:
            self._deltas.read({_TEXTS[kind]: delta}, logprobs_in(document.get("logprobs")))
        elif kind in _ARGUMENTS:
            member, text = _ARGUMENTS[kind]
            self._deltas.read({"tool_calls": [{"index": index, member: {text: delta}}]})
        elif kind == "response.output_item.added" and isinstance(item, Mapping):
            _read_call(item, index, self._deltas)
        elif kind in _ENDS and isinstance(response, Mapping):
            if objects_in(response.get("output")):
                self._deltas = _deltas_of(response)
            else:
                _read_end(response, self._deltas)


def _deltas_of(response: JsonObject) -> Deltas:
    deltas = Deltas()
    for index, item in enumerate(objects_in(response.get("output"))):
        if item.get("type") == "message":
            for part in objects_in(item.get("content")):
                _read_part(part, deltas)
        elif item.get("type") == "reasoning":
            for part in (*objects_in(item.get("summary")), *objects_in(item.get("content"))):
                deltas.read({"reasoning_content": part.get("text")})
        else:
            _read_call(item, index, deltas)
    _read_end(response, deltas)
    return deltas


def _read_part(part: JsonObject, deltas: Deltas) -> None:
    kind = part.get("type")
    if isinstance(kind, str) and kind in _PARTS:
        member, text = _PARTS[kind]
        deltas.read({member: part.get(text)}, logprobs_in(part.get("logprobs")))


def _read_call(item: JsonObject, index: object, deltas: Deltas) -> None:
    """Read an item that is a call of a function or a custom tool; hosted tools run at the server."""
    kind = item.get("type")
    if isinstance(kind, str) and kind in _CALLS:
        member, text = _CALLS[kind]
        call: JsonDict = {"name": item.get("name"), text: item.get(text)}
        deltas.read({"tool_calls": [{"index": index, "id": item.get("call_id"), member: call}]})


def _read_end(response: JsonObject, deltas: Deltas) -> None:
    details = response.get("incomplete_details")
    if response.get("status") == "completed":
        deltas.end("tool_calls" if deltas.has_tool_call else "stop")
    elif isinstance(details, Mapping):
        deltas.end(details.get("reason"))

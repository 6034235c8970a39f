"""The Responses API over any chat backend: the request as chat, a chat answer as a Response.

request = parse(document)
body = ResponsesBody(request, history, stored)   # what the pipeline runs
response = from_chat(answer, request, …)         # or responses_stream.EventStream for a stream
items = kept_items(body.input, new_id)           # for the store, beside response["output"]
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from app.errors import BackendProtocol, RequestError
from app.types import Dialect, JsonObject
from app.wire import finish
from app.wire.chat import JsonBody
from app.wire.responses_assembler import Assembler
from app.wire.responses_messages import to_messages
from app.wire.responses_object import message_of, response_object, usage_object
from app.wire.responses_request import LEADS_TO_STORED, ResponsesRequest, is_id, item_type, parse

__all__ = [
    "ResponsesBody",
    "ResponsesRequest",
    "from_chat",
    "input_list",
    "kept_items",
    "output_text",
    "parse",
]


class ResponsesBody:
    """A Responses request as a Body: chat, written for whichever backend is tried."""

    def __init__(
        self,
        request: ResponsesRequest,
        history: Sequence[JsonObject] = (),
        stored: Mapping[str, JsonObject] | None = None,
        received: JsonBody | None = None,
        *,
        kept_elsewhere: bool = False,
    ) -> None:
        """`received` is the body as it came, for backends that speak this API themselves; `history` holds the items of
        the chain that is continued, `stored` those that `request.references` names.  With `kept_elsewhere` a backend
        goes on with what it keeps, and may know the other references.  Raises RequestError for what has no chat form,
        before anything is sent."""
        known = {str(item["id"]) for item in history if item.get("id")}
        self._request = request
        self._history = tuple(history)
        self._stored = dict(stored or {})
        self._received = received
        self.input = _resolved(request.input, self._stored, known, kept_elsewhere)  # what is new, references resolved
        self._items = [*history, *self.input]
        self._dialect = Dialect()
        self._chat = self._translated = self._in(self._dialect)  # for the classifier; for the target tried last
        if not self._chat["messages"] and not request.previous_response_id and not kept_elsewhere:
            raise RequestError("input holds nothing that a model could read.", param="input")

    @property
    def chat(self) -> JsonObject:
        return self._chat

    @property
    def original(self) -> Any:
        if self._received is None:
            return {"instructions": self._request.instructions, "items": self._items, "echo": self._request.echo}
        # Native backends get every member.
        return [self._received.pairs(), *self._history, *self._stored.values()]

    def translate(self, dialect: Dialect) -> None:
        if dialect != self._dialect:
            self._dialect, self._translated = dialect, self._in(dialect)

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        self.translate(dialect)
        chat = {**self._translated, "model": model}
        if stream:
            chat |= {"stream": True, "stream_options": {"include_usage": True}}
        text = json.dumps(chat, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")  # a lone surrogate leaves as its JSON escape

    def native(self, model: str, *, stream: bool) -> bytes | None:
        """The client's own bytes with `model` replaced; with what we keep put in, since only we know its ids."""
        if self._received is None:
            return None
        received = self._received
        members = {
            name: received.raw(name) if name in received.document else "null"
            for name in LEADS_TO_STORED
            if not received.is_read_in_one_way(name)
        }
        members["model"] = json.dumps(model)
        if self._request.stream and not stream:
            members["stream"] = "false"
        if self._history or self._stored:
            members["input"] = json.dumps([*_foreign(self._history), *self._foreign_input()])
        if self._history:
            members["previous_response_id"] = "null"
        return received.with_members(members)

    def _foreign_input(self) -> Iterator[JsonObject]:
        for item in self.input:
            ours = self._stored.get(str(item.get("id"))) is item
            yield from _foreign([item]) if ours else [item]

    def _in(self, dialect: Dialect) -> dict[str, Any]:
        request = self._request
        chat: dict[str, Any] = {
            "model": request.model,
            "messages": to_messages(request.instructions, self._items, request.toolbox, dialect),
            **request.sampling,
            **request.toolbox.members(),
        }
        if request.max_output_tokens is not None:
            chat[dialect.max_tokens_field] = request.max_output_tokens
        if request.effort is not None:
            chat["reasoning_effort"] = dialect.efforts.get(request.effort, request.effort)
        if request.verbosity is not None and dialect.verbosity:
            chat["verbosity"] = request.verbosity
        if request.logprobs:
            chat["logprobs"] = True
            if request.top_logprobs:
                chat["top_logprobs"] = request.top_logprobs
        if request.text_format["type"] == "json_object":
            chat["response_format"] = {"type": "json_object"}
        elif request.text_format["type"] == "json_schema":
            chat["response_format"] = _response_format(request.text_format, dialect)
        return chat


def _response_format(wanted: JsonObject, dialect: Dialect) -> dict[str, Any]:
    if not dialect.json_schema:
        return {"type": "json_object", "schema": wanted.get("schema")}
    schema = {name: value for name, value in wanted.items() if value is not None and name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def from_chat(
    chat: JsonObject,
    request: ResponsesRequest,
    *,
    response_id: str,
    created_at: int,
    completed_at: int,
    model: str,
    new_id: Callable[[str], str],
) -> dict[str, Any]:
    """The Response for a whole chat answer; BackendProtocol when it holds none."""
    answer = message_of(chat)
    if answer is None:
        raise BackendProtocol("The backend's answer holds no message.")
    choice, message = answer
    if given_up := finish.failure_in(chat):
        raise BackendProtocol(f"The backend gave its answer up (finish_reason {given_up[:40]!r}).")
    reason = finish.cut_of(finish.reason_of(choice.get("finish_reason")))
    items = Assembler(request, new_id)  # a whole answer is a stream of one delta
    items.read(message, choice.get("logprobs"))
    items.finish(cut=reason is not None)
    if items.problem:
        raise BackendProtocol(f"The answer cannot be used: {items.problem}.")
    response = response_object(
        request,
        response_id=response_id,
        created_at=created_at,
        completed_at=completed_at,
        model=model,
        status="incomplete" if reason else "completed",
        reason=reason,
        output=items.output,
        usage=usage_object(chat.get("usage")),
    )
    return {**response, "output_text": output_text(response)}


def output_text(response: JsonObject) -> str:
    """All that the model said to the user, as one string."""
    parts = [part for item in response["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(part["text"] for part in parts if part["type"] == "output_text")


# --- for the store -------------------------------------------------------------------------------

_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
}


def kept_items(items: Sequence[JsonObject], new_id: Callable[[str], str]) -> list[dict[str, Any]]:
    """Input items as they are kept for a continuation, every one with a type and an id that can be referred to."""
    kept = []
    for item in items:
        kind, name = item_type(item), item.get("id")
        kept.append({**item, "type": kind, "id": name if is_id(name) else new_id(_ID_PREFIXES.get(kind, "item"))})
    return kept


def input_list(items: Sequence[JsonObject]) -> dict[str, Any]:
    """The answer of GET /v1/responses/{id}/input_items: newest first."""
    data = [_shown(item) for item in reversed(items)]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": False,
    }


def _shown(item: JsonObject) -> dict[str, Any]:
    """An item as the published list shows it: content as parts, and a status."""
    shown = dict(item)
    if item["type"] != "reasoning":
        shown["status"] = item.get("status") or "completed"
    if item["type"] == "message" and isinstance(item.get("content"), str):
        spoken = item["role"] == "assistant"
        part = {"type": "output_text", "annotations": []} if spoken else {"type": "input_text"}
        shown["content"] = [{**part, "text": item["content"]}]
    return shown


def _foreign(items: Sequence[JsonObject]) -> list[dict[str, Any]]:
    """Items of ours for a backend that keeps items itself: it knows neither our ids nor our reasoning."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "status")}
        for item in items
        if item_type(item) != "reasoning"
    ]


def _resolved(
    items: Sequence[JsonObject], stored: Mapping[str, JsonObject], known: Collection[str], kept_elsewhere: bool
) -> list[JsonObject]:
    """`items` with every reference replaced by what it refers to; what the chain holds is not said twice, and what
    is kept elsewhere stays a reference."""
    resolved = []
    for item in items:
        if item_type(item) != "item_reference":
            resolved.append(item)
        elif item["id"] in known:
            continue
        elif found := stored.get(item["id"]):
            resolved.append(found)
        elif kept_elsewhere:
            resolved.append(item)
        else:
            raise RequestError(f"No stored item has the id {item['id']!r}.", param="input", code="item_not_found")
    return resolved

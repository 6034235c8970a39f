"""Write a Responses request as chat, or in its own form, for the backend that is tried."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import ClassVar

from app.errors import RequestError
from app.types import Dialect, JsonDict, JsonObject, Wire
from app.wire.json_body import JsonBody
from app.wire.responses.messages import to_messages
from app.wire.responses.request import LEADS_TO_STORED, ResponsesRequest, item_type
from app.wire.translated_body import TranslatedBody


class ResponsesBody(TranslatedBody):
    """Hold a Responses request (implements types.Body)."""

    wire: ClassVar[Wire] = Wire.RESPONSES

    def __init__(
        self,
        request: ResponsesRequest,
        history: Sequence[JsonObject] = (),
        stored: Mapping[str, JsonObject] | None = None,
        received: JsonBody | None = None,
        *,
        kept_elsewhere: bool = False,
    ) -> None:
        """Take the request, and the body as it came (`received`) for backends that speak this API
        themselves.  `history` holds the items of the chain that is continued, `stored` the items that
        `request.references` names.  With `kept_elsewhere`, a backend stores the conversation, and may know the other
        references.  Raise RequestError for input that cannot be translated to chat, before any call."""
        chain_ids = {str(item["id"]) for item in history if item.get("id")}
        self.request = request
        self._history = tuple(history)
        self._stored = dict(stored or {})
        self._received = received
        # The new items, with references resolved.
        self.input = _resolved(request.input, self._stored, chain_ids, kept_elsewhere)
        self._items = [*history, *self.input]
        super().__init__()
        if hosted := request.toolbox.hosted:  # the classifier reads these tools, which no chat backend gets
            self._chat = {**self._chat, "hosted_tools": hosted}
        if not self._chat["messages"] and not request.previous_response_id and not kept_elsewhere:
            raise RequestError("input holds nothing that a model could read.", param="input")

    @property
    def original(self) -> object:
        if self._received is None:
            return {"instructions": self.request.instructions, "items": self._items, "echo": self.request.echo}
        # Backends of this API get every member.
        return [self._received.pairs(), *self._history, *self._stored.values()]

    def passed_on(self, model: str, *, stream: bool) -> bytes:
        """Return the client's bytes with a new `model`, and with the items that the router stores, because only the
        router knows their ids."""
        received = self._received
        assert received is not None
        members = {
            name: received.raw(name) if name in received.document else "null"
            for name in LEADS_TO_STORED
            if not received.is_read_in_one_way(name)
        }
        members["model"] = json.dumps(model)
        if self.request.stream and not stream:
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

    def _in(self, dialect: Dialect) -> JsonDict:
        request = self.request
        chat: JsonDict = {
            "model": request.model,
            "messages": to_messages(request.instructions, self._items, request.toolbox, dialect),
            **request.sampling,
            **request.toolbox.members(),
        }
        if request.max_output_tokens is not None:
            chat[dialect.max_tokens_field] = request.max_output_tokens
        if request.effort is not None and dialect.loading.thinks:
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


def _response_format(text_format: JsonObject, dialect: Dialect) -> JsonDict:
    if not dialect.json_schema:
        return {"type": "json_object", "schema": text_format.get("schema")}
    schema = {name: value for name, value in text_format.items() if value is not None and name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _foreign(items: Sequence[JsonObject]) -> list[JsonDict]:
    """Return stored items for a backend that stores items itself: it knows neither the router's ids nor its
    reasoning."""
    return [
        {name: value for name, value in item.items() if name not in ("id", "status")}
        for item in items
        if item_type(item) != "reasoning"
    ]


def _resolved(
    items: Sequence[JsonObject], stored: Mapping[str, JsonObject], chain_ids: Collection[str], kept_elsewhere: bool
) -> list[JsonObject]:
    """Return `items` with every reference replaced by its item.  An item of the chain is not repeated, and a
    reference to an item that a backend stores does not change."""
    result = []
    for item in items:
        if item_type(item) != "item_reference":
            result.append(item)
        elif item["id"] in chain_ids:
            continue
        elif stored_item := stored.get(item["id"]):
            result.append(stored_item)
        elif kept_elsewhere:
            result.append(item)
        else:
            raise RequestError(f"No stored item has the id {item['id']!r}.", param="input", code="item_not_found")
    return result

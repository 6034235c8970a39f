"""Write a Messages request as chat for the backend that is tried."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import ClassVar

from app.types import Dialect, JsonDict, JsonObject, Wire
from app.wire.json_body import JsonBody
from app.wire.messages.history import to_messages
from app.wire.messages.request import BILLING, MessagesRequest, chat_members
from app.wire.messages.tools import chat_tools
from app.wire.reasoning import is_sealed
from app.wire.translated_body import TranslatedBody

_BILLING_CHARS = 200  # at the beginning of `system`, where the line for billing stands


class MessagesBody(TranslatedBody):
    """Hold a Messages request (implements types.Body)."""

    wire: ClassVar[Wire] = Wire.MESSAGES

    def __init__(self, request: MessagesRequest, received: JsonBody) -> None:
        """Take the request, and the body as it came.  Raise RequestError for content that cannot be translated, before
        any call."""
        self.request = request
        self.received = received
        super().__init__()

    @property
    def original(self) -> object:
        return self.received.pairs()

    def passed_on(self, model: str, *, stream: bool, is_vendor: bool) -> bytes:
        """Return the client's bytes with a new `model`.  Another vendor's server gets neither the name of the user nor
        the line for billing, which would void its prompt cache.  Anthropic gets no thinking of other models, whose
        signatures it would refuse."""
        fields, members = self.received.document, {"model": json.dumps(model)}
        if self.request.stream and not stream:
            members["stream"] = "false"
        if not is_vendor:
            members |= {"metadata": "null"} if "metadata" in fields else {}
            if "system" in fields and BILLING in self.received.raw("system")[:_BILLING_CHARS]:
                members["system"] = json.dumps(self.request.system, ensure_ascii=False)
        elif any(map(_has_sealed, self.request.turns)):
            members["messages"] = json.dumps([_without_sealed(turn) for turn in self.request.turns], ensure_ascii=False)
        return self.received.with_members(members)

    def _in(self, dialect: Dialect) -> JsonDict:
        request = self.request
        chat: JsonDict = {
            "model": request.model,
            "messages": to_messages(request.system, request.turns, dialect),
            **chat_members(request),
            **chat_tools(request.tools, request.choice),
        }
        if request.max_tokens is not None:
            chat[dialect.max_tokens_field] = request.max_tokens
        if request.effort is not None and dialect.loading.thinks:
            chat["reasoning_effort"] = dialect.efforts.get(request.effort, request.effort)
        if request.schema is not None:
            chat["response_format"] = _response_format(request.schema, dialect)
        return chat


def _response_format(schema: JsonObject, dialect: Dialect) -> JsonDict:
    if not dialect.json_schema:
        return {"type": "json_object", "schema": schema}
    return {"type": "json_schema", "json_schema": {"name": "reply", "schema": schema, "strict": True}}


def _is_ours(block: object) -> bool:
    return isinstance(block, Mapping) and is_sealed(block.get("signature"))


def _has_sealed(turn: JsonObject) -> bool:
    """Return True for a turn with thinking that another model than Anthropic's wrote."""
    content = turn["content"]
    return isinstance(content, list) and any(map(_is_ours, content))


def _without_sealed(turn: JsonObject) -> JsonObject:
    return (
        {**turn, "content": [block for block in turn["content"] if not _is_ours(block)]} if _has_sealed(turn) else turn
    )

"""Translate between chat clients and Ollama's own API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from app.errors import StreamInterrupted
from app.types import Body, Dialect, JsonObject, Wire
from app.wire.chat.errors import error_event
from app.wire.json_body import json_bytes
from app.wire.ollama.reply import completion
from app.wire.ollama.request import write_body
from app.wire.ollama.stream import ChatEvents, Lines
from app.wire.translator import ReplyContext


class ChatToOllama:
    """Write chat requests for /api/chat, and its replies as chat completions and chunks."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        chat = body.chat if body.wire is Wire.CHAT else json.loads(body.encode(model, dialect, stream=stream))
        return json_bytes(write_body(chat, model, dialect.loading, stream=stream))

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:  # noqa: ARG002
        return json_bytes(completion(document, context))

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        lines, events = Lines(), ChatEvents(context)
        try:
            for piece in pieces:
                for document in lines.feed(piece):
                    yield events.feed(document)
            for document in lines.end():
                yield events.feed(document)
        except StreamInterrupted as error:
            yield error_event(error)

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        yield ChatEvents(context).feed(document)

"""Translate between Messages clients and chat backends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from app.errors import BackendProtocol
from app.types import Body, Dialect, JsonObject
from app.wire.chat.reply import message_of
from app.wire.json_body import json_bytes
from app.wire.messages.body import MessagesBody
from app.wire.messages.reply import from_chat
from app.wire.messages.request import MessagesRequest
from app.wire.messages.stream import MessageStream, translate
from app.wire.translator import ReplyContext


class MessagesToChat:
    """Write requests as chat, and chat replies as messages."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        return body.encode(model, dialect, stream=stream)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:  # noqa: ARG002
        return json_bytes(from_chat(document, _request(context), context))

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        return translate(pieces, MessageStream(_request(context), context))

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        stream = MessageStream(_request(context), context)
        found = message_of(document)
        if found is None:
            yield stream.fail(BackendProtocol("The backend's answer holds no message."))
            return
        stream.done()
        yield stream.read(document, *found)
        yield stream.finish()


def _request(context: ReplyContext) -> MessagesRequest:
    assert isinstance(context.body, MessagesBody)
    return context.body.request

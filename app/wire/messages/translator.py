"""Translate between Messages clients and backends of the chat API or of the Messages API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from app.errors import BackendProtocol, StreamInterrupted
from app.types import Body, Dialect, JsonObject, Wire
from app.wire import sse
from app.wire.chat.errors import error_event as chat_error_event
from app.wire.chat.reply import message_of
from app.wire.json_body import json_bytes
from app.wire.messages.body import MessagesBody
from app.wire.messages.errors import error_event
from app.wire.messages.from_chat import write_body
from app.wire.messages.reply import from_chat
from app.wire.messages.request import MessagesRequest
from app.wire.messages.stream import MessageStream, translate, whole_as_events
from app.wire.messages.to_chat import Chunks, completion, completion_as_chunk
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
        choice_and_message = message_of(document)
        if choice_and_message is None:
            yield stream.fail(BackendProtocol("The backend's answer holds no message."))
            return
        stream.done()
        yield stream.read(document, *choice_and_message)
        yield stream.finish()


class MessagesToMessages:
    """Pass requests and replies through."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        assert isinstance(body, MessagesBody)
        return body.passed_on(model, stream=stream, is_vendor=dialect.is_anthropic)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:  # noqa: ARG002
        return body

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:  # noqa: ARG002
        splitter = sse.Splitter()
        try:
            for piece in pieces:
                splitter.feed(piece)
                yield piece
        except StreamInterrupted as error:
            if not error.error_visible:
                yield splitter.end_mark + error_event(error)

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:  # noqa: ARG002
        yield whole_as_events(document)


class ChatToMessages:
    """Write chat requests as Messages requests, and messages as chat completions and chunks."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        chat = body.chat if body.wire is Wire.CHAT else json.loads(body.encode(model, dialect, stream=stream))
        return json_bytes(write_body(chat, model, dialect.most_tokens, stream=stream))

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:  # noqa: ARG002
        return json_bytes(completion(document, context))

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        splitter, chunks = sse.Splitter(), Chunks(context)
        try:
            for piece in pieces:
                for event in splitter.feed(piece):
                    yield chunks.read(event)
            for event in splitter.flush():
                yield chunks.read(event)
        except StreamInterrupted as error:
            if not error.error_visible:
                yield chat_error_event(error)

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        yield completion_as_chunk(document, context)


def _request(context: ReplyContext) -> MessagesRequest:
    assert isinstance(context.body, MessagesBody)
    return context.body.request

"""Translate between Responses clients and backends of the chat API or of the Responses API."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

from app.errors import RouterError, StreamInterrupted
from app.types import Body, Dialect, JsonObject
from app.wire import sse
from app.wire.responses.body import ResponsesBody
from app.wire.responses.reply import from_chat
from app.wire.responses.request import ResponsesRequest
from app.wire.responses.stream import EventStream, response_in, translate
from app.wire.translator import ReplyContext


class ResponsesToChat:
    """Write requests as chat, and chat replies as Responses."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        return body.encode(model, dialect, stream=stream)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:  # noqa: ARG002
        response = from_chat(
            document,
            _request(context),
            response_id=context.reply_id,
            created_at=context.created_at,
            completed_at=int(context.clock()),
            model=context.model,
            new_id=context.new_id,
        )
        context.keep(response)
        return json.dumps(response, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        return translate(pieces, _events(context))

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        events = _events(context)
        yield from (*events.feed_document(document), *events.finish())


class ResponsesToResponses:
    """Pass requests and replies through, and store the owners of the responses that the backend stores."""

    def request(self, body: Body, model: str, dialect: Dialect, *, stream: bool) -> bytes:  # noqa: ARG002
        assert isinstance(body, ResponsesBody)
        return body.passed_on(model, stream=stream)

    def reply(self, body: bytes, document: JsonObject, context: ReplyContext) -> bytes:
        context.keep(dict(document))
        return body

    def stream(self, pieces: Iterable[bytes], context: ReplyContext) -> Iterator[bytes]:
        splitter, has_id = sse.Splitter(), False
        try:
            for piece in pieces:
                for event in splitter.feed(piece):
                    if response := response_in(event, ends_only=has_id):
                        has_id = True
                        context.keep(dict(response))  # stores its owner at once, its items at the end
                yield piece
        except StreamInterrupted as error:
            if not error.error_visible:
                yield splitter.end_mark + failed_stream(error, context)

    def reply_as_stream(self, document: JsonObject, context: ReplyContext) -> Iterator[bytes]:
        context.keep(dict(document))
        kind = f"response.{document.get('status', 'completed')}"
        yield sse.event({"type": kind, "sequence_number": 0, "response": document}, kind)


def failed_stream(error: RouterError, context: ReplyContext) -> bytes:
    """Return the end of a failed stream, with the events that must come first."""
    return b"".join(_events(context).fail(error.message, error.type, error.code, error.param))


def _request(context: ReplyContext) -> ResponsesRequest:
    assert isinstance(context.body, ResponsesBody)
    request = context.body.request
    return request if context.stored else request.unstored()


def _events(context: ReplyContext) -> EventStream:
    return EventStream(
        _request(context),
        response_id=context.reply_id,
        created_at=context.created_at,
        model=context.model,
        new_id=context.new_id,
        clock=context.clock,
        settle=context.keep,
    )

"""POST /v1/responses: the Responses API over chat backends."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator

from flask import Blueprint, Response, g
from flask import request as http

from app.errors import RequestError, RouterError
from app.types import Buffered, ChatRequest, Reply
from app.web import answers, headers
from app.wire import chat
from app.wire.responses import ResponsesBody, ResponsesRequest, from_chat, parse
from app.wire.responses_stream import EventStream, translate

blueprint = Blueprint("responses", __name__)


@blueprint.post("/v1/responses")
def responses() -> Response:
    request, asked = read_request()
    return answers.answer(request, ResponsesSurface(asked))


def read_request() -> tuple[ChatRequest, ResponsesRequest]:
    """The request as the pipeline runs it, and as it was asked.  Raises RequestError."""
    private = headers.sensitivity(http.environ)
    asked = parse(chat.read_object(headers.body(http)).document)
    if asked.previous_response_id:
        raise RequestError(
            "No such response is stored.", param="previous_response_id", code="previous_response_not_found"
        )
    request = ChatRequest(
        request_id=g.request_id,
        surface="responses",
        body=ResponsesBody(asked),
        model=asked.model,
        stream=asked.stream,
        sensitivity=private,
    )
    return request, asked


class ResponsesSurface:
    """Chat answers as Response objects and events."""

    def __init__(self, asked: ResponsesRequest) -> None:
        self._asked = asked
        self._id = _new_id("resp")
        self._created_at = int(time.time())

    def document(self, reply: Buffered) -> bytes:
        response = from_chat(
            reply.document,
            self._asked,
            response_id=self._id,
            created_at=self._created_at,
            completed_at=int(time.time()),
            model=reply.target.model,
            new_id=_new_id,
        )
        return json.dumps(response, ensure_ascii=False).encode("utf-8", "backslashreplace")

    def events(self, reply: Reply) -> Iterator[bytes]:
        stream = self._stream(reply.target.model)
        if isinstance(reply, Buffered):  # a backend that ignored `stream: true`
            yield from stream.feed_document(reply.document)
            yield from stream.finish()
        else:
            yield from translate(reply.chunks, stream)

    def failure(self, error: RouterError) -> bytes:
        stream = self._stream(self._asked.model or "auto")
        return b"".join(stream.fail(error.message, error.type, error.code, error.param))

    def _stream(self, model: str) -> EventStream:
        return EventStream(
            self._asked,
            response_id=self._id,
            created_at=self._created_at,
            model=model,
            new_id=_new_id,
            clock=time.time,
        )


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(20)}"

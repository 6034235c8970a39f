"""POST /v1/chat/completions"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Response
from flask import request as http

from app.errors import RouterError, StreamInterrupted
from app.types import Buffered, ChatRequest, Reply
from app.web import answers, errors, headers
from app.wire import sse
from app.wire.chat import request as chat
from app.wire.chat.repair import repaired_document, repaired_stream, tool_names
from app.wire.chat.reply import as_chunk

blueprint = Blueprint("chat", __name__)

_LARGE_BYTES = 32_768


@blueprint.post("/v1/chat/completions")
def chat_completions() -> Response:
    environ, rt = http.environ, answers.runtime()
    request = read_request(environ, headers.body(environ, rt.settings.max_body_bytes))
    return answers.answer(request, ChatSurface(request), rt, environ)


def read_request(environ: dict[str, Any], raw: bytes) -> ChatRequest:
    """The chat request of an HTTP request.  Raises RequestError."""
    private = headers.sensitivity(environ)
    body = chat.parse(raw)
    return ChatRequest(
        request_id=headers.request_id(environ),
        surface="chat",
        body=body,
        model=chat.model_of(body.chat),
        stream=bool(body.chat.get("stream")),
        sensitivity=private,
        large=len(raw) > _LARGE_BYTES,
    )


class ChatSurface:
    """The backend's bytes, unchanged but for tool calls that came broken."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request

    def document(self, reply: Buffered) -> bytes:
        made = repaired_document(reply.document, _new_call_id)
        return json.dumps(made, ensure_ascii=False).encode("utf-8", "backslashreplace") if made else reply.body

    def events(self, reply: Reply) -> Iterator[bytes]:
        if isinstance(reply, Buffered):  # a backend that ignored `stream: true`
            yield sse.event(as_chunk(repaired_document(reply.document, _new_call_id) or reply.document))
            yield sse.DONE
            return
        piece = b""
        try:
            for piece in repaired_stream(reply.chunks, tool_names(self._request.body.chat), _new_call_id):
                yield piece
        except StreamInterrupted as error:
            if not error.told:
                yield sse.missing_end(piece) + self.failure(error)  # the break may have come inside an event

    def failure(self, error: RouterError) -> bytes:
        return sse.event(errors.document(error))


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"

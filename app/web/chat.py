"""POST /v1/chat/completions."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator

from app.errors import RouterError, StreamInterrupted
from app.runtime import Runtime
from app.types import Buffered, ChatRequest, Environ, Reply, Wire
from app.web import headers
from app.web.openai import OpenAI, envelope
from app.wire import sse
from app.wire.chat import request as chat
from app.wire.chat.repair import repaired_document, repaired_stream, tool_names
from app.wire.chat.reply import as_chunk

_LARGE_BYTES = 32_768


class ChatSurface(OpenAI):
    """Read chat requests."""

    name = "chat"
    wire = Wire.CHAT

    def read(self, environ: Environ, body: bytes, services: Runtime) -> ChatExchange:  # noqa: ARG002
        """Return the chat request of an HTTP request.  Raise RequestError."""
        sensitivity = headers.sensitivity(environ)
        parsed = chat.parse(body)
        return ChatExchange(
            ChatRequest(
                request_id=headers.request_id(environ),
                surface=self.name,
                body=parsed,
                model=chat.model_of(parsed.chat),
                stream=bool(parsed.chat.get("stream")),
                sensitivity=sensitivity,
                large=len(body) > _LARGE_BYTES,
            )
        )


SURFACE = ChatSurface()


class ChatExchange:
    """Pass the backend's bytes on, unchanged but for tool calls that came broken."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request

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
            for piece in repaired_stream(reply.chunks, tool_names(self.request.body.chat), _new_call_id):
                yield piece
        except StreamInterrupted as error:
            if not error.told:
                yield sse.missing_end(piece) + self.failure(error)  # the break may have come inside an event

    def failure(self, error: RouterError) -> bytes:
        return sse.event(envelope(error))


def _new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"

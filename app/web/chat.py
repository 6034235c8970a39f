"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
import time

from app.errors import RouterError
from app.services import Services
from app.types import ChatRequest, Environ, Reply, Wire
from app.web import headers
from app.web.identifiers import identifiers, program, session
from app.web.openai import OpenAI
from app.web.surface import Exchange
from app.wire.chat import request as chat
from app.wire.chat.errors import error_event
from app.wire.translator import ReplyContext

_LARGE_BYTES = 32_768


class ChatSurface(OpenAI):
    """Read chat requests."""

    name = "chat"
    wire = Wire.CHAT

    def read(self, environ: Environ, body: bytes, services: Services) -> ChatExchange:  # noqa: ARG002
        """Return the chat request of an HTTP request.  Raise RequestError."""
        sensitivity, lane = headers.sensitivity(environ), headers.lane(environ)
        parsed = chat.parse(body)
        ids = identifiers(environ)
        return ChatExchange(
            ChatRequest(
                request_id=headers.request_id(environ),
                surface=self.name,
                body=parsed,
                model=chat.model_of(parsed.chat),
                stream=bool(parsed.chat.get("stream")),
                sensitivity=sensitivity,
                lane=lane,
                session=session(ids, parsed.chat.get("prompt_cache_key")),
                identifiers=ids,
                headers=program(environ),
                large=len(body) > _LARGE_BYTES,
            )
        )


SURFACE = ChatSurface()


class ChatExchange(Exchange):
    """Write replies for chat clients."""

    def failure(self, error: RouterError) -> bytes:
        return error_event(error)

    def context(self, reply: Reply) -> ReplyContext:
        return ReplyContext(body=self.request.body, model=reply.target.model, new_id=_new_id, clock=time.time)


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"

"""POST /v1/messages and POST /v1/messages/count_tokens: Anthropic's Messages API over any backend."""

from __future__ import annotations

import secrets
import time

from app.errors import RouterError
from app.routing.reading import tokens_of
from app.services import Services
from app.types import ChatRequest, Environ, Reply, Wire
from app.web import headers
from app.web.anthropic import Anthropic
from app.web.identifiers import identifiers, program, session, versions
from app.web.response import Response, json_response
from app.web.surface import Exchange
from app.web.views import Blueprint
from app.wire.json_body import read_object
from app.wire.messages.body import MessagesBody
from app.wire.messages.errors import error_event
from app.wire.messages.request import parse
from app.wire.translator import ReplyContext

blueprint = Blueprint("messages_tokens", __name__)


class MessagesSurface(Anthropic):
    """Read Messages requests."""

    name = "messages"
    wire = Wire.MESSAGES

    def read(self, environ: Environ, body: bytes, services: Services) -> MessagesExchange:  # noqa: ARG002
        """Return the Messages request of an HTTP request.  Raise RequestError."""
        sensitivity, lane = headers.sensitivity(environ), headers.lane(environ)
        received = read_object(body)
        time.sleep(0)  # let other requests run: each step takes some time with a large body
        wanted, ids = parse(received.document), identifiers(environ)
        request = ChatRequest(
            request_id=headers.request_id(environ),
            surface=self.name,
            body=MessagesBody(wanted, received),
            model=wanted.model,
            stream=wanted.stream,
            sensitivity=sensitivity,
            lane=lane,
            session=session(ids, wanted.user or None),
            identifiers=ids,
            headers=program(environ),
            versions=versions(environ),
        )
        return MessagesExchange(request)


SURFACE = MessagesSurface()


class MessagesExchange(Exchange):
    """Write replies for Messages clients."""

    def __init__(self, request: ChatRequest) -> None:
        super().__init__(request)
        self._reply_id = _new_id("msg")

    def failure(self, error: RouterError) -> bytes:
        return error_event(error)

    def context(self, reply: Reply) -> ReplyContext:
        request = self.request
        return ReplyContext(
            body=request.body,
            model=reply.target.model,
            new_id=_new_id,
            clock=time.time,
            reply_id=self._reply_id,
            input_tokens=tokens_of(request.body.chat) if request.stream else 0,
        )


@blueprint.view("POST", "/v1/messages/count_tokens")
def count_tokens(environ: Environ, services: Services) -> Response:
    """Return the router's estimate, without a call to a backend."""
    received = read_object(headers.body(environ, services.settings.max_body_bytes))
    body = MessagesBody(parse(received.document, counts=True), received)
    response = json_response({"input_tokens": tokens_of(body.chat)})
    response.headers += [("X-LLR-Request-Id", headers.request_id(environ))]
    return response


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"

"""POST /v1/route: what would happen to a chat or Responses request.  Calls nothing."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, g, jsonify
from flask import request as http

from app import pipeline
from app.errors import RequestError
from app.routing.explain import explanation
from app.types import ChatRequest
from app.web import headers
from app.web.answers import runtime
from app.wire import chat
from app.wire.responses import ResponsesBody, parse

blueprint = Blueprint("explain", __name__)


@blueprint.post("/v1/route")
def route() -> Response:
    private = headers.sensitivity(http.environ)
    request = _read(headers.body(http), private)
    answer = jsonify(explanation(*pipeline.explain(request, runtime())))
    answer.headers["X-LLR-Request-Id"] = request.request_id
    return answer


def _read(raw: bytes, private: str) -> ChatRequest:
    """A chat body has `messages`, a Responses body has `input`."""
    document = chat.read_object(raw).document
    if "messages" in document:
        body: Any = chat.parse(raw)
    elif "input" in document:
        body = ResponsesBody(parse(document))
    else:
        raise RequestError("Send a chat body (`messages`) or a Responses body (`input`).", param="messages")
    return ChatRequest(
        request_id=g.request_id,
        surface="responses" if "messages" not in document else "chat",
        body=body,
        model=chat.model_of(document),
        stream=bool(document.get("stream")),
        sensitivity=private,
    )

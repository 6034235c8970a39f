"""POST /v1/route: what would happen to a chat or Responses request.  Calls nothing."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify
from flask import request as http

from app import pipeline
from app.routing.explain import explanation
from app.web import chat, headers, responses
from app.web.answers import runtime
from app.wire.json_body import read_object

blueprint = Blueprint("explain", __name__)


@blueprint.post("/v1/route")
def route() -> Response:
    """Takes a Responses body (it has `input`, or goes on from a response), or a chat body."""
    environ, rt = http.environ, runtime()
    raw = headers.body(environ, rt.settings.max_body_bytes)
    asked = read_object(raw).document
    is_chat = "messages" in asked or not {"input", "previous_response_id"} & asked.keys()
    request = chat.read_request(environ, raw) if is_chat else responses.read_request(rt, environ, raw)[0]
    evidence, decision, outlook = pipeline.explain(request, rt)
    answer = jsonify(explanation(evidence, decision, outlook))
    answer.headers["X-LLR-Request-Id"] = request.request_id
    answer.headers.update(headers.reason_headers(decision.private_because, pin_refused=decision.pin_refused))
    return answer

"""POST /v1/route: a dry run of a chat or Responses request.  It calls no backend."""

from __future__ import annotations

from app.dry_run import dry_run
from app.routing.explain import explanation
from app.services import Services
from app.types import Environ
from app.web import chat, headers, responses
from app.web.identifiers import returned
from app.web.response import Response, json_response
from app.web.views import Blueprint
from app.wire.json_body import read_object

blueprint = Blueprint("explain", __name__)


@blueprint.view("POST", "/v1/route")
def route(environ: Environ, services: Services) -> Response:
    """Read a Responses body, which has `input` or continues a response, or else a chat body."""
    body = headers.body(environ, services.settings.max_body_bytes)
    members = read_object(body).document.keys()
    is_chat = "messages" in members or not {"input", "previous_response_id"} & members
    surface = chat.SURFACE if is_chat else responses.SURFACE
    request = surface.read(environ, body, services).request
    evidence, decision, calls = dry_run(request, services)
    response = json_response({"lane": evidence.tags.purpose, **explanation(evidence, decision, calls)})
    reasons = headers.reason_headers(decision.private_because, pin_refused=decision.pin_refused)
    response.headers += {"X-LLR-Request-Id": request.request_id, **returned(environ), **reasons}.items()
    return response

"""POST /v1/route: a dry run of a request of any surface.  It calls no backend."""

from __future__ import annotations

from collections.abc import Collection

from app.dry_run import dry_run
from app.routing.explain import explanation
from app.services import Services
from app.types import Environ
from app.web import chat, headers, messages, responses
from app.web.anthropic import VERSION
from app.web.identifiers import returned
from app.web.response import Response, json_response
from app.web.surface import Surface
from app.web.views import Blueprint
from app.wire.json_body import read_object

blueprint = Blueprint("explain", __name__)
_OF_MESSAGES = frozenset(("system", "stop_sequences", "thinking", "output_config", "anthropic_version"))
_OF_RESPONSES = frozenset(("input", "previous_response_id"))


@blueprint.view("POST", "/v1/route")
def route(environ: Environ, services: Services) -> Response:
    """Read the body of any surface."""
    body = headers.body(environ, services.settings.max_body_bytes)
    members = read_object(body).document.keys()
    request = _surface(environ, members).read(environ, body, services).request
    evidence, decision, calls = dry_run(request, services)
    response = json_response({"lane": evidence.tags.purpose, **explanation(evidence, decision, calls)})
    reasons = headers.reason_headers(decision.private_because, pin_refused=decision.pin_refused)
    response.headers += {"X-LLR-Request-Id": request.request_id, **returned(environ), **reasons}.items()
    return response


def _surface(environ: Environ, members: Collection[str]) -> Surface:
    """Return the surface that a body belongs to: by Anthropic's header, or by members that only one API has."""
    if VERSION in environ or not _OF_MESSAGES.isdisjoint(members):
        return messages.SURFACE
    is_chat = "messages" in members or _OF_RESPONSES.isdisjoint(members)
    return chat.SURFACE if is_chat else responses.SURFACE

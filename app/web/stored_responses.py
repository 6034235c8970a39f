"""GET and DELETE /v1/responses/{id}, GET /v1/responses/{id}/input_items: stored responses."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import quote

from app.conversations import Turn
from app.errors import NotFound, RouterError
from app.services import Services
from app.storage import StoreError
from app.types import Buffered, Environ, Sensitivity, StoredRequest, Target, Wire
from app.web import headers, reply
from app.web.access import owner_of
from app.web.response import JSON, Response, json_response
from app.web.views import Blueprint
from app.wire.responses.stored import input_list

blueprint = Blueprint("stored_responses", __name__)
Result = TypeVar("Result")


@blueprint.view("GET", "/v1/responses/<name>")
def retrieve(environ: Environ, services: Services, name: str) -> Response:
    turn = _turn(environ, services, name)
    if turn.kept_by_backend:
        return _at_backend(environ, services, turn, "GET")
    return json_response(turn.response)


@blueprint.view("DELETE", "/v1/responses/<name>")
def delete(environ: Environ, services: Services, name: str) -> Response:
    turn = _turn(environ, services, name)
    if turn.kept_by_backend:
        return _at_backend(environ, services, turn, "DELETE", document=lambda _: _delete(services, turn))
    return Response(200, {"Content-Type": JSON}, _delete(services, turn))


@blueprint.view("GET", "/v1/responses/<name>/input_items")
def input_items(environ: Environ, services: Services, name: str) -> Response:
    turn = _turn(environ, services, name)
    if turn.kept_by_backend:
        return _at_backend(environ, services, turn, "GET", "/input_items")
    return json_response(input_list(turn.input))


def ask_store(services: Services, query: Callable[..., Result], *arguments: object) -> Result:
    """Return the result of a query about conversations.  Raise RouterError when the database cannot be read."""
    try:
        result: Result = services.state_thread.run(query, *arguments)
    except StoreError as error:
        text = f"Stored responses cannot be read now: {error}"
        raise RouterError(text, status=503, code="store_unavailable") from None
    return result


def _turn(environ: Environ, services: Services, name: str) -> Turn:
    """Return a turn of the client.  Raise NotFound when there is none, and when it belongs to another client."""
    turn = ask_store(services, services.conversations.turn, name, owner_of(environ))
    if turn is None:
        raise NotFound(f"Response with id {name[:80]!r} not found.", code="response_not_found")
    return turn


def _delete(services: Services, turn: Turn) -> bytes:
    """Delete a stored turn, and return the document that confirms it."""
    ask_store(services, services.conversations.delete, turn.id, turn.owner)
    return json.dumps({"id": turn.id, "object": "response", "deleted": True}).encode()


def _at_backend(
    environ: Environ,
    services: Services,
    turn: Turn,
    method: str,
    below: str = "",
    document: Callable[[Buffered], bytes] = lambda answer: answer.body,
) -> Response:
    """Ask the backend that stores a response; `below` is the path after that of the response."""
    config = services.policy.backends.get(turn.backend)
    if config is None or Wire.RESPONSES not in config.wires:
        text = (
            f"The backend {turn.backend!r} keeps this response, and is no longer in the policy with responses: native."
        )
        raise NotFound(text, code="response_not_found")
    request = StoredRequest(
        request_id=headers.request_id(environ),
        method=method,
        path=f"/{quote(turn.id, safe='')}{below}",
        keeper=Target(turn.backend, turn.model, client_named=True),
        private=turn.private or headers.sensitivity(environ) == Sensitivity.HIGH,
    )
    return reply.buffered(request, document, JSON, environ, services)

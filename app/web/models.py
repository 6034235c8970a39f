"""GET /v1/models: `auto`, aliases, every backend, every model declared or discovered.  The list comes from memory,
without a call to a backend.  A model that its server runs on another host has a `remote_host`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from app.routing.locality import remote_host
from app.routing.match import unknown_model
from app.routing.names import Name, is_usable, names_of, resolve, usable
from app.services import Services
from app.types import Environ, JsonDict
from app.web.anthropic import VERSION
from app.web.response import Response, json_response
from app.web.views import Blueprint

blueprint = Blueprint("models", __name__)


@blueprint.view("GET", "/v1/models")
def models(environ: Environ, services: Services) -> Response:
    entries = list(listed(services).values())
    return json_response(_as_anthropic_list(entries) if VERSION in environ else {"object": "list", "data": entries})


@blueprint.view("GET", "/v1/models/<path:name>")
def model(environ: Environ, services: Services, name: str) -> Response:
    entry = _entry(_listed(name.strip(), services), services)
    return json_response(_as_anthropic(entry) if VERSION in environ else entry)


def listed(services: Services) -> dict[str, JsonDict]:
    """Return an entry for each name that a request may send, by its id."""
    return {name.text: _entry(name, services) for name in usable(services.policy, services.beliefs.observations())}


def _listed(text: str, services: Services) -> Name:
    """Return the listed name for the client's `text`. Raise UnknownModel."""
    observations = services.beliefs.observations()
    meaning = resolve(text, "any", services.policy, observations)
    names = names_of(services.policy, observations)
    if meaning.name is None or not names.is_listed(text) or not is_usable(meaning.name, services.policy, observations):
        raise unknown_model(text, meaning, services.policy)
    return meaning.name


def _entry(name: Name, services: Services) -> JsonDict:
    entry = {"id": name.text, "object": "model", "created": int(services.started_at), "owned_by": name.owner}
    host = remote_host(name.targets[0], services.beliefs.observations()) if name.targets else ""
    return {**entry, "remote_host": host} if host else entry


def _as_anthropic_list(entries: Sequence[JsonDict]) -> JsonDict:
    """Return the list in the form of Anthropic's API, on one page."""
    ends = (
        {"first_id": entries[0]["id"], "last_id": entries[-1]["id"]} if entries else {"first_id": None, "last_id": None}
    )
    return {"data": [_as_anthropic(entry) for entry in entries], "has_more": False, **ends}


def _as_anthropic(entry: JsonDict) -> JsonDict:
    created = datetime.fromtimestamp(entry["created"], UTC).isoformat().replace("+00:00", "Z")
    return {"type": "model", "id": entry["id"], "display_name": entry["id"], "created_at": created}

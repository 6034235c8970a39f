"""GET /v1/models: `auto`, aliases, every backend, every model declared or discovered.  From memory: no backend is
asked.  A model that its server hands on to another host has a `remote_host`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from app.routing.decide import unknown_model
from app.routing.locality import remote_host
from app.routing.names import Name, is_usable, names_of, resolve, usable
from app.runtime import Runtime
from app.web.answers import runtime

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def models() -> Response:
    return jsonify({"object": "list", "data": list(listed(runtime()).values())})


@blueprint.get("/v1/models/<path:name>")
def model(name: str) -> Response:
    return jsonify(_entry(_known(name.strip(), runtime()), runtime()))


def listed(rt: Runtime) -> dict[str, dict[str, Any]]:
    """Return an entry for each name that a request may send, by its id."""
    return {name.text: _entry(name, rt) for name in usable(rt.policy, rt.observations())}


def _known(text: str, rt: Runtime) -> Name:
    """Return what `text` names.  Raises UnknownModel."""
    seen = rt.observations()
    meaning = resolve(text, "any", rt.policy, seen)
    names = names_of(rt.policy, seen)
    if meaning.name is None or not names.is_listed(text) or not is_usable(meaning.name, rt.policy, seen):
        raise unknown_model(text, meaning, rt.policy)
    return meaning.name


def _entry(name: Name, rt: Runtime) -> dict[str, Any]:
    entry = {"id": name.text, "object": "model", "created": int(rt.started_at), "owned_by": name.owner}
    host = remote_host(name.targets[0], rt.observations()) if name.targets else ""
    return {**entry, "remote_host": host} if host else entry

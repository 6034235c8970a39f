"""GET /v1/models: `auto`, every backend, every model declared or discovered.  From memory: no backend is asked."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response, jsonify

from app.errors import NotFound
from app.runtime import Runtime
from app.web.answers import runtime

blueprint = Blueprint("models", __name__)


@blueprint.get("/v1/models")
def models() -> Response:
    return jsonify({"object": "list", "data": list(listed(runtime()).values())})


@blueprint.get("/v1/models/<path:name>")
def model(name: str) -> Response:
    entry = listed(runtime()).get(name)
    if entry is None:
        raise NotFound(f"The model {name[:80]!r} does not exist here.", param="model", code="model_not_found")
    return jsonify(entry)


def listed(rt: Runtime) -> dict[str, dict[str, Any]]:
    """Entries by id; of two with one id the first stays."""
    entries = {"auto": _entry("auto", "router", rt)}
    for name in rt.policy.backends:
        entries.setdefault(name, _entry(name, "router", rt))
    seen = rt.observations().models
    for name, config in rt.policy.backends.items():
        for held in (*config.models, *config.families.values(), *seen.get(name, ())):
            entries.setdefault(held, _entry(held, name, rt))
    return entries


def _entry(name: str, owner: str, rt: Runtime) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": int(rt.started_at), "owned_by": owner}

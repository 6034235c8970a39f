"""GET /health: this process is up.  Calls no backend, reads no database."""

from __future__ import annotations

import time

from flask import Blueprint, Response, jsonify

from app.version import VERSION
from app.web.answers import runtime

blueprint = Blueprint("health", __name__)


@blueprint.get("/health")
def health() -> Response:
    rt = runtime()
    return jsonify(
        ok=True,
        version=VERSION,
        backends=list(rt.policy.backends),
        policy=rt.policy.version,
        uptime_s=int(time.time() - rt.started_at),
        cooling=sorted(rt.health.snapshot()),
        rows_queued=rt.recorder.queued,
    )

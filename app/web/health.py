"""GET /health: a health check of this process.  It calls no backend and reads no database."""

from __future__ import annotations

import time

from app.services import Services
from app.types import Environ
from app.version import VERSION
from app.web.response import Response, json_response
from app.web.views import Blueprint

blueprint = Blueprint("health", __name__)


@blueprint.view("GET", "/health")
def health(_environ: Environ, services: Services) -> Response:
    return json_response(
        {
            "ok": True,
            "version": VERSION,
            "backends": list(services.policy.backends),
            "policy": services.policy.version,
            "uptime_s": int(time.time() - services.started_at),
            "cooling": sorted(services.circuits.unhealthy()),
            "rows_queued": services.recorder.queued,
        }
    )

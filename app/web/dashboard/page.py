"""GET /: what the router does, on one page."""

from __future__ import annotations

from flask import Blueprint, Response, render_template

from app.metrics.summary import metrics_summary
from app.storage import StoreError, now_ms
from app.version import VERSION
from app.web.answers import runtime

blueprint = Blueprint("dashboard", __name__, template_folder=".")

_CSP = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_DAY_MS = 86_400_000


@blueprint.get("/")
def dashboard() -> Response:
    rt = runtime()
    try:
        summary = metrics_summary(rt.read(rt.store.tallies, now_ms() - _DAY_MS), 24, {})
        problem = ""
    except StoreError as error:
        summary, problem = metrics_summary({}, 24, {}), str(error)
    text = render_template(
        "dashboard.html",
        summary=summary,
        problem=problem,
        version=VERSION,
        policy=rt.policy,
        states=rt.health.states(),
        local=rt.observations().local,
    )
    response = Response(text, mimetype="text/html")
    response.headers["Content-Security-Policy"] = (
        "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
    )
    response.headers["Cache-Control"] = "no-store"
    return response

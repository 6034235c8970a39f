"""GET /: the dashboard.  POST /: its forms, which sign a browser in or out, or explain a prompt.

The page is one document.  It contains its style and its script, which the Content-Security-Policy allows by their
hashes; the browser loads nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path

from flask import Blueprint, Response, current_app, redirect, render_template
from flask import request as http
from markupsafe import Markup
from werkzeug import Response as AnyResponse

from app.dry_run import dry_run
from app.errors import NotAllowed, RequestError, RouterError
from app.metrics.summary import window_hours
from app.metrics.trial import ENOUGH_SAMPLES, PROMOTE
from app.routing.explain import describe_calls, explanation
from app.storage import StoreError, now_ms
from app.types import ChatRequest, JsonDict, JsonObject, Sensitivity
from app.version import VERSION
from app.web import headers
from app.web.access import COOKIE, AccessControl
from app.web.dashboard import figures, formats, tables
from app.web.dashboard.charts import count
from app.web.models import listed
from app.web.openai import OpenAI
from app.web.views import get_services
from app.wire.chat import request as chat

blueprint = Blueprint("dashboard", __name__, template_folder=".")

_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
_COOKIE_S = 30 * 86_400
_KEY_FORM_BYTES = 4096
_FORM_BYTES = 512 * 1024  # the form with a prompt


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_CSP = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@blueprint.get("/")
def dashboard() -> AnyResponse:
    refusal = _refusal()
    return _ask_for_key(refusal) if refusal else _page({})


@blueprint.post("/")
def forms() -> AnyResponse:
    """Answer a form.  Without a key only a small form is read, because it can hold a key and nothing else."""
    refusal = _refusal()
    try:
        form = headers.form(http.environ, _KEY_FORM_BYTES if refusal else _FORM_BYTES)
    except RequestError:
        if refusal is None:
            raise
        return _ask_for_key(refusal)
    if "key" in form:
        return _sign_in(form["key"])
    if refusal is not None:
        return _ask_for_key(refusal)
    if "leave" in form:
        response = redirect("/", 303)
        response.delete_cookie(COOKIE)
        return response
    return _page(_explain(form))


def _refusal() -> NotAllowed | None:
    """Return the error for a client that may not see the page, or None."""
    try:
        _access().check_page(http, OpenAI())
    except NotAllowed as error:
        return error
    return None


def _ask_for_key(refusal: NotAllowed) -> AnyResponse:
    """Show a browser the form that asks for the key; give other clients the error."""
    if not http.accept_mimetypes.accept_html or "text/html" not in http.headers.get("Accept", ""):
        raise refusal
    return _html("login.html", 401)


def _sign_in(key: str) -> AnyResponse:
    mark = _access().mark_for(key)
    if mark is None:
        get_services().count_refusal("invalid_api_key")
        return _html("login.html", 401, is_wrong_key=True)
    response = redirect("/", 303)
    response.set_cookie(
        COOKIE, mark, max_age=_COOKIE_S, path="/", secure=http.is_secure, httponly=True, samesite="Strict"
    )
    return response


def _access() -> AccessControl:
    access: AccessControl = current_app.extensions["access"]
    return access


def _html(template: str, status: int = 200, **values: object) -> Response:
    text = render_template(template, style=Markup(_STYLE), script=Markup(_SCRIPT), **values)
    response = Response(text, status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _CSP
    response.headers["Referrer-Policy"] = "same-origin"  # with no-referrer, browsers send forms with `Origin: null`
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(preview: JsonObject) -> Response:
    services, hours, now = get_services(), window_hours(http.args.get("hours")), now_ms()
    observations = services.beliefs.observations()
    problem, workers = "", {}
    try:
        workers = services.workers()
        read = services.read(figures.gather, services.store, services.policy, observations, workers, hours, now)
    except StoreError as error:
        read, problem = figures.empty(services.policy, observations, hours), str(error)
    moments = figures.moments(read.steps, observations, hours, now)
    answers = services.beliefs.answers
    missing_keys = {name: upstream.backend.missing_key for name, upstream in services.upstreams.items()}
    return _html(
        "page.html",
        percent=formats.percent, ms=formats.ms, usd=formats.usd, count=count,
        windows=figures.WINDOWS, hours=hours, is_usual_window=hours in dict(figures.WINDOWS),
        window_words=dict(figures.WINDOWS).get(hours, f"{hours:g} hours"),
        problem=problem, summary=read.summary, total=read.summary["total"], savings=read.summary["savings"],
        tiles=tables.tiles(read.summary), ab=read.ab,
        backends=list(
            tables.backend_rows(services.policy, observations, answers, missing_keys, read.summary, workers)
        ),
        model_groups=list(tables.model_groups(read.summary["servers"])),
        routes=list(tables.route_rows(services.policy, read.summary)),
        judged=list(tables.judged_rows(read.summary["verify"])),
        charts=figures.charts(moments), moments=moments, zone=time.strftime("%Z"),
        calls=[tables.call_row(call, now) for call in read.latest],
        only_echo=services.policy.echoes == services.policy.backends.keys(),
        models=list(listed(services)), preview={"model": "auto", **preview},
        base_url=f"{http.host_url}v1", wants_key=_access().wants_key,
        enough=ENOUGH_SAMPLES, promote=PROMOTE, quality_note=tables.quality_note,
        version=VERSION, policy_version=services.policy.version, workers=max(1, len(workers)),
        queued=sum(worker.get("queued", 0) for worker in workers.values()),
    )  # fmt: skip


def _explain(form: Mapping[str, str]) -> JsonDict:
    """Make a dry run of the form's prompt, as POST /v1/route does, and return the values that the page shows."""
    values: JsonDict = {name: form.get(name, "") for name in ("prompt", "model")}
    values["private"] = "private" in form
    try:
        request = ChatRequest(
            request_id=headers.request_id(http.environ),
            surface="chat",
            body=chat.of_text(values["prompt"]),
            model=chat.model_name(values["model"]),
            stream=False,
            sensitivity=Sensitivity.HIGH if values["private"] else Sensitivity.NORMAL,
        )
        document = explanation(*dry_run(request, get_services()))
    except RouterError as error:
        return {**values, "refusal": error}
    tags = [(name, tag) for name, tag in document["classification"].items() if isinstance(tag, (str, int, float))]
    return {**values, "document": document, "tags": tags, "calls": list(describe_calls(document))}

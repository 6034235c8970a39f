"""GET /: what the router does, on one page.  POST /: its forms (a key, a prompt to try, signing out).

All of it is one document: style and script stand in it, allowed by their hashes, and nothing is loaded from anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flask import Blueprint, Response, current_app, redirect, render_template
from flask import request as http
from markupsafe import Markup
from werkzeug import Response as AnyResponse

from app.dry_run import dry_run
from app.errors import NotAllowed, RequestError, RouterError
from app.metrics.summary import window_hours
from app.metrics.trial import ENOUGH_SAMPLES, FASTER
from app.routing.expected import expected_ms
from app.routing.explain import describe_calls, explanation
from app.routing.locality import is_local
from app.routing.names import model_for
from app.runtime import Runtime
from app.storage import StoreError, now_ms
from app.types import ChatRequest, Sensitivity, Target
from app.version import VERSION
from app.web import headers
from app.web.access import COOKIE, AccessControl
from app.web.dashboard import figures
from app.web.dashboard.charts import count
from app.web.models import listed
from app.web.openai import OpenAI
from app.web.views import services
from app.wire.chat import request as chat

blueprint = Blueprint("dashboard", __name__, template_folder=".")

_HERE = Path(__file__).parent
_STYLE, _SCRIPT = ((_HERE / name).read_text("utf-8") for name in ("page.css", "page.js"))
_COOKIE_S = 30 * 86_400
_KEY_FORM_BYTES = 4096
_FORM_BYTES = 512 * 1024  # a prompt to try


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_CSP = (
    f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; img-src data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)


@blueprint.get("/")
def dashboard() -> AnyResponse:
    stranger = _stranger()
    return _ask_for_key(stranger) if stranger else _page({})


@blueprint.post("/")
def forms() -> AnyResponse:
    """Read little of a stranger's form: it can hold a key and nothing else."""
    stranger = _stranger()
    try:
        form = headers.form(http.environ, _KEY_FORM_BYTES if stranger else _FORM_BYTES)
    except RequestError:
        if stranger is None:
            raise
        return _ask_for_key(stranger)
    if "key" in form:
        return _sign_in(form["key"])
    if stranger is not None:
        return _ask_for_key(stranger)
    if "leave" in form:
        response = redirect("/", 303)
        response.delete_cookie(COOKIE)
        return response
    return _page(_try(form))


def _stranger() -> NotAllowed | None:
    """Return why this client may not see the page; None when it may."""
    try:
        _access().check_page(http, OpenAI())
    except NotAllowed as error:
        return error
    return None


def _ask_for_key(stranger: NotAllowed) -> AnyResponse:
    """Browsers get the form that asks for the key; other clients the error."""
    if not http.accept_mimetypes.accept_html or "text/html" not in http.headers.get("Accept", ""):
        raise stranger
    return _html("login.html", 401)


def _sign_in(key: str) -> AnyResponse:
    mark = _access().mark_for(key)
    if mark is None:
        services().count_refusal("invalid_api_key")
        return _html("login.html", 401, wrong=True)
    response = redirect("/", 303)
    response.set_cookie(
        COOKIE, mark, max_age=_COOKIE_S, path="/", secure=http.is_secure, httponly=True, samesite="Strict"
    )
    return response


def _access() -> AccessControl:
    access: AccessControl = current_app.extensions["access"]
    return access


def _html(template: str, status: int = 200, **values: Any) -> Response:
    text = render_template(template, style=Markup(_STYLE), script=Markup(_SCRIPT), **values)
    response = Response(text, status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = _CSP
    response.headers["Referrer-Policy"] = "same-origin"  # with no-referrer, forms would be sent with `Origin: null`
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cache-Control"] = "no-store"
    return response


def _page(tried: Mapping[str, Any]) -> Response:
    rt, hours, now = services(), window_hours(http.args.get("hours")), now_ms()
    observations = rt.observations()
    problem, workers = "", {}
    try:
        found = rt.read(figures.gather, rt.store, rt.policy, observations, hours, now)
        workers = rt.workers()
    except StoreError as error:
        found, problem = figures.nothing(rt.policy, observations, hours), str(error)
    shown = figures.moments(found.steps, observations, hours, now)
    return _html(
        "page.html",
        percent=figures.percent, ms=figures.ms, usd=figures.usd, count=count,
        windows=figures.WINDOWS, hours=hours, known_window=hours in dict(figures.WINDOWS),
        window_words=dict(figures.WINDOWS).get(hours, f"{hours:g} hours"),
        problem=problem, summary=found.summary, total=found.summary["total"], savings=found.summary["savings"],
        tiles=figures.tiles(found.summary), ab=found.ab,
        backends=list(_backends(rt, found.summary, workers)), routes=list(_routes(rt, found.summary)),
        charts=figures.charts(shown), moments=shown, zone=time.strftime("%Z"),
        calls=[figures.call_line(row, now) for row in found.latest],
        only_echo=rt.policy.echoes == rt.policy.backends.keys(),
        models=list(listed(rt)), tried={"model": "auto", **tried},
        base_url=f"{http.host_url}v1", can_leave=_access().wants_key,
        enough=ENOUGH_SAMPLES, faster=FASTER,
        version=VERSION, policy_version=rt.policy.version, workers=max(1, len(workers)),
        queued=sum(worker.get("queued", 0) for worker in workers.values()),
    )  # fmt: skip


def _backends(rt: Runtime, summary: Mapping[str, Any], workers: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of the policy, with what was measured; then those that only the database still knows."""
    sums = {entry["backend"]: entry for entry in summary["backends"]}
    observations, answers = rt.observations(), rt.answers()

    def over_workers(member: str, name: str) -> int:
        return sum(worker.get(member, {}).get(name, 0) for worker in workers.values())

    for name, config in rt.policy.backends.items():
        live = figures.Live(
            cooling=over_workers("circuit_open", name),
            workers=max(1, len(workers)),
            answers=answers.get(name),
            key_missing=rt.upstreams[name].backend.missing_key,
        )
        state, look = figures.state(live)
        model = model_for(config, "any", observations)
        yield {
            "name": name,
            "type": config.type,
            "local": is_local(Target(name, model), observations),
            "remote": {held: host for held, host in observations.model_hosts.get(name, {}).items() if host},
            "state": state,
            "look": look,
            "circuit": figures.circuit(live),
            "todo": figures.to_do(live, config.endpoint),
            "in_flight": over_workers("in_flight", name),
            "waiting": over_workers("waiting", name),
            "expected": expected_ms(Target(name, model), config, observations),
            "sums": sums.pop(name, figures.NO_CALLS),
        }
    for name, entry in sums.items():
        gone = {"name": name, "type": "", "local": False, "state": "no longer in the policy"}
        yield {**gone, "look": "plain", "circuit": "", "in_flight": 0, "waiting": 0, "expected": None, "sums": entry}


def _routes(rt: Runtime, summary: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    sums = {entry["route"]: entry for entry in summary["routes"]}
    for route in rt.policy.routes:
        way = ", then ".join((route.backend, *route.fallbacks))
        yield {"name": route.label, "way": way, "sums": sums.pop(route.label, figures.NO_CALLS)}
    for name, entry in sums.items():
        way = {"pin": "what the client named", "continuation": "where it began"}.get(name, "no longer in the policy")
        yield {"name": name, "way": way, "sums": entry}


def _try(form: Mapping[str, str]) -> dict[str, Any]:
    """The dry run of the form's prompt: the same as POST /v1/route."""
    asked = {name: form.get(name, "") for name in ("prompt", "model")}
    tried: dict[str, Any] = {**asked, "private": "private" in form}
    try:
        request = ChatRequest(
            request_id=headers.request_id(http.environ),
            surface="chat",
            body=chat.of_text(asked["prompt"]),
            model=chat.model_name(asked["model"]),
            stream=False,
            sensitivity=Sensitivity.HIGH if tried["private"] else Sensitivity.NORMAL,
        )
        found = explanation(*dry_run(request, services()))
    except RouterError as error:
        return {**tried, "refused": error}
    tags = [(name, value) for name, value in found["classification"].items() if isinstance(value, (str, int, float))]
    return {**tried, "found": found, "tags": tags, "plan": list(describe_calls(found))}

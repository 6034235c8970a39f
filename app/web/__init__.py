"""The table of every URL, with the surface to which it belongs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import flask
from flask import request as http
from werkzeug.exceptions import HTTPException

from app.services import Services
from app.web import (
    chat,
    errors,
    explain,
    health,
    messages,
    metrics,
    models,
    reply,
    responses,
    stored_responses,
)
from app.web.dashboard import page
from app.web.door import Door
from app.web.openai import OpenAI
from app.web.surface import Api, Surface
from app.web.views import for_flask

SURFACES: Mapping[str, Surface] = {  # POST to such a URL asks a model
    "/v1/chat/completions": chat.SURFACE,
    "/v1/responses": responses.SURFACE,
    "/v1/messages": messages.SURFACE,
}
# The API of a URL sets the form of its keys and errors.  The longest matching beginning of the path counts, here or
# above.
APIS: Mapping[str, Api] = {"": OpenAI()}
BLUEPRINTS = (
    stored_responses.blueprint,  # GET and DELETE /v1/responses/{id}, GET /v1/responses/{id}/input_items
    messages.blueprint,  # POST /v1/messages/count_tokens
    models.blueprint,  # GET /v1/models, /v1/models/{id}
    explain.blueprint,  # POST /v1/route
    metrics.blueprint,  # GET /v1/metrics, /metrics, /v1/ab, /v1/egress
    health.blueprint,  # GET /health
    page.blueprint,  # GET and POST /
)


def register(app: flask.Flask, services: Services) -> None:
    """Serve every URL. The door is in front of Flask, and Flask calls it for the URLs that Flask serves."""
    door = Door(app.wsgi_app, SURFACES, APIS, services)
    app.wsgi_app = door  # type: ignore[method-assign]  # Flask's own way to put something in front
    app.extensions["access"] = door.access
    app.config["MAX_CONTENT_LENGTH"] = services.settings.max_body_bytes
    for url, surface in SURFACES.items():
        app.add_url_rule(url, surface.name, for_flask(partial(reply.answer, surface)), methods=["POST"])
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    _call_the_door(app, door)


def _call_the_door(app: flask.Flask, door: Door) -> None:
    @app.before_request
    def _admit() -> None:
        door.admit(http.environ, door.api(http.environ))

    @app.after_request
    def _complete(response: flask.Response) -> flask.Response:
        response.headers.extend(door.last_headers(http.environ))
        return response

    @app.errorhandler(Exception)
    def _refuse(error: Exception) -> flask.Response:
        rule = http.url_rule.rule if http.url_rule else "-"
        place = (door.api(http.environ), rule, http.environ)
        if not isinstance(error, HTTPException):
            return door.refuse(error, *place).for_flask()
        response = door.refuse(errors.refusal(error, http.path), *place).for_flask()
        response.headers.update([(name, value) for name, value in error.get_headers() if name == "Allow"])
        return response

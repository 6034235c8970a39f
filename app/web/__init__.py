"""HTTP: the table of every URL, and what holds for all of them."""

from __future__ import annotations

from flask import Flask, Response
from flask import request as http

from app.settings import Settings
from app.web import chat, errors, explain, headers, health, metrics, models, responses
from app.web.dashboard import page
from app.web.guards import Guard

BLUEPRINTS = (
    chat.blueprint,  # POST /v1/chat/completions
    responses.blueprint,  # POST /v1/responses
    models.blueprint,  # GET /v1/models, /v1/models/{id}
    explain.blueprint,  # POST /v1/route
    metrics.blueprint,  # GET /v1/metrics, /metrics, /v1/ab
    health.blueprint,  # GET /health
    page.blueprint,  # GET and POST /
)


def register(app: Flask, settings: Settings) -> None:
    guard = app.extensions["guard"] = Guard(settings)
    app.config["MAX_CONTENT_LENGTH"] = settings.max_body_bytes
    errors.install(app)

    @app.before_request
    def _come_in() -> None:
        environ = http.environ
        headers.name_request(environ)
        guard.check(environ)

    @app.after_request
    def _go_out(response: Response) -> Response:
        response.headers.add("X-Content-Type-Options", "nosniff")
        guard.add_cors(http.environ, response)
        return response

    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)

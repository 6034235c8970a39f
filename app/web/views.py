"""Views are plain functions: they take the WSGI environment and what this process owns, and return a Response.  Here
Flask is told of them."""

from __future__ import annotations

from collections.abc import Callable

import flask

from app.services import Services
from app.web.response import Response

View = Callable[..., Response]  # (environ, services, **parts of the URL)


class Blueprint(flask.Blueprint):
    """Register plain views with Flask."""

    def view(self, method: str, rule: str) -> Callable[[View], View]:
        """Serve a URL with the function that is decorated, which stays a plain function."""

        def add(view: View) -> View:
            self.add_url_rule(rule, view.__name__, for_flask(view), methods=[method])
            return view

        return add


def for_flask(view: View) -> Callable[..., flask.Response]:
    """Return a view as Flask calls it."""

    def call(**parts: str) -> flask.Response:
        return view(flask.request.environ, get_services(), **parts).for_flask()

    return call


def get_services() -> Services:
    """Return what this process owns."""
    made: Services = flask.current_app.extensions["services"]
    return made

"""Register views with Flask.  A view is a simple function: it takes the WSGI environment and the services of this
process, and returns a Response."""

from __future__ import annotations

from collections.abc import Callable

import flask

from app.services import Services
from app.web.response import Response

View = Callable[..., Response]  # (environ, services, **parts of the URL)


class Blueprint(flask.Blueprint):
    """Register plain views with Flask."""

    def view(self, method: str, rule: str) -> Callable[[View], View]:
        """Serve a URL with the decorated function, which does not change."""

        def add(view: View) -> View:
            self.add_url_rule(rule, view.__name__, for_flask(view), methods=[method])
            return view

        return add


def for_flask(view: View) -> Callable[..., flask.Response]:
    """Return the function that Flask calls for a view."""

    def call(**parts: str) -> flask.Response:
        return view(flask.request.environ, get_services(), **parts).for_flask()

    return call


def get_services() -> Services:
    """Return the services of this process."""
    services: Services = flask.current_app.extensions["services"]
    return services

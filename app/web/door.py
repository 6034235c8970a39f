"""The WSGI application in front of Flask.  It gives every request an id and checks it, and adds the last headers to
every response.

It answers a POST to a surface itself, because Flask would add a third to the CPU of such a request, for contexts,
unused objects and routing.  All other requests go to Flask, which calls `admit`, `refuse` and `last_headers` as
well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from wsgiref.types import StartResponse, WSGIApplication

from app.errors import RouterError
from app.services import Services
from app.types import Environ
from app.web import errors, headers, reply
from app.web.access import AccessControl
from app.web.response import Response
from app.web.surface import Api, Surface


class Door:
    """Serve the POSTs of the surfaces as a WSGI application in front of Flask's."""

    def __init__(
        self, flask: WSGIApplication, surfaces: Mapping[str, Surface], apis: Mapping[str, Api], services: Services
    ) -> None:
        """`surfaces` are found by their URLs, `apis` by the beginning of a path; one of them is ""."""
        self.flask = flask
        self.access = AccessControl(services.settings)
        self._surfaces = surfaces
        self._apis = {**apis, **surfaces}
        self._services = services

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        url = environ.get("PATH_INFO", "")
        surface = self._surfaces.get(url) if environ["REQUEST_METHOD"] == "POST" else None
        if surface is None:
            return self.flask(environ, start_response)
        try:
            self.admit(environ, surface)
            response = reply.answer(surface, environ, self._services)
        except Exception as error:
            response = self.refuse(error, surface, url, environ)
        response.headers += self.last_headers(environ)
        return response(environ, start_response)

    def admit(self, environ: Environ, api: Api) -> None:
        """Give a request its id, and check whether it is allowed.  Raise NotAllowed."""
        headers.name_request(environ)
        self.access.check(environ, api)

    def refuse(self, error: Exception, api: Api, url: str, environ: Environ) -> Response:
        """Return the response for an error, in the form that the API has for errors."""
        if not isinstance(error, RouterError):
            error = errors.unexpected(error, headers.request_id(environ))
        return errors.render(error, api, url, environ, self._services)

    def last_headers(self, environ: Environ) -> list[tuple[str, str]]:
        """Return the headers that every response gets."""
        last = [("X-Content-Type-Options", "nosniff")]
        return [*last, *self.access.cors_headers(environ)] if "HTTP_ORIGIN" in environ else last

    def api(self, environ: Environ) -> Api:
        """Return the API that the client of a request speaks: that of the longest beginning of the path."""
        path = headers.path(environ)
        beginnings = (url for url in self._apis if not url or path == url or path.startswith(f"{url}/"))
        return self._apis[max(beginnings, key=len)]

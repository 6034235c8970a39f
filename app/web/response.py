"""Define the HTTP response that views return and the WSGI server sends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from wsgiref.types import StartResponse

import flask
from werkzeug.http import HTTP_STATUS_CODES

from app.types import Environ

JSON = "application/json"


class Response:
    """Hold a status, headers and a body.  A body that has a `close` is closed by the server at its end."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes | Iterable[bytes]) -> None:
        """Add a Content-Length when the body is bytes."""
        self.status = status
        self.headers = list(headers.items())
        self.body: Iterable[bytes] = body if not isinstance(body, bytes) else [body]
        if isinstance(body, bytes):
            self.headers.append(("Content-Length", str(len(body))))

    def __call__(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Return the body, after a call of `start_response`: a response is a WSGI application."""
        reason = HTTP_STATUS_CODES.get(self.status, "Unknown").upper()
        start_response(f"{self.status} {reason}", self.headers)
        return self.body

    def for_flask(self) -> flask.Response:
        """Return the same response as an object of Flask's, which drops the body for HEAD."""
        return flask.Response(self.body, self.status, self.headers, direct_passthrough=True)


def json_response(document: object) -> Response:
    """Return a document as JSON with a line end."""
    text = json.dumps(document, separators=(",", ":"))
    return Response(200, {"Content-Type": JSON}, f"{text}\n".encode())

"""An HTTP response as views make it and as the WSGI server sends it."""

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
        """A body of bytes gets a Content-Length."""
        self.status = status
        self.headers = list(headers.items())
        self.body: Iterable[bytes] = body if not isinstance(body, bytes) else [body]
        if isinstance(body, bytes):
            self.headers.append(("Content-Length", str(len(body))))

    def __call__(self, _environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Send it as a WSGI application does."""
        reason = HTTP_STATUS_CODES.get(self.status, "Unknown").upper()
        start_response(f"{self.status} {reason}", self.headers)
        return self.body

    def for_flask(self) -> flask.Response:
        """Return the same response as an object of Flask's, which drops the body for HEAD."""
        return flask.Response(self.body, self.status, self.headers, direct_passthrough=True)


def json_response(document: object) -> Response:
    """Return a document as JSON with a line end behind it."""
    text = json.dumps(document, separators=(",", ":"))
    return Response(200, {"Content-Type": JSON}, f"{text}\n".encode())

"""Run an HTTP request, and return the response with the model's reply."""

from __future__ import annotations

from collections.abc import Callable

from app import pipeline
from app.errors import ClientGone, RouterError
from app.services import Services
from app.types import Buffered, ChatRequest, Environ, StoredRequest
from app.web import headers, stream
from app.web.request_log import RequestLog
from app.web.response import Response
from app.web.surface import Surface


def answer(surface: Surface, environ: Environ, services: Services) -> Response:
    """Read a request, run it, and return its response.  Raise RouterError before anything was sent."""
    body = headers.body(environ, services.settings.max_body_bytes)
    exchange = surface.read(environ, body, services)
    if exchange.request.stream:
        return stream.respond(exchange, surface, environ, services)
    return buffered(exchange.request, exchange.document, surface.document_type, environ, services)


def buffered(
    request: ChatRequest | StoredRequest,
    document: Callable[[Buffered], bytes],
    content_type: str,
    environ: Environ,
    services: Services,
) -> Response:
    """Run a request and return its response, whose body `document` writes.  Raise RouterError."""
    log, sock = RequestLog(request), environ.get("gunicorn.socket")
    try:
        with services.disconnects.watch(sock):
            reply = pipeline.run(request, services)
        assert isinstance(reply, Buffered)
        body = document(reply)
    except ClientGone:
        log.write(499, None)
        return Response(499, {}, b"")  # the client has disconnected
    except RouterError as error:
        log.write(error.status, None, error)
        raise
    log.write(200, reply)
    llr_headers = headers.reply_headers(request.request_id, reply, environ)
    return Response(200, {"Content-Type": content_type, **llr_headers}, body)

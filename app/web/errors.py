"""Every error of every URL as the OpenAI envelope.  Nothing of a request is logged here."""

from __future__ import annotations

import json
import logging
import math
import traceback
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Flask, Response, current_app
from flask import request as http
from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app.errors import BackendRejected, NotFound, RequestError, RouterError, envelope
from app.web import headers

log = logging.getLogger("llr.web")
requests = logging.getLogger("llr.request")


def install(app: Flask) -> None:
    app.register_error_handler(RouterError, render)
    app.register_error_handler(HTTPException, _http)
    app.register_error_handler(Exception, _unexpected)


def render(error: RouterError) -> Response:
    """The answer for an error, which is counted when it is a refusal."""
    current_app.extensions["runtime"].refused(error)
    if not error.logged:
        url = http.url_rule.rule if http.url_rule else "-"  # as we wrote it: a path that a client made up is content
        requests.info("%s %s status=%d error=%s", headers.request_id(http.environ), url, error.status, error.cause)
    text = json.dumps(document(error), ensure_ascii=False).encode("utf-8", "backslashreplace")
    response = Response(text, status=error.status, mimetype="application/json")
    response.headers.update(headers.error_headers(headers.request_id(http.environ), error, http.environ))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if error.is_final:
        response.headers["x-should-retry"] = "false"  # OpenAI's SDKs try a 503 twice more unless told not to
    if error.status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


def document(error: RouterError) -> Mapping[str, Any]:
    """The envelope; a backend's own error document passes through when it is the client's mistake."""
    if isinstance(error, BackendRejected) and error.document is not None:
        return error.document
    return envelope(error)


def _http(error: HTTPException) -> Response:
    """Flask's own errors: unknown path, wrong method, body too large."""
    status = error.code or 500
    if status == 404:
        return render(NotFound("No such URL. See GET /v1/models, POST /v1/chat/completions, POST /v1/responses."))
    if status == 413:
        return render(RequestError("The request body is too large.", status=413, code="request_too_large"))
    message = error.name + "."
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        message = f"Wrong method: this URL takes {' or '.join(_for_people(error.valid_methods))}."
    response = render(RequestError(message, status=status))
    for name, value in error.get_headers():
        if name.lower() == "allow":
            response.headers[name] = value
    return response


def _for_people(methods: Iterable[str]) -> list[str]:
    """Those that somebody means."""
    return sorted(set(methods) - {"HEAD", "OPTIONS"}) or ["OPTIONS"]


def unexpected(error: Exception, request_id: str) -> RouterError:
    """A bug of ours.  The log gets where it happened; the exception's text may hold prompt text and is left out."""
    where = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)[-6:]))
    log.error("unexpected %s in request %s\n%s", type(error).__name__, request_id, where)
    return RouterError("Internal error; the router's log says where.", code="internal_error")


def _unexpected(error: Exception) -> Response:
    return render(unexpected(error, headers.request_id(http.environ)))

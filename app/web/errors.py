"""Render every error of every URL in the form of the URL's API. No text of a request is logged here."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Iterable

from werkzeug.exceptions import HTTPException, MethodNotAllowed

from app.errors import NotFound, RequestError, RouterError
from app.services import Services
from app.types import Environ
from app.web import headers, request_log
from app.web.response import Response
from app.web.surface import Api

log = logging.getLogger("llr.web")

_NO_URL = (
    "This URL does not exist. See GET /v1/models, POST /v1/chat/completions, POST /v1/responses, POST /v1/messages."
)
_TWICE = "This URL has /v1 twice: the base URL of this client must end before /v1."


def render(error: RouterError, api: Api, url: str, environ: Environ, services: Services) -> Response:
    """Return the response for an error, and count the error when it is a refusal.  `url` is for the log."""
    request_id = error.request_id = headers.request_id(environ)
    services.refused(error)
    request_log.refused(request_id, url, error)
    head = {"Content-Type": api.document_type, **headers.error_headers(request_id, error, environ)}
    if error.retry_after_s is not None:
        head["Retry-After"] = str(math.ceil(error.retry_after_s))
    return Response(error.status, {**head, **api.error_headers(error)}, api.error_document(error))


def refusal(error: HTTPException, path: str) -> RouterError:
    """Return our error for one of Flask's: unknown path, wrong method, body too large."""
    status = error.code or 500
    if status == 404:
        return NotFound(_TWICE if path.startswith("/v1/v1/") else _NO_URL)
    if status == 413:
        return RequestError("The request body is larger than LLR_MAX_BODY_BYTES.", status=413, code="request_too_large")
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        methods = " or ".join(_chosen(error.valid_methods))
        return RequestError(f"Wrong method: this URL takes {methods}.", status=status)
    return RequestError(f"{error.name}.", status=status)


def _chosen(methods: Iterable[str]) -> list[str]:
    """Return the methods of a URL without HEAD and OPTIONS, which Flask adds."""
    return sorted(set(methods) - {"HEAD", "OPTIONS"}) or ["OPTIONS"]


def unexpected(error: Exception, request_id: str) -> RouterError:
    """Return the error for a bug in the router, and log the traceback.  Leave out the text of the exception, which
    may hold a part of the prompt."""
    where = "".join(traceback.format_list(traceback.extract_tb(error.__traceback__)[-6:]))
    log.error("unexpected %s in request %s\n%s", type(error).__name__, request_id, where)
    return RouterError("Internal error; the router's log says where.", code="internal_error")

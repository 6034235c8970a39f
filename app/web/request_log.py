"""Write one log line for each request: id, surface, route, backend, model, status, ms, and the cause of a failure.
No line holds text of a request."""

from __future__ import annotations

import logging
import time

from app.errors import RouterError
from app.types import ChatRequest, Reply, StoredRequest, Streamed
from app.web.headers import printable

log = logging.getLogger("llr.request")


class RequestLog:
    """Write the line of one request when it is over."""

    def __init__(self, request: ChatRequest | StoredRequest) -> None:
        self._request = request
        self._started = time.monotonic()

    def write(self, status: int, reply: Reply | None, error: RouterError | None = None) -> None:
        if error is not None:
            error.logged = True
        if not log.isEnabledFor(logging.INFO):
            return
        route = reply.decision.route if reply else error.route if error else None
        backend, model = (reply.target.backend, reply.target.model) if reply else (error and error.target) or ("-", "-")
        ms = (time.monotonic() - self._started) * 1000
        line = "%s %s route=%s backend=%s model=%s status=%d ms=%.0f%s"
        ids = (self._request.request_id, self._request.surface)
        cause = _cause(reply, error)
        log.info(line, *ids, printable(route or "-"), backend, printable(model), status, ms, cause)


def refused(request_id: str, url: str, error: RouterError) -> None:
    """Write the line of a request that was refused before it was routed.  `url` is an entry of the table of URLs,
    never the client's path, which may hold any text."""
    if not error.logged:
        log.info("%s %s status=%d error=%s", request_id, url, error.status, error.cause)


def _cause(reply: Reply | None, error: RouterError | None) -> str:
    """Return the end of the line: the calls that failed before the reply, or the reason why there is no reply."""
    if error is not None:
        return f" error={error.cause}"
    if reply is None:
        return ""
    failed = f" failed={reply.failed}" if reply.failed else ""
    broken = reply.chunks.failure if isinstance(reply, Streamed) else None
    return f"{failed} error={reply.target.backend}:{broken}" if broken else failed

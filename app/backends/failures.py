"""What a failed call means: the one map from transport exceptions and HTTP statuses to our error tree."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import requests
import urllib3

from app.errors import (
    BackendDenied,
    BackendError,
    BackendProtocol,
    BackendRateLimited,
    BackendRejected,
    BackendServerError,
    BackendTimeout,
    BackendUnavailable,
    error_fields,
    redact,
)
from app.types import BackendConfig, Target
from app.wire import sse

TRANSPORT_ERRORS = (urllib3.exceptions.HTTPError, OSError)
"""All that sending and reading may raise."""

AUTHORITIES = "REQUESTS_CA_BUNDLE"  # the variable's name is requests' own
_MAX_SAID = 500  # characters of a backend's own error text
_TEMPORARY = (408, 409, 425)
_TIMEOUTS = (TimeoutError, urllib3.exceptions.TimeoutError)
# urllib3 counts a refused connection among the connect time-outs.
_NOT_CONNECTED = urllib3.exceptions.NewConnectionError


def transport_error(error: Exception, config: BackendConfig, hint: str = "") -> BackendError:
    """Our error for one of urllib3's or the socket's, which all nest.  `hint` says what to do."""
    at = config.endpoint
    nested = list(causes(error))

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in nested)

    if has(urllib3.exceptions.NameResolutionError):
        return BackendUnavailable(f"no such host at {at}", kind="dns")
    if has(urllib3.exceptions.SSLError, requests.exceptions.SSLError, ssl.SSLError):
        own = f"; {AUTHORITIES} names the file of an authority of your own" if has(ssl.SSLCertVerificationError) else ""
        return BackendUnavailable(f"TLS failed at {at}{own}", kind="tls")
    if has(ConnectionRefusedError):
        return BackendUnavailable(f"connection refused at {at}{hint}")
    if has(_NOT_CONNECTED):
        return BackendUnavailable(f"cannot connect to {at}{hint}", kind="unreachable")
    if has(urllib3.exceptions.ConnectTimeoutError):
        return BackendTimeout(f"no connection within {config.timeouts.connect_s:g} s at {at}")
    if has(*_TIMEOUTS):
        return BackendTimeout("did not answer in time")
    if has(ConnectionError):
        return BackendProtocol("closed the connection before its answer was complete", kind="reset")
    return BackendProtocol("sent an answer that breaks off or cannot be read")


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and all it wraps: urllib3 nests its own in args, `reason` and the context."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo:
        item = todo.pop()
        if isinstance(item, BaseException) and id(item) not in seen:
            seen.add(id(item))
            yield item
            todo += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]


def refusal(
    status: int, retry_after: str | None, body: bytes, target: Target, config: BackendConfig, key: str
) -> BackendError:
    """The error for a status of 300 and up.  `key` is ours and never appears in it."""
    kind, message = f"http_{status}", f"answered {status}"
    if status < 400:
        return BackendProtocol(f"{message}, a redirect, which is never followed", kind=kind)
    document = _error_document(status, body, key)
    text = said(document, key)
    wait = _seconds(retry_after)
    if status == 429:
        return BackendRateLimited(f"{message} (rate limited)", said=text, retry_after_s=wait)
    if status in (401, 403):
        return BackendDenied(f"{message}; check {config.api_key_env or 'its access rules'}", kind=kind)
    if status >= 500 or status in _TEMPORARY:
        return BackendServerError(message, kind=kind, said=text, retry_after_s=wait)
    if status == 404 and not target.client_named:
        asked = f"; is the model {target.model} there?" if target.model else ""
        return BackendDenied(message + asked, kind=kind, said=text)
    named = {name: value for name, value in error_fields(document).items() if name != "message"}
    return BackendRejected(message, kind=kind, status=status, document=document, said=text, retry_after_s=wait, **named)


def said(document: Mapping[str, Any], key: str) -> str | None:
    """The message of a backend's error document, shortened, keys taken out."""
    message = error_fields(document)["message"]
    return redact(message, (key,))[:_MAX_SAID] if message else None


def _error_document(status: int, body: bytes, key: str) -> dict[str, Any]:
    """An error body in OpenAI's shape, whichever shape it came in (object, bare string, text, HTML)."""
    text = redact(body.decode("utf-8", "replace"), (key,))
    document = sse.json_of(text.encode("utf-8", "replace")) or {}
    fields: dict[str, Any] = dict(error_fields(document))
    if not document and not text.lstrip().startswith("<"):
        fields["message"] = text.strip()[:_MAX_SAID] or None
    if isinstance(error := document.get("error"), dict):
        fields = {**fields, **error, "message": fields["message"]}  # a text, whatever it was
    fields["message"] = fields["message"] or f"the backend answered {status}"
    fields["type"] = fields["type"] or "invalid_request_error"
    rest = {name: value for name, value in document.items() if name not in ("error", "detail", "message")}
    return {**rest, "error": fields}


def _seconds(retry_after: str | None) -> float | None:
    """Seconds of a Retry-After header, which holds seconds or a date; at most a day."""
    if not retry_after:
        return None
    wait = None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
    with contextlib.suppress(ValueError):
        wait = float(retry_after)
    return min(max(wait, 0.0), 86400.0) if wait is not None and wait == wait else None

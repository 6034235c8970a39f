"""Map transport exceptions and HTTP statuses to our error tree.  No other module does this."""

from __future__ import annotations

import contextlib
import errno
import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TypeVar
from urllib.parse import urlsplit

import urllib3

from app.backends.response import TLSAnswered
from app.backends.unfit import cannot_serve
from app.descriptors import limits, none_left
from app.errors import (
    BackendDenied,
    BackendError,
    BackendProtocol,
    BackendRateLimited,
    BackendRejected,
    BackendServerError,
    BackendTimeout,
    BackendUnavailable,
    ConnectTimeout,
    RouterExhausted,
    ServerBusy,
)
from app.redaction import excerpt, redact
from app.routing.locality import is_address, is_local_address, is_loopback_name
from app.types import BackendConfig, JsonDict, JsonObject, Target
from app.wire import sse
from app.wire.error_document import error_fields, unquoted
from app.wire.json_body import json_bytes

TRANSPORT_ERRORS = (urllib3.exceptions.HTTPError, OSError)
"""The exceptions that sending and reading may raise."""

AUTHORITIES = "REQUESTS_CA_BUNDLE"  # requests defined this name
MOST_ERROR_BYTES = 64 * 1024  # read of an error's body; a longer one is no JSON document
_TEMPORARY = (408, 409, 425)
_BUSY = ("server busy", "loading model")  # words of Ollama (server/sched.go) and llama.cpp (tools/server) with a 503


class AuthoritiesError(OSError):
    """Report that the file of trusted authorities cannot be used.  The message names the file and the reason."""


class SendTimeout(TimeoutError):
    """Report that the server read nothing of the request within the deadline."""


class HandshakeTimeout(TimeoutError):
    """Report that the server accepted the connection, but did not finish the TLS handshake within the deadline."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """Hold the meaning of a system error.  `words` may contain {at} (the address), {host}, and {hint} (what to do)."""

    words: str
    kind: str
    error: type[BackendError] = BackendUnavailable
    proxy: bool = False  # a proxy that is not used may be the cause


_FAR = " (is it on, and in the same network?)"
_FULL = partial(Meaning, error=RouterExhausted)
_CUT = Meaning("closed the connection before its answer was complete{tls}", "reset", BackendProtocol)
_LOST = Meaning("the packets to {at} are not answered", "timeout", BackendTimeout, proxy=True)

ERRNOS: Mapping[int, Meaning] = {
    errno.ECONNREFUSED: Meaning("connection refused at {at}{hint}", "refused", proxy=True),
    errno.EHOSTUNREACH: Meaning("no route to the host of {at}" + _FAR, "unreachable", proxy=True),
    errno.EHOSTDOWN: Meaning("the host of {at} is down" + _FAR, "unreachable"),
    errno.ENETUNREACH: Meaning("this machine or container has no route to {at}{loopback}", "unreachable", proxy=True),
    errno.ENETDOWN: Meaning("the network that leads to {at} is down", "unreachable"),
    errno.EACCES: Meaning("this machine forbids the connection to {at} (firewall or sandbox)", "unreachable"),
    errno.EPERM: Meaning("this machine forbids the connection to {at} (firewall or sandbox)", "unreachable"),
    errno.EAFNOSUPPORT: Meaning("this machine has no network of the kind that {at} needs (IPv6?)", "unreachable"),
    errno.EINVAL: Meaning("{at} is no address that can be connected to", "unreachable"),
    errno.EADDRNOTAVAIL: _FULL("this router has no local port or address left to call {at} from{loopback}", "ports"),
    errno.EMFILE: _FULL("this router has no file descriptors left (ulimit -n {limit}); raise the limit", "descriptors"),
    errno.ENFILE: _FULL("this machine has no file descriptors left (sysctl fs.file-max)", "descriptors"),
    errno.ENOBUFS: _FULL("this machine has no memory left for connections", "memory"),
    errno.ENOMEM: _FULL("this machine has no memory left for connections", "memory"),
    errno.ETIMEDOUT: _LOST,
    errno.ECONNRESET: _CUT,
    errno.ECONNABORTED: _CUT,
    errno.EPIPE: _CUT,
    errno.ESHUTDOWN: _CUT,
    errno.ENOTCONN: _CUT,
}
"""The meaning of each error number.  The class tells whether the backend failed."""

NAMES: Mapping[int, Meaning] = {
    socket.EAI_NONAME: Meaning("no such host: {host}", "dns", proxy=True),
    socket.EAI_NODATA: Meaning("the host {host} has no address", "dns", proxy=True),
    socket.EAI_AGAIN: Meaning("no name server answers for {host} (see /etc/resolv.conf)", "dns", proxy=True),
    socket.EAI_FAIL: Meaning("the name server cannot look up {host}", "dns", proxy=True),
    socket.EAI_MEMORY: _FULL("this machine has no memory left to look up {host}", "memory"),
}
_NO_NAME = Meaning("the host {host} cannot be looked up", "dns", proxy=True)

# Parts of OpenSSL's reasons (openssl/err.h), the most specific first.
TLS: Mapping[str, str] = {
    "WRONG_VERSION_NUMBER": "no TLS is spoken there: its `endpoint` must begin with http://",
    "RECORD_LAYER_FAILURE": "no TLS is spoken there: its `endpoint` must begin with http://",
    "PACKET_LENGTH_TOO_LONG": "no TLS is spoken there: its `endpoint` must begin with http://",
    "HTTP_REQUEST": "no TLS is spoken there: its `endpoint` must begin with http://",
    "CERTIFICATE_REQUIRED": "the server wants a client certificate, and the router has none",
    "ALERT_BAD_CERTIFICATE": "the server wants a client certificate, and the router has none",
    "HANDSHAKE_FAILURE": "the server refused the handshake (it may want a client certificate)",
    "PROTOCOL": "the server speaks only versions of TLS that are no longer safe",
    "UNEXPECTED_EOF": "the server closed the connection in the handshake",
    "UNRECOGNIZED_NAME": "the server does not know the host of this address",
}
_SPEAKS_TLS = "TLS is spoken at {at}: its `endpoint` must begin with https://"
# The responses of nginx, Go's net/http and Apache to HTTP at their TLS ports.
_WANTS_TLS = (
    b"plain HTTP request was sent to HTTPS port",
    b"HTTP request to an HTTPS server",
    b"SSL-enabled server port",
)
_TLS_PORTS = (443, 8443)
Cause = TypeVar("Cause", bound=BaseException)
_OUT_OF_DATE = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED


def transport_error(error: Exception, config: BackendConfig, hint: str = "", proxy: str = "") -> BackendError:
    """Return our error for an error of urllib3 or of the socket, which wrap each other.  `hint` says what to do;
    `proxy` names a variable whose proxy is not used."""
    nested = list(causes(error))

    def first(*kinds: type[Cause]) -> Cause | None:
        return next((cause for cause in nested if isinstance(cause, kinds)), None)

    number = next((cause.errno for cause in nested if isinstance(cause, OSError) and cause.errno in ERRNOS), None)
    meaning = ERRNOS[number] if number is not None else None
    if meaning is not None and meaning.error is RouterExhausted:
        return _worded(meaning, config, hint, proxy)
    if problem := first(AuthoritiesError):
        return BackendUnavailable(f"{AUTHORITIES} names {problem}", kind="tls")
    if first(TLSAnswered):
        return BackendUnavailable(_SPEAKS_TLS.format(at=config.endpoint), kind="tls")
    if name := first(socket.gaierror):
        full = name.errno in (socket.EAI_AGAIN, socket.EAI_SYSTEM) and none_left()
        return _worded(ERRNOS[errno.EMFILE] if full else NAMES.get(name.errno or 0, _NO_NAME), config, hint, proxy)
    if first(urllib3.exceptions.LocationValueError):
        return _worded(_NO_NAME, config, hint, proxy)
    if failure := first(ssl.SSLError) or first(urllib3.exceptions.SSLError):
        return BackendUnavailable(f"TLS failed at {config.endpoint}: {_tls(failure)}", kind="tls")
    if first(HandshakeTimeout):
        late = f"no TLS handshake within {config.timeouts.connect_s:g} s at {config.endpoint} (does it speak TLS?)"
        return ConnectTimeout(late)
    if first(SendTimeout):
        return BackendTimeout(f"took nothing of the request for {config.timeouts.send_s:g} s")
    if meaning is not None:
        return _worded(meaning, config, hint, proxy)
    if first(urllib3.exceptions.NewConnectionError):
        reason = next((cause.strerror for cause in nested if isinstance(cause, OSError) and cause.strerror), "")
        return BackendUnavailable(f"cannot connect to {config.endpoint}: {reason.lower()}{hint}", kind="unreachable")
    if first(urllib3.exceptions.ConnectTimeoutError):
        late = f"no connection within {config.timeouts.connect_s:g} s at {{at}}"
        return _worded(Meaning(late, "timeout", ConnectTimeout, proxy=True), config, hint, proxy)
    if first(TimeoutError, urllib3.exceptions.TimeoutError):
        return BackendTimeout("did not answer in time")
    if first(ConnectionError):
        return _worded(_CUT, config, hint, proxy)
    return BackendProtocol("sent an answer that breaks off or cannot be read")


def _worded(meaning: Meaning, config: BackendConfig, hint: str, proxy: str) -> BackendError:
    parts = urlsplit(config.endpoint)
    host = parts.hostname or ""
    is_here = is_loopback_name(host) or host == "::1" or host.startswith("127.")
    text = meaning.words.format(
        at=config.endpoint,
        host=host,
        hint=hint,
        limit=limits()[0],
        loopback=" (is its loopback interface up?)" if is_here else "",
        tls=" (if it speaks TLS, write https://)" if parts.scheme == "http" and parts.port in _TLS_PORTS else "",
    )
    if meaning.proxy and proxy and not (is_here or (is_address(host) and is_local_address(host))):
        text += f" ({proxy} is set, but the router connects directly)"
    return meaning.error(text, kind=meaning.kind)


def _tls(failure: Exception) -> str:
    if not isinstance(failure, ssl.SSLError):
        return "its certificate names another host"
    if isinstance(failure, ssl.SSLCertVerificationError):
        own = f"; {AUTHORITIES} names the file of an authority of your own"
        return f"{failure.verify_message.rstrip('.')}{'' if failure.verify_code in _OUT_OF_DATE else own}"
    reason = failure.reason or ("UNEXPECTED_EOF" if isinstance(failure, ssl.SSLEOFError) else "")
    return next((words for part, words in TLS.items() if part in reason), reason.replace("_", " ").lower() or "unknown")


def unused_proxy(endpoint: str, environ: Mapping[str, str]) -> str:
    """Return the variable that names a proxy for this endpoint to other HTTP clients; "" when there is none."""
    names = (f"{urlsplit(endpoint).scheme}_proxy", "all_proxy")
    return next((name for low in names for name in (low, low.upper()) if environ.get(name, "").strip()), "")


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield the error and all errors that it wraps: urllib3 puts them into args, `reason` and the context."""
    pending: list[object] = [error]
    visited: set[int] = set()
    while pending:
        item = pending.pop()
        if isinstance(item, BaseException) and id(item) not in visited:
            visited.add(id(item))
            yield item
            pending += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]


def refusal(
    status: int, retry_after: str | None, body: bytes, target: Target, config: BackendConfig, key: str
) -> BackendError:
    """Return the error for a status from 300 on.  `key` is the router's own and never appears in it."""
    kind, message = f"http_{status}", f"answered {status}"
    if status == 400 and config.endpoint.startswith("http:") and any(words in body for words in _WANTS_TLS):
        return BackendUnavailable(_SPEAKS_TLS.format(at=config.endpoint), kind="tls")
    if status < 400:
        return BackendProtocol(f"{message}, a redirect, which is never followed", kind=kind)
    document = _error_document(status, body, key)
    text = error_text(document, key)
    wait = _seconds(retry_after)
    if status == 429:
        return BackendRateLimited(f"{message} (rate limited)", backend_text=text, retry_after_s=wait)
    if status == 503 and (wait is not None or any(words in (text or "").lower() for words in _BUSY)):
        return ServerBusy(f"{message} (busy)", backend_text=text, retry_after_s=wait)
    if status == 402:
        return BackendDenied(f"{message}: its account has no balance", kind=kind)
    if status in (401, 403):
        return BackendDenied(f"{message}; check {config.api_key_env or 'its access rules'}", kind=kind)
    if status >= 500 or status in _TEMPORARY:
        return BackendServerError(message, kind=kind, backend_text=text, retry_after_s=wait)
    if status == 404 and not target.client_named:
        question = f"; is the model {target.model} there?" if target.model else ""
        return BackendDenied(message + question, kind=kind, backend_text=text)
    named = {name: value for name, value in error_fields(document).items() if name != "message"}
    return BackendRejected(
        message, kind=kind, status=status, document=document, backend_text=text, retry_after_s=wait, **named
    )


def error_in_reply(document: JsonObject, message: str, *, kind: str, key: str, model: str) -> BackendError:
    """Return the error for an error document that came with status 200, instead of a reply or as its first event.
    Some servers send such a refusal after they promised a stream."""
    clean = _error_document(200, json_bytes(document), key)
    text = error_text(document, key)
    return cannot_serve(clean, message, text, model) or BackendServerError(message, kind=kind, backend_text=text)


def error_text(document: JsonObject, key: str) -> str | None:
    """Return the message of a backend's error document, shortened, with keys taken out."""
    message = error_fields(document)["message"]
    return excerpt(message, (key,)) if message else None


def _error_document(status: int, body: bytes, key: str) -> JsonDict:
    """Return an error body in OpenAI's form, whatever its form was (object, string, text, HTML)."""
    text = body[:MOST_ERROR_BYTES].decode("utf-8", "replace").strip()
    document = unquoted(sse.json_of(redact(text, (key,)).encode("utf-8", "replace")) or {})
    fields: JsonDict = dict(error_fields(document))
    if not document and not text.startswith("<"):
        fields["message"] = excerpt(text, (key,)) or None
    if isinstance(error := document.get("error"), dict):
        fields = {**fields, **error, "message": fields["message"]}  # always a text
    fields["message"] = fields["message"] or f"the backend answered {status}"
    fields["type"] = fields["type"] or "invalid_request_error"
    rest = {name: value for name, value in document.items() if name not in ("error", "detail", "message")}
    return {**rest, "error": fields}


def _seconds(retry_after: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which holds seconds or a date; at most a day."""
    if not retry_after:
        return None
    wait = None
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        wait = parsedate_to_datetime(retry_after).timestamp() - time.time()
    with contextlib.suppress(ValueError):
        wait = float(retry_after)
    return min(max(wait, 0.0), 86400.0) if wait is not None and wait == wait else None

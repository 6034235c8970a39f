"""The head and the body of a request, and the X-LLR headers of a response."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from enum import StrEnum
from typing import TypeVar
from urllib.parse import parse_qsl
from wsgiref.types import InputStream

import gevent
from werkzeug.wsgi import get_content_length

from app.errors import BodyTooLarge, RequestError, RouterError, UnsupportedMediaType
from app.types import Buffered, Environ, Lane, Reply, Sensitivity, Step, Streamed, Verified
from app.web.identifiers import returned

Word = TypeVar("Word", bound=StrEnum)

_SLASHES = re.compile("/{2,}")
_REQUEST_ID = "llr.request_id"
_SENSITIVITY = "HTTP_X_LLR_SENSITIVITY"
_PURPOSE = "HTTP_X_LLR_PURPOSE"
_EXPLAIN = "HTTP_X_LLR_EXPLAIN"
_MOST_TRACE = 1000  # characters: some proxies take 4 kB of headers in all
_LIKE_OURS = re.compile(r"(?<![A-Z0-9])X*LLR")  # similar names too, with a letter or a hyphen added or missing
_KNOWN = {_SENSITIVITY, _PURPOSE, _EXPLAIN, "HTTP_X_LLR_REQUEST_ID"}
_FIRST_PIECE_BYTES = 16 * 1024  # each piece shows the worker that the client is sending (app/server/senders.py)
_PIECE_BYTES = 128 * 1024
_CHUNKED_PIECE_BYTES = 4096  # it may arrive in this many chunks
_MOST_FIELDS = 20  # of a form; the dashboard's have three
_FORM = "application/x-www-form-urlencoded"  # the default of curl


def path(environ: Environ) -> str:
    """Return the path of a request.  A base URL that ends in a slash makes `/v1//chat/completions`, which is served
    too: clients do not follow a redirect of a POST."""
    return _SLASHES.sub("/", environ.get("PATH_INFO", ""))


def sensitivity(environ: Environ) -> Sensitivity:
    """Return the sensitivity that a request names.  Raise RequestError for any other value than normal or high,
    because the client may have meant high.  gunicorn joins repeated headers with commas, and with `header_map =
    "dangerous"` also `X_LLR_Sensitivity`, which some proxies send: so two different values are found here.
    """
    for name in environ:
        if "LLR" in name and name not in _KNOWN and name.startswith("HTTP_") and _LIKE_OURS.search(name):
            header = name[5:].replace("_", "-").title()
            raise RequestError(f"No header {header[:60]!r} is known; did you mean X-LLR-Sensitivity?")
    return _one_of(Sensitivity, _SENSITIVITY, environ) or Sensitivity.NORMAL


def lane(environ: Environ) -> Lane:
    """Return the lane that a request names.  It cannot be higher than that of a request without the header.  Raise
    RequestError for an unknown value."""
    return _one_of(Lane, _PURPOSE, environ) or Lane.INTERACTIVE


def _one_of(kind: type[Word], name: str, environ: Environ) -> Word | None:
    """Return the value of a header that holds one of the words of an enum; None when it is absent."""
    raw = environ.get(name)
    if raw is None:
        return None
    values = {part.strip(" \t").lower() for part in raw.split(",")}
    if raw.isascii() and len(values) == 1 and values <= set(kind):
        return kind(values.pop())
    header = name[5:].replace("_", "-").title().replace("Llr", "LLR")
    *words, last = kind
    raise RequestError(f"{header} must be {', '.join(words)} or {last}, once.", param=header)


def body(environ: Environ, limit: int) -> bytes:
    """Return a body of up to `limit` bytes.  Its type is JSON, any +json, none, or the form type that curl sends.
    Raise RequestError."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind and kind not in ("application/json", "text/json", _FORM) and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"Content-Type {kind[:60]!r} is not supported; send application/json.")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not supported in requests; send the JSON uncompressed.")
    length = get_content_length(environ)
    raw = _read(environ["wsgi.input"], length, limit) if length is None or length <= limit else b""
    if max(length or 0, len(raw)) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes (LLR_MAX_BODY_BYTES).")
    if length is None:
        _check_trailers(environ["wsgi.input"])
    elif len(raw) < length:
        raise RequestError("The request body is shorter than its Content-Length.")
    return raw


def form(environ: Environ, limit: int) -> dict[str, str]:
    """Return the fields of a form of up to `limit` bytes, the first of each name.  Raise RequestError."""
    raw = body(environ, limit)
    try:
        pairs = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestError(f"The form has more than {_MOST_FIELDS} fields.") from None
    return dict(reversed(pairs))


def _check_trailers(source: InputStream) -> None:
    """Refuse X-LLR headers after a chunked body: gunicorn stores them separately, so X-LLR-Sensitivity would be
    lost."""
    for name, _ in getattr(getattr(getattr(source, "reader", None), "req", None), "trailers", ()):
        if _LIKE_OURS.search(name.upper()):
            raise RequestError("X-LLR headers must come before the body, not after it.")


class _TooSlow(RequestError):
    status = 408


def _read(source: InputStream, length: int | None, limit: int) -> bytes:
    """Read a body in pieces, and let other greenlets run after each piece, because a fast sender would block them.
    A chunked body has no length; at most `limit` + 1 bytes of it are read."""
    size = _CHUNKED_PIECE_BYTES if length is None else _FIRST_PIECE_BYTES
    left = limit + 1 if length is None else length
    pieces = []
    try:
        while left and (piece := source.read(min(size, left))):
            pieces.append(piece)
            left -= len(piece)
            if left:
                size = size if length is None else min(2 * size, _PIECE_BYTES)
                gevent.sleep(0)
    except TimeoutError as error:
        raise _TooSlow(str(error)) from None
    except Exception as error:  # the server raises it for broken chunks; its text may quote the body
        raise RequestError(f"The request body cannot be read: {type(error).__name__}.") from None
    return b"".join(pieces)


def name_request(environ: Environ) -> None:
    """Give a request its id, which its rows, its log line and its response have."""
    environ[_REQUEST_ID] = f"llr-{secrets.token_hex(12)}"


def request_id(environ: Environ) -> str:
    return str(environ.get(_REQUEST_ID, ""))


def reply_headers(request_id: str, reply: Reply | None, environ: Environ) -> dict[str, str]:
    """Return the X-LLR headers of a reply.  Before a backend has answered, this is only the request's id."""
    headers = {"X-LLR-Request-Id": request_id, **returned(environ)}
    if isinstance(reply, (Buffered, Streamed)):
        headers["X-LLR-Backend"] = reply.target.backend
        headers["X-LLR-Model"] = printable(reply.target.model)
        headers["X-LLR-Route"] = printable(reply.decision.route)
        if reply.target.pool:
            headers["X-LLR-Pool"] = reply.target.pool
        if reply.fallback_for:
            headers["X-LLR-Fallback-For"] = reply.fallback_for
        if verdict := verified(reply):
            headers["X-LLR-Verified"] = verdict
        private_because, pin_refused = reply.decision.private_because, reply.decision.pin_refused
        if private_because or pin_refused:
            headers |= reason_headers(private_because, pin_refused=pin_refused)
        if _EXPLAIN in environ:
            headers |= _explained(reply.trace, environ)
    return headers


def verified(reply: Reply) -> str:
    """Return what became of the first answer: kept, released or `escalated REASON`; "" when it was not held."""
    verdict = reply.verdict
    if verdict is None or verdict.verified is None:
        return ""
    is_escalated = verdict.verified is Verified.ESCALATED
    return f"{verdict.verified} {verdict.verified_reason}" if is_escalated else verdict.verified


def error_headers(request_id: str, error: RouterError, environ: Environ) -> dict[str, str]:
    """Return the X-LLR headers of an error, as far as they are known."""
    headers = {"X-LLR-Request-Id": request_id, **returned(environ)}
    if error.route:
        headers["X-LLR-Route"] = printable(error.route)
    if error.target:
        headers["X-LLR-Backend"], headers["X-LLR-Model"] = error.target[0], printable(error.target[1])
    if error.pool:
        headers["X-LLR-Pool"] = error.pool
    return (
        headers
        | reason_headers(error.private_because, pin_refused=error.pin_refused)
        | _explained(error.trace, environ)
    )


def reason_headers(private_because: str | None, *, pin_refused: bool) -> dict[str, str]:
    """Return the headers with the reason why a request is private, and for a refused pin."""
    headers = {"X-LLR-Sensitivity-Reason": private_because} if private_because else {}
    return headers | ({"X-LLR-Pin": "refused"} if pin_refused else {})


def _explained(trace: Sequence[Step], environ: Environ) -> dict[str, str]:
    """Return the trace when the client wants it (`X-LLR-Explain: 1`).  It leaves out the rules that did not match: POST
    /v1/route names them."""
    if not trace or environ.get(_EXPLAIN, "").strip().lower() not in ("1", "true", "yes"):
        return {}
    steps = (f"{step.stage}: {step.outcome}" for step in trace if step.stage != "match" or ": no, " not in step.outcome)
    return {"X-LLR-Trace": printable("; ".join(steps), _MOST_TRACE)}


def printable(text: str, most: int = 200) -> str:
    """Return a text in a form that is valid in a header: `model` of a request may be any text."""
    if text.isascii() and text.isprintable():
        return text[:most]
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:most]

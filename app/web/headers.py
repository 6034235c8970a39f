"""Request headers that mean something to us, and the X-LLR headers of an answer."""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import gevent
from werkzeug.wsgi import get_content_length

from app.errors import BodyTooLarge, RequestError, RouterError, UnsupportedMediaType
from app.types import SENSITIVITIES, Buffered, Environ, Reply, Sensitivity, Step, Streamed

_SLASHES = re.compile("/{2,}")
_REQUEST_ID = "llr.request_id"
_SENSITIVITY = "HTTP_X_LLR_SENSITIVITY"
_EXPLAIN = "HTTP_X_LLR_EXPLAIN"
_MOST_TRACE = 1000  # characters: some proxies take 4 kB of headers in all
_LIKE_OURS = re.compile(r"(?<![A-Z0-9])X*LLR")  # also with a letter or a hyphen too few or too many
_KNOWN = {"HTTP_X_LLR_SENSITIVITY", "HTTP_X_LLR_EXPLAIN", "HTTP_X_LLR_REQUEST_ID"}
_FIRST_PIECE_BYTES = 16 * 1024  # with each piece the worker sees that a client sends (app/worker.py)
_PIECE_BYTES = 128 * 1024
_CHUNKED_PIECE_BYTES = 4096  # it may come as so many chunks
_MOST_FIELDS = 20  # of a form; ours have three
_FORM = "application/x-www-form-urlencoded"  # what curl says when nobody tells it otherwise


def path(environ: Environ) -> str:
    """Return the path of a request.  A base URL that ends in a slash makes `/v1//chat/completions`, which is served
    too: clients do not follow a redirect of a POST."""
    return _SLASHES.sub("/", environ.get("PATH_INFO", ""))


def sensitivity(environ: Environ) -> Sensitivity:
    """normal or high.  Whatever is not plainly one of them is refused: it might have meant high.

    gunicorn joins repeated headers with commas, and with `header_map = "dangerous"` also `X_LLR_Sensitivity`, which
    some proxies pass: so a contradiction shows up here.
    """
    for name in environ:
        if "LLR" in name and name not in _KNOWN and name.startswith("HTTP_") and _LIKE_OURS.search(name):
            header = name[5:].replace("_", "-").title()
            raise RequestError(f"No header {header[:60]!r} is known; did you mean X-LLR-Sensitivity?")
    raw = environ.get(_SENSITIVITY)
    if raw is None:
        return Sensitivity.NORMAL
    values = {part.strip(" \t").lower() for part in raw.split(",")}
    if raw.isascii() and len(values) == 1 and values <= set(SENSITIVITIES):
        return Sensitivity(values.pop())
    raise RequestError("X-LLR-Sensitivity must be normal or high, once.", param="X-LLR-Sensitivity")


def body(environ: Environ, limit: int) -> bytes:
    """The request's body of up to `limit` bytes.  JSON, any +json, no type, or curl's default form type.
    Raises RequestError."""
    kind = environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower()
    if kind and kind not in ("application/json", "text/json", _FORM) and not kind.endswith("+json"):
        raise UnsupportedMediaType(f"Content-Type {kind[:60]!r} is not read here; send application/json.")
    if environ.get("HTTP_CONTENT_ENCODING", "identity").lower() != "identity":
        raise UnsupportedMediaType("Compressed request bodies are not read here; send the JSON as it is.")
    told = get_content_length(environ)
    raw = _read(environ["wsgi.input"], told, limit) if told is None or told <= limit else b""
    if max(told or 0, len(raw)) > limit:
        raise BodyTooLarge(f"The request body is larger than {limit} bytes.")
    if len(raw) < (told or 0):
        raise RequestError("The request body is shorter than its Content-Length.")
    _check_trailers(environ["wsgi.input"])
    return raw


def form(environ: Environ, limit: int) -> dict[str, str]:
    """The fields of a form of up to `limit` bytes, the first of each name.  Raises RequestError."""
    raw = body(environ, limit)
    try:
        pairs = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise RequestError(f"The form has more than {_MOST_FIELDS} fields.") from None
    return dict(reversed(pairs))


def _check_trailers(source: Any) -> None:
    """gunicorn keeps what comes behind a chunked body apart: nobody would see X-LLR-Sensitivity there."""
    for name, _ in getattr(getattr(getattr(source, "reader", None), "req", None), "trailers", ()):
        if _LIKE_OURS.search(name.upper()):
            raise RequestError("X-LLR headers must come before the body, not behind it.")


class _TooSlow(RequestError):
    status = 408


def _read(source: Any, told: int | None, limit: int) -> bytes:
    """The body in pieces, with a turn for the other greenlets after each: a fast sender would let nobody else run.
    Of one whose length nobody told, a chunked one, `limit` and a byte at the most."""
    size = _CHUNKED_PIECE_BYTES if told is None else _FIRST_PIECE_BYTES
    left = limit + 1 if told is None else told
    pieces = []
    try:
        while left and (piece := source.read(min(size, left))):
            pieces.append(piece)
            left -= len(piece)
            if left:
                size = size if told is None else min(2 * size, _PIECE_BYTES)
                gevent.sleep(0)
    except TimeoutError as error:
        raise _TooSlow(str(error)) from None
    except Exception as error:  # the server's, for broken chunks; its text may quote the body
        raise RequestError(f"The request body cannot be read: {type(error).__name__}.") from None
    return b"".join(pieces)


def name_request(environ: Environ) -> None:
    """Gives a request the id that rows, the log and the answer know it by."""
    environ[_REQUEST_ID] = f"llr-{secrets.token_hex(12)}"


def request_id(environ: Environ) -> str:
    return str(environ.get(_REQUEST_ID, ""))


def reply_headers(request_id: str, reply: Reply | None, environ: Environ) -> dict[str, str]:
    """Return the X-LLR headers of a reply; while no backend has answered yet, the request's id alone is known."""
    headers = {"X-LLR-Request-Id": request_id}
    if isinstance(reply, (Buffered, Streamed)):
        headers["X-LLR-Backend"] = reply.target.backend
        headers["X-LLR-Model"] = printable(reply.target.model)
        headers["X-LLR-Route"] = printable(reply.route)
        if reply.fallback_for:
            headers["X-LLR-Fallback-For"] = reply.fallback_for
        headers |= reason_headers(reply.private_because, pin_refused=reply.pin_refused)
        headers |= _explained(reply.trace, environ)
    return headers


def error_headers(request_id: str, error: RouterError, environ: Environ) -> dict[str, str]:
    headers = {"X-LLR-Request-Id": request_id}
    if error.route:
        headers["X-LLR-Route"] = printable(error.route)
    if error.target:
        headers["X-LLR-Backend"], headers["X-LLR-Model"] = error.target[0], printable(error.target[1])
    return (
        headers
        | reason_headers(error.private_because, pin_refused=error.pin_refused)
        | _explained(error.trace, environ)
    )


def reason_headers(private_because: str | None, *, pin_refused: bool) -> dict[str, str]:
    """Return the headers that say what made a request private, and that its pin was refused for it."""
    headers = {"X-LLR-Sensitivity-Reason": private_because} if private_because else {}
    return headers | ({"X-LLR-Pin": "refused"} if pin_refused else {})


def _explained(trace: Sequence[Step], environ: Environ) -> dict[str, str]:
    """The trace, where the client asked for it with `X-LLR-Explain: 1`.  The rules that did not match are left out:
    POST /v1/route names them."""
    if not trace or environ.get(_EXPLAIN, "").strip().lower() not in ("1", "true", "yes"):
        return {}
    steps = (f"{step.stage}: {step.outcome}" for step in trace if step.stage != "match" or ": no, " not in step.outcome)
    return {"X-LLR-Trace": printable("; ".join(steps), _MOST_TRACE)}


def printable(text: str, most: int = 200) -> str:
    """Fit for a header: a client may have put anything into `model`."""
    if text.isascii() and text.isprintable():
        return text[:most]
    return "".join(char if char.isascii() and char.isprintable() else "?" for char in text)[:most]

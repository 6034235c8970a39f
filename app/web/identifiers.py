"""The identifiers that a client sends in its headers: of its session, of the request, and of its trace.

Local backends get them as they came, so that an operator finds the request in their logs, and a server that keeps
prefixes finds that of the session.  Other backends never get them.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.routing.sender import HEADERS
from app.types import Environ

_SESSIONS = {
    "HTTP_X_SESSION_ID": "X-Session-Id",
    "HTTP_X_SESSION_AFFINITY": "X-Session-Affinity",
    "HTTP_X_CLAUDE_CODE_SESSION_ID": "X-Claude-Code-Session-Id",
    "HTTP_SESSION_ID": "session-id",  # this one and the next: Codex
    "HTTP_THREAD_ID": "thread-id",
}
_REQUEST = "X-Request-Id"
FORWARDED = {**_SESSIONS, "HTTP_X_REQUEST_ID": _REQUEST, "HTTP_TRACEPARENT": "traceparent"}
_PROGRAM = {f"HTTP_{name.upper().replace('-', '_')}": name for name in HEADERS}
_VERSIONS = {"HTTP_ANTHROPIC_VERSION": "anthropic-version", "HTTP_ANTHROPIC_BETA": "anthropic-beta"}
_MOST_CHARS = 200
_MOST_BETA_CHARS = 2000
_NONE: Mapping[str, str] = {}


def identifiers(environ: Environ) -> Mapping[str, str]:
    """Return the headers with identifiers, by name."""
    if FORWARDED.keys().isdisjoint(environ):
        return _NONE
    return {name: environ[key] for key, name in FORWARDED.items() if _is_legal(environ.get(key, ""))}


def program(environ: Environ) -> Mapping[str, str]:
    """Return the headers that tell the client's program, by name in lower case."""
    return {name: value[:_MOST_CHARS] for key, name in _PROGRAM.items() if (value := environ.get(key))}


def versions(environ: Environ) -> Mapping[str, str]:
    """Return the headers that tell the version of Anthropic's API, with its betas."""
    return {name: environ[key] for key, name in _VERSIONS.items() if _is_legal(environ.get(key, ""), _MOST_BETA_CHARS)}


def session(headers: Mapping[str, str], cache_key: object = None) -> str:
    """Return the identifier of the session that these headers and `prompt_cache_key` of a body name; "" = none."""
    names = [headers[name] for name in _SESSIONS.values() if name in headers] if headers else []
    return "\0".join([*names, cache_key] if isinstance(cache_key, str) else names)


def returned(environ: Environ) -> dict[str, str]:
    """Return the header that repeats the client's own id of the request in the response."""
    value = environ.get("HTTP_X_REQUEST_ID", "")
    return {_REQUEST: value} if _is_legal(value) else {}


def _is_legal(value: str, most: int = _MOST_CHARS) -> bool:
    """Return True for visible ASCII of a short length; other values are ignored."""
    return 0 < len(value) <= most and value.isascii() and value.isprintable() and " " not in value

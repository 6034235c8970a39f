"""Access control: Host, Origin and key.  A web page must not be able to spend the operator's GPU or keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from urllib.parse import urlsplit

from werkzeug import Request

from app.errors import NotAllowed
from app.routing.locality import is_loopback_name
from app.settings import Settings
from app.types import Environ
from app.web.surface import Api

_EXPOSED_HEADERS = (
    "X-LLR-Request-Id, X-LLR-Backend, X-LLR-Model, X-LLR-Route, X-LLR-Pool, X-LLR-Verified, "
    "X-LLR-Fallback-For, X-LLR-Pin, X-LLR-Sensitivity-Reason, X-LLR-Trace, "
    "X-Request-Id"
)
_WRONG_HOST = "The router does not serve this Host. Add it to LLR_ALLOWED_HOSTS if it is a name of this machine."
_WRONG_ORIGIN = "Web pages of this Origin may not use the router. Add it to LLR_ALLOWED_ORIGINS if you trust the page."
COOKIE = "llr_page"
_KEY_HEADER = "HTTP_X_API_KEY"  # Anthropic's clients send it; it counts at every URL
_OWNER = "llr.owner"  # in the WSGI environment
PAGE = "/"


class AccessControl:
    """Decide who may send requests, by the variables of the operator."""

    def __init__(self, settings: Settings) -> None:
        own = () if settings.host in ("0.0.0.0", "::") else (settings.host,)
        self._hosts = {host.lower() for host in (*settings.allowed_hosts, *own)}
        names = ("127.0.0.1", "localhost")
        self._usual = {*names, *(f"{name}:{settings.port}" for name in names)}  # Hosts that need no parsing
        self._origins = {origin.lower().rstrip("/") for origin in settings.allowed_origins}
        self._keys = tuple(key.encode() for key in settings.api_keys)
        self._owners = tuple(_owner_id(key) for key in self._keys)

    def check(self, environ: Environ, api: Api) -> None:
        """Check a request, and store the owner of its key for `owner_of`. Raise NotAllowed."""
        path, method = environ.get("PATH_INFO", ""), environ["REQUEST_METHOD"]
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if host not in self._usual and not self._serves_host(host):
            raise NotAllowed(_WRONG_HOST, code="host_not_allowed")
        if origin is not None and not (self._serves_origin(origin) or self._is_our_page(environ, origin)):
            raise NotAllowed(_WRONG_ORIGIN, code="origin_not_allowed")
        is_page = path == PAGE and method in ("GET", "HEAD", "POST")  # check_page checks its key
        if self._keys and method != "OPTIONS" and path != "/health" and not is_page:
            environ[_OWNER] = self._owner(environ, api)

    @property
    def wants_key(self) -> bool:
        return bool(self._keys)

    def check_page(self, request: Request, api: Api) -> None:
        """Accept a browser that sends a key like every client, or the mark of a key in a cookie.  Raise NotAllowed."""
        mark = request.cookies.get(COOKIE, "").encode("latin-1", "replace")
        matches = [hmac.compare_digest(mark, _mark(key).encode()) for key in self._keys]
        if not any(matches) and self._keys:
            self._owner(request.environ, api)

    def mark_for(self, text: str) -> str | None:
        """Return the mark that represents this key in a cookie; None when it is no key.  A mark opens the page only,
        and the key cannot be computed from it, because browsers send cookies to every port of a host."""
        raw = text.strip().encode("utf-8", "replace")
        matches = [key for key in self._keys if hmac.compare_digest(raw, key)]
        return _mark(matches[0]) if matches else None

    def cors_headers(self, environ: Environ) -> Iterator[tuple[str, str]]:
        """Yield the headers that let pages of an allowed Origin read the response."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is None or not self._serves_origin(origin):
            return
        yield "Access-Control-Allow-Origin", origin
        yield "Access-Control-Expose-Headers", _EXPOSED_HEADERS
        yield "Vary", "Origin"
        if environ["REQUEST_METHOD"] == "OPTIONS":
            yield "Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS"
            wanted = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")  # SDKs add some of their own
            yield "Access-Control-Allow-Headers", wanted or "Authorization, Content-Type"
            yield "Access-Control-Max-Age", "600"

    def _is_our_page(self, environ: Environ, origin: str) -> bool:
        """Return True for a form of the dashboard, when its host is listed in LLR_ALLOWED_HOSTS (`*` is not enough)."""
        host = environ.get("HTTP_HOST", "").lower()
        named = host in self._hosts or _name_of(host) in self._hosts
        return environ.get("PATH_INFO") == PAGE and named and origin.lower() in (f"http://{host}", f"https://{host}")

    def _serves_host(self, host: str) -> bool:
        """Return True for an allowed Host.  A request without one (HTTP/1.0) does not come from a browser."""
        name = _name_of(host)
        return (
            not host or _is_loopback(name) or name in self._hosts or "*" in self._hosts or host.lower() in self._hosts
        )

    def _serves_origin(self, origin: str) -> bool:
        origin = origin.lower().rstrip("/")
        if origin in self._origins or "*" in self._origins:
            return True
        try:
            parts = urlsplit(origin)
            name = parts.hostname or ""
        except ValueError:
            return False
        return parts.scheme in ("http", "https") and (_is_loopback(name) or name in self._origins)

    def _owner(self, environ: Environ, api: Api) -> str:
        """Return the owner of the key of a request.  Raise NotAllowed."""
        keys = (api.key(environ), environ.get(_KEY_HEADER))
        raw = [key.encode("latin-1", "replace") for key in keys if key is not None]
        # Every key is compared, so that the time does not reveal which one is similar.
        compared = [[hmac.compare_digest(key, valid_key) for key in raw] for valid_key in self._keys]
        matches = list(map(any, compared))
        if sum(matches) == 1:
            return self._owners[matches.index(True)]
        text = f"Wrong or missing key. Send {api.key_hint} with one of the keys in LLR_API_KEYS."
        if any(matches):
            text = "The request has two different keys. Send one of them."
        raise NotAllowed(text, status=401, type="invalid_request_error", code="invalid_api_key")


def owner_of(environ: Environ) -> str:
    """Return the id of the key of a request: the owner of the responses that it stores.  "" while no keys are set."""
    return str(environ.get(_OWNER, ""))


def _owner_id(key: bytes) -> str:
    """Return a stable id from which the key cannot be computed."""
    return hashlib.sha256(b"local-llm-router owner\0" + key).hexdigest()[:24]


def _mark(key: bytes) -> str:
    return hmac.new(key, b"local-llm-router page", hashlib.sha256).hexdigest()


def _name_of(host: str) -> str:
    """Return the host without its port, in lower case: `[::1]:3030` -> `::1`, `Localhost:80` -> `localhost`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


def _is_loopback(name: str) -> bool:
    octets = name.split(".")
    if len(octets) == 4 and octets[0] == "127":
        return all(octet.isascii() and octet.isdigit() and len(octet) <= 3 and int(octet) < 256 for octet in octets)
    return name == "::1" or is_loopback_name(name)

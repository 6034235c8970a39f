"""Requests with anything anywhere: URLs, methods, queries, headers, bodies.  The same for a seed."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from tests.faults.documents import CHAT, NAMES, RESPONSES, WORDS, paths

PATHS = (
    "/v1/chat/completions", "/v1/responses", "/v1/responses/%s", "/v1/responses/%s/input_items", "/v1/models",
    "/v1/models/%s", "/v1/route", "/v1/metrics", "/v1/ab", "/v1/egress", "/metrics", "/health", "/", "/%s", "/v1/%s",
)  # fmt: skip
METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH", "TRACE", "FOO")
NUMBERS = ("0", "-1", "1e999", "nan", "inf", "9" * 5000, "24", "0.5", "٣", "1_0", " 7 ", "1e-400")
TEXTS = (
    *WORDS, *NUMBERS, "resp_1", "msg_1", "..", "../..", "%2e%2e", "a/b", "a b", "\x7f", "\xff", "\udcff", "a" * 3000,
    "{{7*7}}", "<script>", "' or 1=1 --", "\r\nX: y", "None", "true", "[]", "?", "#", ";", "&", "=", "é",
    "\U0001f99c", "\ufeff", "0x10",
)  # fmt: skip
HEADERS = (
    "X-LLR-Sensitivity", "X-LLR-Explain", "X_LLR_Sensitivity", "X-LLR-Other", "Origin", "Host", "Content-Type",
    "Accept", "Content-Encoding", "Authorization", "Cookie", "Content-Length", "Transfer-Encoding", "Expect", "Range",
    "If-None-Match", "Referer", "User-Agent", "Accept-Encoding", "X-Forwarded-For", "X-Request-Id",
    "Access-Control-Request-Headers", "Access-Control-Request-Method", "Upgrade", "Forwarded", "traceparent",
    "X-HTTP-Method-Override", "If-Modified-Since",
)  # fmt: skip
VALUES = (
    *TEXTS, "high", "normal", "high,normal", "HIGH", "1", "application/json", "application/json; charset=utf-16",
    "multipart/form-data", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "text/plain",
    "text/html", "gzip", "identity", "chunked", "Bearer secret", "Bearer " + "x" * 3000, "Basic eDp5", "llr_page=x",
    'llr_page="\\777"', "http://localhost", "http://evil.example", "null", "http://[::1", "localhost:99999", "[::1]",
    "127." + "1" * 5000 + ".0.1", "127.0.0.256", "bytes=0-", "*/*;q=x", "100-continue",
)  # fmt: skip


@dataclass(slots=True)
class Asked:
    method: str
    path: str  # with its query
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


class Requests:
    """An endless supply, the same for a seed."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)

    def next(self) -> Asked:
        rng = self._rng
        path = rng.choice(PATHS)
        if "%s" in path:
            path = path.replace("%s", self._quoted(rng.choice(TEXTS)))
        right = "POST" if path in ("/v1/chat/completions", "/v1/responses", "/v1/route") else "GET"
        method = right if rng.random() < 0.7 else rng.choice(METHODS)
        if rng.random() < 0.4:
            names = ("hours", "format", "model", *NAMES)
            pairs = [(rng.choice(names), rng.choice(TEXTS)) for _ in range(rng.randint(1, 3))]
            path += "?" + (urlencode(pairs, errors="surrogatepass") if rng.random() < 0.8 else self._raw_query())
        headers = {rng.choice(HEADERS): rng.choice(VALUES) for _ in range(rng.choice((0, 0, 1, 1, 2, 4)))}
        body = self._body(path) if method not in ("GET", "HEAD") or rng.random() < 0.05 else b""
        return Asked(method, path, headers, body)

    def torn(self, message: bytes) -> bytes:
        """`message` with some bytes changed, taken out or put in."""
        rng = self._rng
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(min(len(message), 400))
            put = rng.choice((b"", b"\n", b"\r\n", b" ", b"\0", b":", rng.randbytes(2)))
            message = message[:at] + put + message[at + rng.randint(0, 3) :]
        return message

    def _quoted(self, text: str) -> str:
        safe = self._rng.choice(("", "/", "/:@!$&'()*+,;="))
        return quote(text.encode("utf-8", "surrogatepass"), safe=safe)

    def _raw_query(self) -> str:
        return "".join(self._rng.choices("a=&%25;+[]?/é\\", k=self._rng.randint(0, 30))).encode().decode("latin-1")

    def _body(self, path: str) -> bytes:
        rng = self._rng
        kind = rng.random()
        if kind < 0.08:
            return rng.randbytes(rng.randint(0, 200))
        if kind < 0.16 or path == "/":
            names = ("prompt", "model", "key", "leave", "private", *NAMES[:5])
            pairs = [(rng.choice(names), rng.choice(TEXTS)) for _ in range(rng.randint(0, 4))]
            return urlencode(pairs, errors="surrogatepass").encode()
        document = copy.deepcopy(
            rng.choice((CHAT, RESPONSES)) if path == "/v1/route" else RESPONSES if "resp" in path else CHAT
        )
        for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
            self._spoil(document)
        if rng.random() < 0.3:
            document["stream"] = True
        raw = json.dumps(document, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
        if rng.random() < 0.12:
            at = rng.randrange(len(raw) + 1)
            raw = raw[:at] + rng.randbytes(rng.randint(0, 6)) + raw[at + rng.randint(0, 6) :]
        return raw

    def _spoil(self, document: dict[str, Any]) -> None:
        rng = self._rng
        places = paths(document)
        if not places:
            return
        *path, last = rng.choice(places)
        holder: Any = document
        for name in path:
            holder = holder[name]
        change = rng.random()
        if change < 0.2:
            del holder[last]
        elif change < 0.3 and isinstance(holder, dict):
            holder[rng.choice(NAMES)] = self._value(2)
        elif change < 0.4 and isinstance(holder, list):
            holder += copy.deepcopy(holder[:3]) * rng.choice((1, 2, 50))
        else:
            holder[last] = self._value(3)

    def _value(self, depth: int) -> Any:
        rng = self._rng
        kind = rng.random()
        if depth and kind < 0.2:
            return [self._value(depth - 1) for _ in range(rng.randint(0, 3))]
        if depth and kind < 0.4:
            return {rng.choice((*NAMES, *TEXTS)): self._value(depth - 1) for _ in range(rng.randint(0, 3))}
        numbers = (0, 1, -1, 2**31, 2**63, 10**40, 1e308, -0.0, 1.5, float("nan"))
        return rng.choice((None, True, False, rng.choice(numbers), rng.choice(TEXTS), rng.choice(WORDS)))

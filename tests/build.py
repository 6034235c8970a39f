"""Small makers of the values tests work on."""

from __future__ import annotations

import json
from typing import Any

from app import policy as policies
from app.settings import Settings
from app.types import CallRecord, ChatRequest, Policy
from app.wire.chat import request as chat


def policy(text: str, **settings: Any) -> Policy:
    """The policy of some YAML; no name is looked up."""
    return policies.load(text, "policy.yaml", Settings(**settings)).policy


def request(body: dict[str, Any] | str = "hello", **fields: Any) -> ChatRequest:
    """A chat request with a whole body, or with one user message."""
    document = {"messages": [{"role": "user", "content": body}]} if isinstance(body, str) else body
    parsed = chat.parse(json.dumps(document).encode())
    known = {"request_id": "req-1", "surface": "chat", "model": chat.model_of(parsed.chat)}
    return ChatRequest(**{**known, "body": parsed, "stream": bool(parsed.chat.get("stream")), **fields})


def record(**fields: Any) -> CallRecord:
    """A live call to `local` that went well and took 100 ms."""
    known = {
        "request_id": "req-1", "ts_ms": 1_700_000_000_000, "kind": "live", "backend": "local", "model": "m",
        "route": "default", "surface": "chat", "stream": False, "task": "general", "complexity": "low",
        "latency_ms": 100, "ttfb_ms": None, "outcome": "ok",
    }  # fmt: skip
    return CallRecord(**{**known, **fields})

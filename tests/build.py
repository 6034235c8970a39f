"""Small makers of the values tests work on."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

from app import policy as policies
from app.settings import Settings
from app.types import (
    CallRecord,
    ChatRequest,
    Classification,
    Egress,
    Ending,
    Policy,
    Target,
    Times,
    Usage,
    Verdict,
    Why,
)
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
    """A live call to `local` that went well and took 100 ms.  `fields` are those of the record and of its parts."""
    known = {
        "request_id": "req-1", "ts_ms": 1_700_000_000_000, "kind": "live", "backend": "local", "model": "m",
        "route": "default", "surface": "chat", "stream": False, "task": "general", "complexity": "low",
        "latency_ms": 100, "ttfb_ms": None, "outcome": "ok", "reason": "route",
    }  # fmt: skip
    return _composed({**known, **fields})


def flat(call: CallRecord) -> SimpleNamespace:
    """The fields of a record and of its parts, side by side."""
    found = {field.name: getattr(call, field.name) for field in dataclasses.fields(call) if field.name not in PARTS}
    for name, kind in PARTS.items():
        part = getattr(call, name)
        found |= {field.name: getattr(part, field.name, None) for field in dataclasses.fields(kind)}
    return SimpleNamespace(**found)


def changed(call: CallRecord, **fields: Any) -> CallRecord:
    """The record with other values in its fields and in those of its parts."""
    return _composed({**vars(flat(call)), **fields})


def worker_report(backend: str = "local", *, asked_ms: int = 1_700_000_000_000, **row: Any) -> dict[str, Any]:
    """The report of one worker on a backend with one model; `row` has members of this model's row."""
    known = {
        "model": "llama3.1:8b", "loaded": True, "window": 4096, "trained": 131_072, "size_bytes": 5_200_000_000,
        "gpu_share": 0.62, "expires_ms": None, "capabilities": ["completion", "tools"], "loads": 7, "evictions": 6,
        "expected": {"wait_ms": 4900, "load_ms": 0, "warm_ms": 180},
    }  # fmt: skip
    return {
        "in_flight": {backend: 2},
        "waiting": {backend: {"interactive": 1, "agent": 3, "background": 0}},
        "circuit_open": {backend: 0},
        "queued": 0,
        "models": {backend: {"asked_ms": asked_ms, "rows": [{**known, **row}]}},
    }


PARTS = {
    "target": Target, "why": Why, "times": Times, "ending": Ending, "usage": Usage, "egress": Egress,
    "tags": Classification, "verdict": Verdict,
}  # fmt: skip


def _composed(values: dict[str, Any]) -> CallRecord:
    parts: dict[str, Any] = {}
    for name, kind in PARTS.items():
        own = {field.name: values.pop(field.name) for field in dataclasses.fields(kind) if field.name in values}
        if kind is Classification:
            own = {field.name: own.get(field.name) for field in dataclasses.fields(kind)}
            parts[name] = kind(**own) if any(value is not None for value in own.values()) else None
        else:
            parts[name] = kind(**own)
    return CallRecord(**values, **parts)

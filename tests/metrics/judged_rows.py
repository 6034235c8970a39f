"""Made rows of requests whose answers were judged, as the flow writes them."""

from __future__ import annotations

from typing import Any

from app.types import Basis, CallRecord, Observations, Target
from tests import build

NOW = 1_700_000_000_000
POLICY = """\
backends:
  small: {type: ollama, models: [s], local: true, price: {input: 0, output: 0}}
  peer: {type: llamacpp, models: [p], local: true, price: {input: 0, output: 0}}
  strong: {type: openai, model: gpt, price: {input: 10, output: 20}}
routes:
  - match: {complexity: high}
    backend: strong
  - default: small
    fallback: strong
savings: {against: strong}
"""
BASIS = Basis(
    policy="v1", asked_model="", output_tokens=0, observations=Observations(), measured=False,
    targets=(Target("small", "s"), Target("strong", "gpt")),
)  # fmt: skip
SMALL = {"input_tokens": 100, "output_tokens": 10, "cost_usd": 0.0}
STRONG = {"backend": "strong", "model": "gpt", "input_tokens": 100, "output_tokens": 20, "cost_usd": 0.0014}
ESCALATED = {"reason": "escalated", **STRONG}
OPINION = {"backend": "peer", "model": "p", "kind": "verify", "reason": "verify", "lane": "background"}


def first(**fields: Any) -> CallRecord:
    """The first call of a request, which took 100 ms."""
    return build.record(**{"ts_ms": NOW, "backend": "small", "model": "s", "basis": BASIS, **SMALL, **fields})


def later(**fields: Any) -> CallRecord:
    """A further call of the same request."""
    return build.record(**{"ts_ms": NOW, **fields})


def kept(number: int, **fields: Any) -> list[CallRecord]:
    """A request whose first answer was kept, after a second opinion that cost nothing."""
    judged = {"verified": "kept", "doubt": 0.2, "agreement": 1.0, "held_ms": 200}
    name = {"request_id": f"kept-{number}"}
    return [first(**name, **judged, **fields), later(**name, **OPINION, **SMALL)]


def escalated(number: int, reason: str = "agreement", **fields: Any) -> list[CallRecord]:
    """A request whose first answer was not sent, and that the escalation target answered."""
    judged = {"verified": "escalated", "verified_reason": reason, "doubt": 0.8, "held_ms": 400}
    name = {"request_id": f"up-{reason}-{number}"}
    return [first(**name, **judged), later(**name, **{**ESCALATED, **fields})]

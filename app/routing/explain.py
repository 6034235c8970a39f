"""A decision in words, for /v1/route and `flask route explain`.  Pure."""

from __future__ import annotations

import dataclasses
from typing import Any

from app.types import Classification, Decision


def explanation(tags: Classification, decision: Decision) -> dict[str, Any]:
    """classification, route, targets in the order of tries, and the reasons."""
    return {
        "classification": dataclasses.asdict(tags),
        "route": decision.route,
        "targets": [{"backend": target.backend, "model": target.model} for target in decision.targets],
        "trace": [{"stage": step.stage, "outcome": step.outcome} for step in decision.trace],
    }

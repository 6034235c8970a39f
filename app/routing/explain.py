"""A decision in words, for /v1/route and `flask route explain`.  Pure.

The evidence can hold words of the prompt: it is for whoever asks, and never stored or logged.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from app.types import Decision, Evidence, Sign

_MOST_WORDS = 4


def explanation(evidence: Evidence, decision: Decision) -> dict[str, Any]:
    """The tags and what spoke for them, route, targets in the order of tries, and the reasons."""
    return {
        "classification": dataclasses.asdict(evidence.tags),
        "evidence": {
            "runner_up": evidence.runner_up,
            "task": [_said(in_words(sign.feature), sign) for sign in evidence.task_signs],
            "difficulty": [_said(sign.feature, sign) for sign in evidence.difficulty_signs],
        },
        "route": decision.route,
        "targets": [{"backend": target.backend, "model": target.model} for target in decision.targets],
        "trace": [{"stage": step.stage, "outcome": step.outcome} for step in decision.trace],
    }


def _said(name: str, sign: Sign) -> dict[str, Any]:
    words = ", ".join(sign.words[:_MOST_WORDS]) + (" …" if len(sign.words) > _MOST_WORDS else "")
    return {"sign": f"{name} ({words})" if words else name, "points": sign.points}


def in_words(feature: str) -> str:
    """A sign of the task: `<tech` is `tech words at the start` (features.py explains the names)."""
    where, colon, name = feature.rpartition(": ")
    place = ""
    if name.startswith("<"):
        name, place = name[1:], " at the start"
    elif name.endswith(">"):
        name, place = name[:-1], " at the end"
    if name.startswith("="):
        said = f'"{name[1:]}"'
    elif name.startswith("#"):
        said = f"shape: {name[1:]}"
    elif name.endswith("*"):
        said = f"several {name[:-1]} words"
    elif " " in name:
        said = name
    else:
        said = f"{name.replace('+', ' and ')} words"
    return f"{where}{colon}{said}{place}"

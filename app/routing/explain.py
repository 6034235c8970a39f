"""A decision in words, for /v1/route and `flask route explain`.  Pure.

The evidence can hold words of the prompt: it is for whoever asks, and never stored or logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from app.routing.features import SIZES
from app.types import Decision, Evidence, Outlook, Planned, Sign
from app.words import duration, usd

_MOST_WORDS = 4


def explanation(evidence: Evidence, decision: Decision, outlook: Outlook) -> dict[str, Any]:
    """The tags and what spoke for them, route, targets in the order of tries, the reasons, and what would be sent."""
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
        "calls": [_call(call) for call in outlook.calls],
        "mirrors": [{**_call(call), "kind": call.kind, "why": _why(call, decision)} for call in outlook.mirrors],
        "never": [{"backend": name, "why": why} for name, why in outlook.never.items()],
        "sensitivity_reason": decision.private_because,
    }


def _call(call: Planned) -> dict[str, Any]:
    estimate = call.estimate
    return {
        "backend": call.target.backend,
        "model": call.target.model,
        "local": call.local,
        "circuit": call.circuit,
        "expected_ms": estimate.expected_ms,
        "expected_from": estimate.expected_from,
        "price": dataclasses.asdict(estimate.price) if estimate.price else None,
        "input_tokens": estimate.input_tokens,
        "output_tokens": estimate.output_tokens,
        "input_usd": estimate.input_usd,
        "cost_usd": estimate.cost_usd,
        "url": call.url,
        "body": call.body,
        "sent_bytes": call.sent_bytes,
        "key_env": call.key_env,
        "key_set": call.key_set if call.key_env else None,
    }


def _why(call: Planned, decision: Decision) -> str:
    if call.kind == "shadow":
        return f"{call.share * 100:g} % of what {decision.primary} answers, for the A/B trial"
    return "now and then, to measure it"


_BODIES = {
    "passed_on": "as it came but for the model",
    "translated": "translated to chat",
    "native": "a Responses body, as it came but for the model",
}
_STATES = {"open": ", cooling down after failures", "half-open": ", on trial after failures"}


def what_is_sent(found: Mapping[str, Any]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What an explanation foresees, for people: titles (`first`, `then`, `beside`, `never`), each with lines."""
    for number, call in enumerate(found["calls"]):
        yield "then" if number else "first", (f"{_who(call)}, {_time(call)}, {_cost(call)}", *_way(call))
    known = {call["backend"] for call in found["calls"]}
    for call in found["mirrors"]:
        yield "beside", (f"{_who(call)}: {call['why']}", *(() if call["backend"] in known else _way(call)))
    reasons: dict[str, list[str]] = {}
    for one in found["never"]:
        reasons.setdefault(one["why"], []).append(one["backend"])
    for why, names in reasons.items():
        yield "never", (f"{', '.join(names)}: {why}",)


def _who(call: Mapping[str, Any]) -> str:
    place = "local" if call["local"] else "NOT LOCAL"
    return f"{call['backend']}/{call['model']}, {place}{_STATES.get(call['circuit'], '')}"


def _time(call: Mapping[str, Any]) -> str:
    if call["expected_ms"] is None:
        return "time unknown"
    return f"about {duration(call['expected_ms'])} ({'measured' if call['expected_from'] == 'measured' else 'p50Ms'})"


def _cost(call: Mapping[str, Any]) -> str:
    if call["price"] is None:
        return "cost unknown"
    if call["cost_usd"] is None:
        return f"{usd(call['input_usd'])} in, {usd(call['price']['output'])} per 1M tokens out"
    return f"at most {usd(call['cost_usd'])}" if call["cost_usd"] else "free"


def _way(call: Mapping[str, Any]) -> tuple[str, ...]:
    if call["url"] is None:
        return ("sent nowhere: it answers by itself",)
    return f"POST {call['url']}", f"{call['sent_bytes']:,} bytes, {_BODIES[call['body']]}; {_key(call)}"


def _key(call: Mapping[str, Any]) -> str:
    if call["key_env"] is None:
        return "no key"
    return f"key from {call['key_env']}" if call["key_set"] else f"{call['key_env']} is not set: it fails"


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
    elif name.startswith("#size"):
        said = f"a length of {_length(int(name[5:]))}"
    elif name.startswith("#"):
        said = f"shape: {name[1:]}"
    elif name.endswith("*"):
        said = f"several {_list(name[:-1])} words"
    elif " " in name:
        said = name
    else:
        said = f"{' and '.join(map(_list, name.split('+')))} words"
    return f"{where}{colon}{said}{place}"


# Where the name of a word list (lexicon_task.txt) says too little by itself.
_LISTS = {
    "codenoun": "code noun", "codething": "code thing", "codeverb": "code verb", "techweak": "faintly technical",
    "howto": "how-to", "weatherstrong": "plain weather", "nowstrong": "plainly present", "deictic": "pointing",
    "sortverb": "sorting", "labelnoun": "label", "qagen": "question-making",
    "taskdef": "task-giving", "whichof": "which-of", "person": "personal",
    "subject": "article and pronoun", "post": "office", "yearago": "history",
}  # fmt: skip


def _list(name: str) -> str:
    return _LISTS.get(name, name)


def _length(step: int) -> str:
    """Of a text, in characters."""
    low = SIZES[step - 1] + 1 if step else 0
    return f"{low} to {SIZES[step]} characters" if step < len(SIZES) else f"over {SIZES[-1]} characters"

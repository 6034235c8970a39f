"""Explain a decision in words, for POST /v1/route, `flask route explain` and the dashboard.  Pure.

The evidence can hold words of the prompt: it goes to the client of this request only, and is never stored or logged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from app.routing.expected import document, parts
from app.routing.features import SIZES
from app.types import Decision, DryRun, Evidence, JsonDict, JsonObject, Kind, PlannedCall, Sign, Target
from app.words import duration, usd

_MAX_WORDS = 4


def explanation(evidence: Evidence, decision: Decision, dry_run: DryRun) -> JsonDict:
    """Return the tags with their evidence, the route, the targets in the order of tries, and the calls to be made."""
    return {
        "classification": dataclasses.asdict(evidence.tags),
        "evidence": {
            "runner_up": evidence.runner_up,
            "task": [_sign(task_sign_in_words(sign.feature), sign) for sign in evidence.task_signs],
            "difficulty": [_sign(sign.feature, sign) for sign in evidence.difficulty_signs],
        },
        "route": decision.route,
        "targets": [_named(target) for target in decision.targets],
        "trace": [{"stage": step.stage, "outcome": step.outcome} for step in decision.trace],
        "calls": [_call(call) for call in dry_run.calls],
        "mirrors": [{**_call(call), "kind": call.kind, "why": _why(call, decision)} for call in dry_run.shadows],
        "verify": _verification(decision),
        "never": [{"backend": name, "why": why} for name, why in dry_run.never.items()],
        "sensitivity_reason": decision.private_because,
        "conversation": {
            **dataclasses.asdict(evidence.origin),
            "alone": {"task": evidence.alone[0], "probability": round(evidence.alone[1], 2)},
        },
    }


def _named(target: Target) -> JsonDict:
    pool = {"pool": target.pool} if target.pool else {}
    return {"backend": target.backend, "model": target.model, **pool}


def _verification(decision: Decision) -> JsonDict | None:
    """Return how the answer of the first target will be judged; None when it will not."""
    plan = decision.verification
    if plan is None:
        return None
    rules = plan.rules
    return {
        "holds": plan.holds,
        "by": sorted(rules.by),
        "doubt": rules.doubt,
        "second": _named(plan.second) if plan.second else None,
        "escalate": [_named(target) for target in plan.escalation],
        "max_hold_ms": rules.max_hold_ms,
        "max_hold_tokens": rules.max_hold_tokens,
    }


def _call(call: PlannedCall) -> JsonDict:
    estimate = call.estimate
    return {
        **_named(call.target),
        "local": call.local,
        "circuit": call.circuit,
        "expected_ms": estimate.expected_ms,
        "expected_from": estimate.expected_from,
        "expected": {**document(estimate.time), "ahead": estimate.time.ahead, "delays": parts(estimate.time)},
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


def _why(call: PlannedCall, decision: Decision) -> str:
    if call.kind == Kind.SHADOW:
        return f"{call.share * 100:g} % of what {decision.primary} answers, for the A/B trial"
    if call.kind == Kind.VERIFY:
        return f"a second opinion on the answer of {decision.targets[0].backend}, when answers can be compared"
    return "from time to time, to measure it"


_BODIES = {
    "passed_on": "unchanged except for the model",
    "translated": "translated",
    "native": "in the client's form, unchanged except for the model",
}
_CIRCUITS = {"open": ", circuit open after failures", "half-open": ", circuit half-open: one trial call at a time"}


def describe_calls(document: JsonObject) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the calls of an explanation as text: a title (`first`, `then`, `beside`, `never`) and its lines."""
    calls = document["calls"]
    for number, call in enumerate(calls):
        yield "then" if number else "first", (f"{_target(call)}, {_time(call)}, {_cost(call)}", *_transfer(call))
    described = {call["backend"] for call in calls}
    for call in document["mirrors"]:
        yield "beside", (f"{_target(call)}: {call['why']}", *(() if call["backend"] in described else _transfer(call)))
    backends_by_reason: dict[str, list[str]] = {}
    for backend in document["never"]:
        backends_by_reason.setdefault(backend["why"], []).append(backend["backend"])
    for why, names in backends_by_reason.items():
        yield "never", (f"{', '.join(names)}: {why}",)


def _target(call: JsonObject) -> str:
    place = "local" if call["local"] else "NOT LOCAL"
    pool = f" of the pool {call['pool']}" if "pool" in call else ""
    return f"{call['backend']}/{call['model']}{pool}, {place}{_CIRCUITS.get(call['circuit'], '')}"


def _time(call: JsonObject) -> str:
    more = f"; {delays}" if (delays := call["expected"]["delays"]) else ""
    if call["expected_ms"] is None:
        return f"time unknown{more}"
    source = "measured" if call["expected_from"] == "measured" else "p50Ms"
    return f"about {duration(call['expected_ms'])} ({source}{more})"


def _cost(call: JsonObject) -> str:
    if call["price"] is None:
        return "cost unknown"
    if call["cost_usd"] is None:
        return f"{usd(call['input_usd'])} in, {usd(call['price']['output'])} per 1M tokens out"
    return f"at most {usd(call['cost_usd'])}" if call["cost_usd"] else "free"


def _transfer(call: JsonObject) -> tuple[str, ...]:
    if call["url"] is None:
        return ("no request is sent: this backend is a part of the router",)
    return f"POST {call['url']}", f"{call['sent_bytes']:,} bytes, {_BODIES[call['body']]}; {_key(call)}"


def _key(call: JsonObject) -> str:
    if call["key_env"] is None:
        return "no key"
    return f"key from {call['key_env']}" if call["key_set"] else f"{call['key_env']} is not set: the call would fail"


def _sign(name: str, sign: Sign) -> JsonDict:
    words = ", ".join(sign.words[:_MAX_WORDS]) + (" …" if len(sign.words) > _MAX_WORDS else "")
    return {"sign": f"{name} ({words})" if words else name, "points": sign.points}


def task_sign_in_words(feature: str) -> str:
    """Return the name of a feature as readable text: `<tech` is `tech words at the start` (see features.py)."""
    prefix, colon, name = feature.rpartition(": ")
    place = ""
    if name.startswith(("<", "1")):
        place = " at the start" if name[0] == "<" else " first"
        name = name[1:]
    elif name.endswith(">"):
        name, place = name[:-1], " at the end"
    if name.startswith("="):
        text = f'"{name[1:]}"'
    elif name.startswith("#size"):
        text = f"a length of {_length(int(name[5:]))}"
    elif name.startswith("#"):
        text = f"shape: {_list(name[1:])}"
    elif name.endswith("*"):
        text = f"several {_list(name[:-1])} words"
    elif " " in name:
        text = name
    else:
        text = f"{' and '.join(map(_list, name.split('+')))} words"
    return f"{prefix}{colon}{text}{place}"


# Word lists of lexicon_task.txt whose names are no readable text.
_LISTS = {
    "codenoun": "code noun", "codething": "code thing", "codeverb": "code verb", "techweak": "ambiguous tech",
    "howto": "how-to", "weatherstrong": "clear weather", "nowstrong": "present time", "deictic": "demonstrative",
    "sortverb": "sorting", "labelnoun": "label", "qagen": "question-writing",
    "taskdef": "task-definition", "whichof": "which-of", "person": "personal",
    "subject": "article and pronoun", "post": "office", "yearago": "history", "text": "kind-of-text",
    "item": "labelled-thing", "given": "a given text", "more": "further sentences", "bare": "no given text",
}  # fmt: skip


def _list(name: str) -> str:
    return _LISTS.get(name, name)


def _length(step: int) -> str:
    """Return the range of characters of a step of SIZES."""
    low = SIZES[step - 1] + 1 if step else 0
    return f"{low} to {SIZES[step]} characters" if step < len(SIZES) else f"over {SIZES[-1]} characters"

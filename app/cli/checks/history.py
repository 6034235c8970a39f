"""Checks of the last hour: failing backends, circuits, spilled, pinned, unpriced and refused requests."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from app.cli.checks.backends import start
from app.cli.checks.seen import Finding, Seen
from app.cli.common import counted
from app.metrics.queries import CallGroup
from app.types import BackendConfig
from app.words import utc

_FEW = 3  # fewer failures, pins or refusals in an hour are no pattern
_FAILING = 0.1  # of the calls: the share of the alert LLRManyErrors
_WRONG = 0.5  # of the calls: requests that the backend refuses as wrong are some client's fault
_SPILLING = 0.25  # of a route's requests: less is what a budget is for
_PINNED = 0.2  # of the calls that leave
_MOST_NAMES = 3  # in a sentence

# Kinds that say nothing of the backend: ours, or the client's request.
_OURS = frozenset(("privacy", "internal", "descriptors", "ports", "memory"))
_BACKENDS = (401, 402, 403, 404, 408, 409, 425, 429)  # the statuses 4xx that are not the client's mistake
_CLIENTS = frozenset(f"http_{status}" for status in range(400, 500) if status not in _BACKENDS)

_SERVER = "read its log: it answered, with an error of its own"
_BROKEN = "read its log: its answers break off; a proxy between may cut them, or another server stand at `endpoint`"
_FIXES = {
    "refused": "{start}",
    "unreachable": "is the machine on, and in the same network? In a container: does it have a network?",
    "dns": "correct the host in its `endpoint`; in a container use the name of the other container",
    "tls": "use http:// if the server has no certificate, or mend the certificate",
    "timeout": "is it overloaded, or loading a model? Keep the model loaded, set `maxConcurrency` to what it runs in "
    "parallel, or raise `timeouts.firstByteMs` and `idleMs`",
    "busy": "raise `maxConcurrency` to what it runs in parallel, or add a `fallback`",
    "no_key": "set {key} for the router's process, and restart it",
    "reset": _BROKEN,
    "protocol": _BROKEN,
    "truncated": _BROKEN,
    "error_body": _SERVER,
    "error_event": _SERVER,
    "http_401": "its key is refused: put a valid one into {key}",
    "http_402": "its account has no balance: top it up, or take the backend out of the routes",
    "http_403": "its key is refused: put a valid one into {key}",
    "http_404": "it does not hold the model that was asked for: {pull}, or correct `endpoint`",
    "http_429": "it limits the rate: send it less, raise the limit of its account, or add a `fallback`",
}


def failing(seen: Seen) -> Iterator[Finding]:
    for name, config in seen.policy.backends.items():
        calls = [group for group in seen.calls if group.backend == name and group.outcome != "cancelled"]
        failed = [group for group in calls if group.outcome == "error" and group.error not in _OURS]
        wrong = [group for group in failed if group.error in _CLIENTS]
        ill = [group for group in failed if group.error not in _CLIENTS]
        if _number(ill) >= _FEW and _number(ill) >= _FAILING * _number(calls):
            kind = _kinds(ill).most_common(1)[0][0]
            yield Finding("failing", name, _failures(calls, ill), _fix(kind, config))
        if _number(wrong) >= _FEW and _number(wrong) >= _WRONG * _number(calls):
            what = f"it refuses {_share(wrong, calls)} of the last hour as wrong: {_counted(_kinds(wrong))}"
            fix = "the client gets its words: read them there; `/v1/route` shows what is sent"
            yield Finding("failing", name, what, fix)


def _failures(calls: Sequence[CallGroup], failed: Sequence[CallGroup]) -> str:
    answered = [group.last_ms for group in calls if group.outcome == "ok"]
    since = utc(min(group.first_ms for group in failed))
    last = f"the last answer was at {utc(max(answered))}" if answered else "none was answered"
    return f"{_share(failed, calls)} of the last hour failed, since {since}: {_counted(_kinds(failed))}; {last}"


def _fix(kind: str, config: BackendConfig) -> str:
    pull = f"`ollama pull {config.models[0]}`" if config.type == "ollama" and config.models else "name one it has"
    words = _FIXES.get(kind, _SERVER if kind.startswith("http_5") else _BROKEN)
    return words.format(start=start(config), key=config.api_key_env or "the variable that `apiKeyEnv` names", pull=pull)


def cooling(seen: Seen) -> Iterator[Finding]:
    for name, workers in seen.circuit_open.items():
        if workers and name in seen.policy.backends:
            what = f"it is cooling down after failures in {workers} of {seen.workers} workers, and tried last there"
            failed = (group for group in seen.calls if group.backend == name and group.outcome == "error")
            kinds = _kinds(failed).most_common(1)
            fix = _fix(kinds[0][0], seen.policy.backends[name]) if kinds else "read the log for the cause"
            yield Finding("circuit", name, what, f"{fix}; it is tried again by itself within two minutes")


_WHY = {
    "spill": "{backend} was expected to take longer than latencyBudgetMs{budget}",
    "cooling": "{backend} was cooling down after failures",
    "fit": "the prompt did not fit `contextWindow` of {backend}",
}
_SPILL_FIXES = {
    "spill": "raise the route's `latencyBudgetMs`, keep the model loaded, or take a smaller one",
    "cooling": "mend {backend}: its failures are named above, or in the log",
    "fit": "raise the server's context and `contextWindow`, or route long prompts (`tokens`) elsewhere",
}


def spilling(seen: Seen) -> Iterator[Finding]:
    for route in seen.policy.routes:
        requests = [group for group in seen.calls if group.route == route.label and group.reason != "fallback"]
        spilled = [group for group in requests if group.reason in _WHY]
        if _number(spilled) < _FEW or _number(spilled) < _SPILLING * _number(requests):
            continue
        reasons = Counter[str]()
        for group in spilled:
            reasons[str(group.reason)] += group.calls
        budget = f" ({route.latency_budget_ms:.0f})" if route.latency_budget_ms else ""
        why = "; ".join(
            f"{count} because {_WHY[reason].format(backend=route.backend, budget=budget)}"
            for reason, count in reasons.most_common()
        )
        what = f"{_share(spilled, requests, 'requests')} of the last hour went past {route.backend}: {why}"
        fix = _SPILL_FIXES[reasons.most_common(1)[0][0]].format(backend=route.backend)
        yield Finding("spill", route.label, what, fix)


def pins(seen: Seen) -> Iterator[Finding]:
    """Calls that left because a client named a model.  An alias is the operator's own word: it does not count."""
    if seen.policy.pins in ("local", "none"):
        return
    away = [group for group in seen.calls if group.is_away]
    aliases = {alias.casefold() for alias in seen.policy.aliases}
    pinned = [group for group in away if group.reason == "pin" and (group.asked_model or "").casefold() not in aliases]
    if _number(pinned) < _FEW or _number(pinned) < _PINNED * _number(away):
        return
    names = Counter[str]()
    for group in pinned:
        names[group.asked_model or group.backend] += group.calls
    what = (
        f"{_share(pinned, away)} of the last hour that left this machine did so because clients named a model, "
        f"past the routes: {_counted(names)}"
    )
    fix = "`pins: local` lets requests name local models only"
    if foreign := [name for name, _ in names.most_common() if name.partition("/")[0] not in seen.policy.backends]:
        fix = f"`aliases: {{{json.dumps(foreign[0])}: auto}}` sends requests that name it by the routes; {fix}"
    yield Finding("pins", "pins", what, fix)


def unpriced(seen: Seen) -> Iterator[Finding]:
    for name, config in seen.policy.backends.items():
        calls = [group for group in seen.calls if group.backend == name and group.is_away and group.outcome == "ok"]
        if calls and config.price is None:
            number = counted(_number(calls), "call")
            what = f"it has no price, and {number} of the last hour left for it: what they cost is unknown"
            fix = "write `price: {input: …, output: …}` in its entry: USD per million tokens, from its provider's list"
            yield Finding("price", name, what, fix)


_BODY = "the client's error names the field; read it there"
_CONVERSATION = (
    "raise `responses.ttlHours` and `maxRows`, or let the client send the whole conversation; with LLR_API_KEYS only "
    "the key that made a response reads it"
)
_REFUSALS = {
    "invalid_api_key": "give the client a key of LLR_API_KEYS",
    "host_not_allowed": "add the name by which clients reach the router to LLR_ALLOWED_HOSTS",
    "origin_not_allowed": "add the web page's origin to LLR_ALLOWED_ORIGINS, if it is yours",
    "bad_request": _BODY,
    "request_too_large": "raise LLR_MAX_BODY_BYTES, or send less",
    "unsupported_media_type": "let the client send JSON, uncompressed, as `Content-Type: application/json`",
    "context_length_exceeded": "give the route a backend with a larger `contextWindow`",
    "no_eligible_backend": "add a local backend for private requests: `flask backends list` shows what is local",
    "model_not_found": "correct the model in the client, or write an alias: `aliases: {ITS NAME: auto}`",
    "not_found": "correct the client's base URL: it ends in /v1",
    "method_not_allowed": "correct the client's base URL: it ends in /v1",
    "previous_response_not_found": _CONVERSATION,
    "item_not_found": _CONVERSATION,
    "response_not_found": _CONVERSATION,
    "busy": "raise `maxConcurrency` to what the servers run in parallel, or add a `fallback`",
}


def refusals(seen: Seen) -> Iterator[Finding]:
    for code, number in seen.refusals.items():
        if number >= _FEW:
            what = f"{number} requests of the last hour were refused before any call"
            yield Finding("refusals", code, what, _REFUSALS.get(code, "docs/api.md lists the codes under Errors"))


def _number(groups: Iterable[CallGroup]) -> int:
    return sum(group.calls for group in groups)


def _kinds(groups: Iterable[CallGroup]) -> Counter[str]:
    kinds = Counter[str]()
    for group in groups:
        kinds[group.error or "unknown"] += group.calls
    return kinds


def _share(some: Iterable[CallGroup], groups: Iterable[CallGroup], word: str = "calls") -> str:
    """`23 of 27 calls (85 %)`"""
    few, many = _number(some), _number(groups)
    return f"{few} of {many} {word} ({few / many:.0%})"


def _counted(names: Counter[str]) -> str:
    """`20 x refused, 3 x timeout`"""
    shown = ", ".join(f"{count} x {name}" for name, count in names.most_common(_MOST_NAMES))
    return shown + (" …" if len(names) > _MOST_NAMES else "")

"""Check the last hour: failures, open circuits, and requests that spilled, were pinned or were refused."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from math import inf

from app.cli.checks.backends import BAD_TLS, OFFLINE, REFUSED_KEY, WRONG_HOST, start
from app.cli.checks.facts import Facts, Finding
from app.cli.common import counted
from app.metrics.queries import CallGroup
from app.types import BackendConfig, Outcome, Reason, Route
from app.words import duration, utc

_FEW = 3  # fewer failures, pins or refusals in an hour are no finding
_FAILING = 0.1  # share of the calls, as in the alert LLRManyErrors
_REJECTED = 0.5  # share of the calls: a backend rejects the bad requests of some clients
_SPILLING = 0.25  # share of a route's requests: a smaller share is the purpose of a budget
_PINNED = 0.2  # share of the calls that leave
_MOST_NAMES = 3  # that one sentence lists

# Kinds of errors that are not the backend's fault: the router's own, and bad requests of clients.
_OURS = frozenset(("privacy", "internal", "descriptors", "ports", "memory"))
_UNFIT = frozenset(("too_long", "unsupported"))  # the next target was tried, as it should be
_BACKENDS = (401, 402, 403, 404, 408, 409, 425, 429)  # the statuses 4xx that are not the client's fault
_CLIENTS = frozenset(f"http_{status}" for status in range(400, 500) if status not in _BACKENDS)

_SERVER = "read the log of the backend, which replied with an error of its own"
_BROKEN = (
    "read the log of the backend: its replies are incomplete; a proxy between may cut them, or another program may "
    "listen at `endpoint`"
)
_FIXES = {
    "refused": "{start}",
    "unreachable": OFFLINE,
    "dns": WRONG_HOST,
    "tls": BAD_TLS,
    "timeout": "it may be overloaded or loading a model: keep the model loaded, set `maxConcurrency` to the number of "
    "requests that it runs in parallel, or raise `timeouts.firstByteMs` and `idleMs`",
    "busy": "raise `maxConcurrency` to the number of requests that it runs in parallel, or add a `fallback`",
    "no_key": "set {key} for the router's process, and restart it",
    "reset": _BROKEN,
    "protocol": _BROKEN,
    "truncated": _BROKEN,
    "error_body": _SERVER,
    "error_event": _SERVER,
    "http_401": REFUSED_KEY,
    "http_402": "its account has no balance: top it up, or remove the backend from the routes",
    "http_403": REFUSED_KEY,
    "http_404": "it does not have the requested model: {pull}, or correct `endpoint`",
    "http_429": "it limits the rate: send fewer requests, raise the limit of the account, or add a `fallback`",
}


def failing(facts: Facts) -> Iterator[Finding]:
    for name, config in facts.policy.backends.items():
        calls = [group for group in facts.calls if group.backend == name and group.outcome != Outcome.CANCELLED]
        errors = [group for group in calls if group.outcome == Outcome.ERROR and group.error not in _OURS | _UNFIT]
        rejections = [group for group in errors if group.error in _CLIENTS]
        failures = [group for group in errors if group.error not in _CLIENTS]
        if _number(failures) >= _FEW and _number(failures) >= _FAILING * _number(calls):
            kind = _kinds(failures).most_common(1)[0][0]
            yield Finding("failing", name, _summary(calls, failures), _fix(kind, config))
        if _number(rejections) >= _FEW and _number(rejections) >= _REJECTED * _number(calls):
            what = f"it rejected {_share(rejections, calls)} of the last hour: {_list(_kinds(rejections))}"
            fix = "read the error at the client, which gets the backend's own message; `/v1/route` shows what is sent"
            yield Finding("failing", name, what, fix)


def _summary(calls: Sequence[CallGroup], failures: Sequence[CallGroup]) -> str:
    successes = [group.last_ms for group in calls if group.outcome == Outcome.OK]
    since = utc(min(group.first_ms for group in failures))
    last = f"the last call that succeeded was at {utc(max(successes))}" if successes else "no call succeeded"
    return f"{_share(failures, calls)} of the last hour failed, since {since}: {_list(_kinds(failures))}; {last}"


def _fix(kind: str, config: BackendConfig) -> str:
    pull = f"`ollama pull {config.models[0]}`" if config.type == "ollama" and config.models else "name a model it has"
    text = _FIXES.get(kind, _SERVER if kind.startswith("http_5") else _BROKEN)
    return text.format(start=start(config), key=config.api_key_env or "the variable that `apiKeyEnv` names", pull=pull)


def circuits(facts: Facts) -> Iterator[Finding]:
    for name, workers in facts.open_circuits.items():
        if workers and name in facts.policy.backends:
            what = (
                f"its circuit is open after failures in {workers} of {facts.workers} workers, which try it after all "
                "other backends"
            )
            failures = (group for group in facts.calls if (group.backend, group.outcome) == (name, Outcome.ERROR))
            kinds = _kinds(failures).most_common(1)
            fix = _fix(kinds[0][0], facts.policy.backends[name]) if kinds else "read the log for the cause"
            yield Finding("circuit", name, what, f"{fix}; the router tries it again within two minutes")


_CAUSES: dict[str | None, str] = {
    Reason.SPILL: "{backend} was expected to take longer than latencyBudgetMs{budget}",
    Reason.COOLING: "the circuit of {backend} was open after failures",
    Reason.QUEUE: "the queue of {backend} was too long",
    Reason.CAPABILITY: "the model of {backend} lacks what the requests need",
    Reason.FIT: "the prompt did not fit the context window of {backend}",
}
_SPILL_FIXES: dict[str, str] = {
    Reason.SPILL: "keep the model loaded, use a smaller model, or raise the route's `latencyBudgetMs`",
    Reason.COOLING: "fix {backend}: the findings above or the log name its failures",
    Reason.QUEUE: "raise `maxWaitMs`, raise `maxConcurrency` if the server can take more calls, or add a backend",
    Reason.CAPABILITY: "name a model with tools or vision at {backend}, or add a route for such requests",
    Reason.FIT: "raise the server's context window and `contextWindow`, or add a route for long prompts (`tokens`)",
}


def spilling(facts: Facts) -> Iterator[Finding]:
    for route in facts.policy.routes:
        calls = [group for group in facts.calls if group.route == route.label]
        requests = [group for group in calls if group.reason not in (Reason.FALLBACK, Reason.ESCALATED)]
        spills = [group for group in requests if group.reason in _CAUSES]
        if _number(spills) < _FEW or _number(spills) < _SPILLING * _number(requests):
            continue
        reasons = Counter[str]()
        for group in spills:
            reasons[str(group.reason)] += group.calls
        budget = f" ({route.latency_budget_ms:.0f})" if route.latency_budget_ms else ""
        causes = "; ".join(
            f"{count} because {_CAUSES[reason].format(backend=route.backend, budget=budget)}"
            for reason, count in reasons.most_common()
        )
        what = f"{_share(spills, requests, 'requests')} of the last hour went past {route.backend}: {causes}"
        reason = reasons.most_common(1)[0][0]
        fix = _when_warm(facts, route) if reason == Reason.SPILL else ""
        yield Finding("spill", route.label, what, fix or _SPILL_FIXES[reason].format(backend=route.backend))


def _when_warm(facts: Facts, route: Route) -> str:
    """Return the fix for a backend that meets the budget except while it loads a model or has a queue; else ""."""
    targets = [(name, facts.model_of(route, name)) for name in facts.policy.members(route.backend)]
    measured = [(facts.timings.warm_ms[target], target[1]) for target in targets if target in facts.timings.warm_ms]
    warm_ms, model = min(measured, default=(inf, ""))
    if warm_ms > (route.latency_budget_ms or 0):
        return ""
    return (
        f"leave the budget, because {model} takes {duration(warm_ms)} while it is loaded and no call waits: keep it "
        "loaded (`keepAlive`, `preload`), or let the server run more calls at the same time (`maxConcurrency`)"
    )


def pins(facts: Facts) -> Iterator[Finding]:
    """Report calls that left because a client named a model.  Aliases do not count: the operator wrote them."""
    if facts.policy.pins in ("local", "none"):
        return
    remote = [group for group in facts.calls if group.is_away]
    aliases = {alias.casefold() for alias in facts.policy.aliases}
    pinned = [
        group for group in remote if group.reason == Reason.PIN and (group.asked_model or "").casefold() not in aliases
    ]
    if _number(pinned) < _FEW or _number(pinned) < _PINNED * _number(remote):
        return
    names = Counter[str]()
    for group in pinned:
        names[group.asked_model or group.backend] += group.calls
    what = (
        f"{_share(pinned, remote)} of the last hour left this machine because clients named a model, which skips the "
        f"routes: {_list(names)}"
    )
    fix = "`pins: local` lets requests name local models only"
    if foreign := [name for name, _ in names.most_common() if name.partition("/")[0] not in facts.policy.backends]:
        fix = f"`aliases: {{{json.dumps(foreign[0])}: auto}}` sends requests that name it by the routes; {fix}"
    yield Finding("pins", "pins", what, fix)


def unpriced(facts: Facts) -> Iterator[Finding]:
    for name, config in facts.policy.backends.items():
        calls = [
            group for group in facts.calls if (group.backend, group.outcome) == (name, Outcome.OK) and group.is_away
        ]
        if calls and config.price is None:
            what = f"it has no price, so the cost of {counted(_number(calls), 'call')} in the last hour is unknown"
            fix = "write `price: {input: …, output: …}` in its entry: USD per million tokens, from its provider's list"
            yield Finding("price", name, what, fix)


_BODY = "read the error at the client: it names the field"
_CONVERSATION = (
    "raise `responses.ttlHours` and `maxRows`, or let the client send the whole conversation; with LLR_API_KEYS only "
    "the key that made a response can read it"
)
_REFUSALS = {
    "invalid_api_key": "give the client a key of LLR_API_KEYS",
    "host_not_allowed": "add the host name that clients use to LLR_ALLOWED_HOSTS",
    "origin_not_allowed": "add the origin of the web page to LLR_ALLOWED_ORIGINS, if the page is yours",
    "bad_request": _BODY,
    "request_too_large": "raise LLR_MAX_BODY_BYTES, or send smaller requests",
    "unsupported_media_type": "let the client send uncompressed JSON with `Content-Type: application/json`",
    "context_length_exceeded": "give the route a backend with a larger `contextWindow`",
    "unsupported_by_models": "name a model with tools or vision in the route: `flask backends list` lists them",
    "no_eligible_backend": "add a local backend for private requests: `flask backends list` shows what is local",
    "model_not_found": "correct the model in the client, or write an alias: `aliases: {ITS NAME: auto}`",
    "not_found": "correct the client's base URL: it ends in /v1",
    "method_not_allowed": "correct the client's base URL: it ends in /v1",
    "previous_response_not_found": _CONVERSATION,
    "item_not_found": _CONVERSATION,
    "response_not_found": _CONVERSATION,
    "busy": "raise `maxConcurrency` to the number of requests that the servers run in parallel, or add a `fallback`",
}


def refusals(facts: Facts) -> Iterator[Finding]:
    for code, number in facts.refusals.items():
        if number >= _FEW:
            what = f"the router refused {number} requests of the last hour before any call"
            yield Finding("refusals", code, what, _REFUSALS.get(code, "docs/api.md describes the codes under Errors"))


def _number(groups: Iterable[CallGroup]) -> int:
    return sum(group.calls for group in groups)


def _kinds(groups: Iterable[CallGroup]) -> Counter[str]:
    kinds = Counter[str]()
    for group in groups:
        kinds[group.error or "unknown"] += group.calls
    return kinds


def _share(part: Iterable[CallGroup], groups: Iterable[CallGroup], word: str = "calls") -> str:
    """Return a share as `23 of 27 calls (85%)`."""
    number, total = _number(part), _number(groups)
    return f"{number} of {total} {word} ({number / total:.0%})"


def _list(names: Counter[str]) -> str:
    """Return counts as `20 x refused, 3 x timeout`."""
    first = ", ".join(f"{count} x {name}" for name, count in names.most_common(_MOST_NAMES))
    return first + (" …" if len(names) > _MOST_NAMES else "")

"""Check the routes that judge answers: their evidence, the last day, and second opinions that cost loads."""

from __future__ import annotations

from collections.abc import Iterator

from app.cli.checks.facts import Facts, Finding
from app.cli.checks.loads import loads
from app.cli.common import counted
from app.types import Route, Verification
from app.words import duration

_ENOUGH = 20  # requests of a route in a day, from which on `dailyShare` holds
_RELEASED = 0.5  # share of the held answers
_FEW = 3  # fewer loads in an hour are no finding


def evidence(facts: Facts) -> Iterator[Finding]:
    """Report routes whose answers can be judged by their structure alone, although the policy wants more."""
    for route in facts.policy.routes:
        rules = route.verify
        if rules is None or "confidence" not in rules.by or rules.second is not None or rules.samples > 1:
            continue
        for name in facts.policy.members(route.backend):
            reply = facts.discoveries.get(name)
            if reply is None or reply.error or reply.gives_logprobs:
                continue
            what = (
                f"{name} gives no log-probabilities and there is no second opinion, so answers are judged by their "
                "structure alone"
            )
            fix = (
                "write `second: BACKEND` or `samples: 2` in its `verify`, or use llama.cpp, vLLM, or a newer Ollama, "
                "which give log-probabilities"
            )
            yield Finding("confidence", route.label, what, fix)


def daily_shares(facts: Facts) -> Iterator[Finding]:
    """Report routes whose escalations of the last 24 hours have reached `dailyShare`."""
    for row in facts.judged:
        share, requests, escalated = row["daily_share"], row["requests"], row["escalated"]
        if share is None or requests < _ENOUGH or escalated < share * requests:
            continue
        what = (
            f"{escalated} of {requests} requests of the last 24 hours were escalated, as many as `dailyShare` "
            f"({share:g}) allows: further answers are sent as they come"
        )
        fix = (
            "raise `dailyShare`, or accept more `doubt` (`flask verify tune` finds it), or send such requests to a "
            "better first model"
        )
        yield Finding("daily-share", row["route"], what, fix)


def releases(facts: Facts) -> Iterator[Finding]:
    """Report routes of which most answers were sent before they were judged."""
    for row in facts.judged:
        first, released = row["asked_first"], row["released"]
        if first < _ENOUGH or released < _RELEASED * first:
            continue
        what = (
            f"{released} of {first} answers of the last 24 hours were sent before they were judged, because they took "
            "longer than `maxHoldMs` or `maxHoldTokens` allows"
        )
        fix = "raise `maxHoldMs` and `maxHoldTokens`, use a faster first model, or take long answers out with `match`"
        yield Finding("released", row["route"], what, fix)


def second_opinions(facts: Facts) -> Iterator[Finding]:
    """Report second opinions whose model and the first one remove each other from memory."""
    for route in facts.policy.routes:
        if route.verify is None or route.verify.second is None:
            continue
        for backend, first, second in _pairs(route, route.verify, facts):
            turns = [
                load
                for load in loads(facts.timed)
                if load.backend == backend and {load.model} | (load.others & {first, second}) == {first, second}
            ]
            if len(turns) >= _FEW:
                took = duration(sum(load.took_ms for load in turns))
                what = (
                    f"its second opinions make {first} and {second} take turns in the memory of {backend}: "
                    f"{counted(len(turns), 'load')} in the last hour took {took}"
                )
                fix = (
                    "use `samples: 2` instead of `second`, a `second` on another server, or raise "
                    "OLLAMA_MAX_LOADED_MODELS if the memory holds both"
                )
                yield Finding("second-opinion", route.label, what, fix)


def _pairs(route: Route, rules: Verification, facts: Facts) -> Iterator[tuple[str, str, str]]:
    """Yield the backends that give both answers, with the two models."""
    for name in facts.policy.members(route.backend):
        if name == rules.second:
            first = facts.model_of(route, name)
            second = rules.second_model or first
            if first != second:
                yield name, first, second

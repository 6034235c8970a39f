"""Check the policy: private requests, latency budgets and echo backends."""

from __future__ import annotations

from collections.abc import Iterator

from app.cli.checks.facts import Facts, Finding
from app.routing.expected import expected_ms
from app.types import Observations, Route, Target


def private_requests(facts: Facts) -> Iterator[Finding]:
    has_rules = bool(facts.policy.sensitivity.detect or facts.policy.sensitivity.patterns) or any(
        "sensitivity" in route.match for route in facts.policy.routes
    )
    if has_rules and not facts.local:
        what = "the policy has rules for private requests, but no backend is local: the router refuses them (503)"
        yield Finding(
            "private", "backends", what, "add a local backend, or write `local: true` at a backend that is yours"
        )
    elif has_rules and all(_only_remote(facts, name) for name in facts.local):
        what = (
            "the policy has rules for private requests, but no local backend has a model: the router refuses them (503)"
        )
        yield Finding(
            "private", "backends", what, "`ollama pull` a model that runs on that machine, and name it in the policy"
        )


def _only_remote(facts: Facts, name: str) -> bool:
    models = facts.models(facts.policy.backends[name])
    return bool(models) and all(facts.judge_model(name, model).local is False for model in models)


def budgets(facts: Facts) -> Iterator[Finding]:
    """Report budgets that no backend of the route can meet, or that its first backend never meets.  Loads and waits do
    not count here, because they pass."""
    for route in facts.policy.routes:
        budget = route.latency_budget_ms
        expected = {name: _warm_ms(facts, route, name) for name in (route.backend, *route.fallbacks)}
        first = expected[route.backend]
        if budget is None or first is None or first <= budget:
            continue
        fastest = min(ms for ms in expected.values() if ms is not None)
        fix = f"raise it above {first:.0f}, or remove it"
        if fastest > budget:
            what = f"latencyBudgetMs is {budget:.0f}, but its fastest backend is expected to take {fastest:.0f} ms"
            yield Finding("budget", route.label, what, fix)
        else:
            what = (
                f"latencyBudgetMs is {budget:.0f}, but {route.backend} is expected to take {first:.0f} ms: "
                "the route always skips it"
            )
            yield Finding("budget", route.label, what, fix)


def _warm_ms(facts: Facts, route: Route, name: str) -> float | None:
    """Return the expected time of a warm call to the model that this route's requests get; of a pool, that of its
    fastest member."""
    warm = Observations(latency_ms=facts.timings.warm_ms)  # without facts, so that nothing has to load
    times = [
        expected_ms(Target(member, facts.model_of(route, member)), facts.policy.backends[member], warm)
        for member in facts.policy.members(name)
    ]
    measured = [time for time in times if time is not None]
    return min(measured) if len(measured) == len(times) else None


def echo(facts: Facts) -> Iterator[Finding]:
    """Report echo backends in the routes and in the A/B trial."""
    echoes = facts.policy.echoes
    firsts = (name for route in facts.policy.routes for name in facts.policy.members(route.backend))
    if name := next((name for name in firsts if name in echoes), ""):
        fix = "install Ollama, `ollama pull` a model, delete the policy, run `flask init` and restart the router"
        yield Finding("echo", name, "it is no model: it repeats the prompt", fix)
    for name in facts.policy.ab.candidates.values() if facts.policy.ab.enabled else ():
        if name in echoes:
            what = "it is a candidate of the A/B trial and no model: it repeats the prompt"
            yield Finding("echo", name, what, "name a model in `ab.candidates`, or set `ab.enabled: false`")

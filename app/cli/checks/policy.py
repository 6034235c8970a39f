"""Checks of the policy: do its promises hold with these backends?"""

from __future__ import annotations

from collections.abc import Iterator

from app.cli.checks.seen import Answer, Finding, Seen
from app.routing.expected import expected_ms
from app.routing.names import model_for
from app.types import Observations, Route, Target


def private_requests(seen: Seen) -> Iterator[Finding]:
    wanted = bool(seen.policy.sensitivity.detect or seen.policy.sensitivity.patterns) or any(
        "sensitivity" in route.match for route in seen.policy.routes
    )
    if wanted and not seen.local:
        what = "the policy speaks of private requests, but no backend is local: each of them is refused (503)"
        yield Finding("private", "backends", what, "add a local backend, or `local: true` to one that is yours")
    elif wanted and all(_only_remote(seen, name) for name in seen.local):
        what = "the policy speaks of private requests, but no local backend runs a model: each is refused (503)"
        yield Finding("private", "backends", what, "`ollama pull` a model that runs there, and name it in the policy")


def _only_remote(seen: Seen, name: str) -> bool:
    models = seen.models(seen.policy.backends[name])
    return bool(models) and all(seen.judge_model(name, model).local is False for model in models)


def budgets(seen: Seen) -> Iterator[Finding]:
    for route in seen.policy.routes:
        budget = route.latency_budget_ms
        expected = {name: _expected(seen, route, name) for name in (route.backend, *route.fallbacks)}
        first = expected[route.backend]
        if budget is None or first is None or first <= budget:
            continue
        known = [ms for ms in expected.values() if ms is not None]
        fix = f"raise it above {first:.0f}, or take it away"
        if min(known) > budget:
            what = f"latencyBudgetMs is {budget:.0f}, but its fastest backend is expected to take {min(known):.0f} ms"
            yield Finding("budget", route.label, what, fix)
        else:
            what = (
                f"latencyBudgetMs is {budget:.0f}, but {route.backend} is expected to take {first:.0f} ms: "
                "it is always passed over"
            )
            yield Finding("budget", route.label, what, fix)


def _expected(seen: Seen, route: Route, name: str) -> float | None:
    """The median of the model that this route's requests get, else p50Ms."""
    config = seen.policy.backends[name]
    family = next(iter(families), "any") if isinstance(families := route.match.get("family"), frozenset) else "any"
    models = {name: seen.answers.get(name, Answer()).models}
    observations = Observations(latency_ms=seen.latency_ms, models=models)
    return expected_ms(Target(name, model_for(config, family, observations)), config, observations)


def echo(seen: Seen) -> Iterator[Finding]:
    """The backends that answer without being a model: once for the routes, and for the A/B trial."""
    echoes = seen.policy.echoes
    if name := next((route.backend for route in seen.policy.routes if route.backend in echoes), ""):
        fix = "install Ollama, `ollama pull` a model, delete the policy, run `flask init` and start again"
        yield Finding("echo", name, "it is no model: it repeats what it is told", fix)
    for name in seen.policy.ab.candidates.values() if seen.policy.ab.enabled else ():
        if name in echoes:
            what = "it is a candidate of the A/B trial and no model: it repeats what it is told"
            yield Finding("echo", name, what, "name a model in `ab.candidates`, or set `ab.enabled: false`")

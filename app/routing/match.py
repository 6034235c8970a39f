"""Make the targets of a request: by the conversation, by the client's `model`, or by a route.  Pure.

This is the only stage that makes targets.
"""

from __future__ import annotations

from app.errors import UnknownModel
from app.routing.choice import Choice, any_local, quote, target_name
from app.routing.locality import judge_target
from app.routing.names import Meaning, model_for
from app.routing.privacy import cause, not_for_private
from app.types import Classification, Policy, Reason, Route, Target


def match(choice: Choice) -> None:
    """Make the targets.  Raise UnknownModel."""
    if choice.private:
        choice.note("privacy", f"private, because of {cause(choice.request, 'the header')}")
    if not _continue_conversation(choice) and not _pin(choice):
        _match_route(choice)
    first = choice.targets[0] if choice.targets else Target("", "")
    choice.primary = first.pool or first.backend  # the stage `pool` replaces a pool by its first member


def _continue_conversation(choice: Choice) -> bool:
    """Take the backend that keeps the conversation.  Return False when no backend does."""
    keeper = choice.request.continues
    if keeper is None:
        return False
    choice.route, choice.reason, choice.targets = "continuation", Reason.CONTINUATION, (keeper,)
    choice.note("match", f"{target_name(keeper)} keeps the conversation and continues it")
    return True


def _pin(choice: Choice) -> bool:
    """Take the targets that the client's `model` names.  Return False when the routes must decide.

    Raise UnknownModel."""
    model, meaning, name = choice.request.model, choice.meaning, choice.meaning.name
    if name is None or meaning.is_barred:
        if meaning.nearest or choice.policy.unknown_model == "refuse":
            raise unknown_model(model, meaning, choice.policy)
        why = f"may not be pinned (pins: {choice.policy.pins})" if name else "is not one of ours"
        choice.note("match", f"model {quote(model)} {why}: routed as auto")
        return False
    if name.alias_of:
        choice.note("match", f"model {quote(model)} is an alias of {quote(name.alias_of)}")
    if not meaning.targets:
        return False
    if choice.private and not any_local(meaning.targets, choice):
        choice.pin_refused = True
        for target in meaning.targets:
            choice.dropped[target.backend] = not_for_private(judge_target(target, choice.observations))
        choice.note("match", f"pin refused: the request is private, and model {quote(model)} is not local")
        return False
    choice.route, choice.reason, choice.targets = "pin", Reason.PIN, meaning.targets
    choice.note("match", f"pinned by model {quote(model)}")
    return True


def unknown_model(model: str, meaning: Meaning, policy: Policy) -> UnknownModel:
    """Return the error for a name that is misspelled, barred or unknown.  Its message says what to do."""
    if meaning.nearest:
        text = f"No model here is called {quote(model)}; did you mean {quote(meaning.nearest)}?"
    elif meaning.is_barred:
        text = f"The model {quote(model)} may not be named here (policy: `pins: {policy.pins}`)."
    else:
        text = f"No model here is called {quote(model)}."
    return UnknownModel(f"{text} GET /v1/models lists the names; `aliases` in the policy can add one.")


def _match_route(choice: Choice) -> None:
    """Take the targets of the first route that matches.  A private request needs a route with a local target."""
    for route in choice.policy.routes:
        mismatch = _mismatch(route, choice.tags)
        if mismatch:
            choice.note("match", f"{route.label}: no, {mismatch}")
            continue
        targets = _route_targets(route, choice)
        if choice.private and not any_local(targets, choice):
            choice.note("match", f"{route.label}: passed over, it has no local target for a private request")
            continue
        choice.route, choice.rule, choice.targets = route.label, route, targets
        choice.budget_ms = route.latency_budget_ms
        choice.note("match", f"{route.label}: yes" + (f" ({route.reason})" if route.reason else ""))
        return


def _mismatch(route: Route, tags: Classification) -> str:
    """Return the first tag that the route does not allow, or "" when the route matches."""
    for name, condition in route.match.items():
        value = getattr(tags, name)
        if value not in condition:
            return f"{name} is {value}"
    return ""


def _route_targets(route: Route, choice: Choice) -> tuple[Target, ...]:
    """Return the backends of a route, each once; those of a pool stand side by side.  The last one is the backend for
    answers that do not hold, unless it stands among the fallbacks."""
    policy, family = choice.policy, choice.tags.family
    escalate = (route.verify.escalate,) if route.verify and route.verify.escalate else ()
    pools: dict[str, str | None] = {}  # a backend -> the pool that it is a member of here
    for name in (route.backend, *route.fallbacks, *escalate):
        for member in policy.members(name):
            pools.setdefault(member, None if member == name else name)
    own_model = set(policy.members(route.backend)) if route.model else ()
    return tuple(
        Target(
            name,
            route.model
            if route.model and name in own_model
            else model_for(policy.backends[name], family, choice.observations),
            pool=pool,
        )
        for name, pool in pools.items()
    )

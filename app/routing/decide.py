"""Where a request goes: a row of stages over an ordered list of targets.

match -> privacy -> fit -> health -> budget -> model.  Only `match` makes targets; the others drop or reorder
them and say why in the trace.  So nothing after `privacy` can bring a dropped target back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import ContextTooLong, NoEligibleBackend, UnknownModel
from app.routing.basis import kept_name, relevant
from app.routing.locality import Verdict, is_local, judge_target
from app.routing.names import Meaning, model_for, resolve
from app.types import (
    BackendConfig,
    Basis,
    ChatRequest,
    Classification,
    Decision,
    Observations,
    Policy,
    Reason,
    Route,
    Sensitivity,
    Step,
    Target,
)

Trial = Callable[[Target], bool]


def no_trial(target: Target) -> bool:  # noqa: ARG001
    """For dry runs: nothing is tried just to be measured."""
    return False


@dataclass(slots=True)
class _Choice:
    """What the stages work on.  `targets` and `trace` change from stage to stage; the rest is the question."""

    request: ChatRequest
    tags: Classification
    policy: Policy
    observations: Observations
    output_tokens: int  # room asked for the answer
    trial: Trial
    route: str = ""
    reason: Reason = Reason.ROUTE
    budget_ms: float | None = None
    targets: tuple[Target, ...] = ()
    skipped: Target | None = None
    measured: bool = False
    pin_refused: bool = False
    trace: list[Step] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # backend -> why

    @property
    def private(self) -> bool:
        return self.tags.sensitivity == Sensitivity.HIGH

    def note(self, stage: str, outcome: str) -> None:
        self.trace.append(Step(stage, outcome))

    def drop(self, stage: str, target: Target, why: str) -> None:
        self.dropped[target.backend] = why
        self.note(stage, f"dropped {_name(target)}: {why}")

    def config(self, target: Target) -> BackendConfig:
        return self.policy.backends[target.backend]

    def expected_ms(self, target: Target) -> float | None:
        """The live median, else the policy's p50Ms, else unknown."""
        return self.observations.latency_ms.get((target.backend, target.model), self.config(target).p50_ms)


def decide(
    request: ChatRequest,
    tags: Classification,
    policy: Policy,
    observations: Observations,
    trial: Trial = no_trial,
) -> Decision:
    """Targets in the order of tries, with the reasons.

    `trial(target)` is asked when a remote primary would be skipped for its latency; True lets this one request
    measure it.  Raises UnknownModel (a misspelt name, or one that the policy refuses), NoEligibleBackend (privacy left
    nothing) and ContextTooLong (no window holds it).
    """
    choice = _Choice(request, tags, policy, observations, _output_tokens(request), trial)
    if choice.private:
        choice.note("privacy", f"private, because of {_cause(request, 'the header')}")
    meaning = resolve(request.model, tags.family, policy, observations)
    if request.continues:
        choice.route, choice.reason, choice.targets = "continuation", Reason.CONTINUATION, (request.continues,)
        choice.note("match", f"goes on at {_name(request.continues)}, which keeps the conversation")
    elif not _pin(choice, meaning):
        _match(choice)
    primary = choice.targets[0].backend if choice.targets else ""
    for stage in (_privacy, _fit, _health, _budget, _model):
        stage(choice)
    return Decision(
        route=choice.route,
        targets=choice.targets,
        trace=tuple(choice.trace),
        primary=primary,
        reason=choice.reason,
        skipped=choice.skipped,
        private=choice.private,
        private_because=request.sensitivity_reason if choice.private else None,
        pin_refused=choice.pin_refused,
        dropped=choice.dropped,
        basis=Basis(
            policy=policy.version,
            asked_model=kept_name(request.model, known=meaning.is_known, private=choice.private),
            output_tokens=choice.output_tokens,
            observations=relevant(observations, policy, request.model, meaning),
            measured=choice.measured,
            targets=choice.targets,
        ),
    )


# --- match: the only stage that makes targets ---------------------------------------------------


def _pin(choice: _Choice, meaning: Meaning) -> bool:
    """Take the targets that the client's `model` names.  Return False when the routes must decide.

    Raises UnknownModel."""
    model, name = choice.request.model, meaning.name
    if name is None or meaning.is_barred:
        if meaning.nearest or choice.policy.unknown_model == "refuse":
            raise unknown_model(model, meaning, choice.policy)
        why = f"may not be pinned (pins: {choice.policy.pins})" if name else "is not one of ours"
        choice.note("match", f"model {_quote(model)} {why}: routed as auto")
        return False
    if name.alias_of:
        choice.note("match", f"model {_quote(model)} is an alias of {_quote(name.alias_of)}")
    if not meaning.targets:
        return False
    if choice.private and not any(is_local(target, choice.observations) for target in meaning.targets):
        choice.pin_refused = True
        for target in meaning.targets:
            choice.dropped[target.backend] = _not_for_private(judge_target(target, choice.observations))
        choice.note("match", f"pin refused: the request is private, and model {_quote(model)} is not local")
        return False
    choice.route, choice.reason, choice.targets = "pin", Reason.PIN, meaning.targets
    choice.note("match", f"pinned by model {_quote(model)}")
    return True


def unknown_model(model: str, meaning: Meaning, policy: Policy) -> UnknownModel:
    """Return the refusal of a name that is misspelt, barred or unknown, with the way out."""
    if meaning.nearest:
        text = f"No model here is called {_quote(model)}; did you mean {_quote(meaning.nearest)}?"
    elif meaning.is_barred:
        text = f"The model {_quote(model)} may not be named here (policy: `pins: {policy.pins}`)."
    else:
        text = f"No model here is called {_quote(model)}."
    return UnknownModel(f"{text} GET /v1/models lists the names; `aliases` in the policy can add one.")


def _match(choice: _Choice) -> None:
    for route in choice.policy.routes:
        missed = _why_not(route, choice.tags)
        if missed:
            choice.note("match", f"{route.label}: no, {missed}")
            continue
        targets = _route_targets(route, choice)
        if choice.private and not any(is_local(target, choice.observations) for target in targets):
            choice.note("match", f"{route.label}: passed over, it has no local target for a private request")
            continue
        choice.route, choice.budget_ms, choice.targets = route.label, route.latency_budget_ms, targets
        choice.note("match", f"{route.label}: yes" + (f" ({route.reason})" if route.reason else ""))
        return


def _why_not(route: Route, tags: Classification) -> str:
    """The first tag that does not fit, or "" when the route matches."""
    for name, condition in route.match.items():
        value = getattr(tags, name)
        if value not in condition:
            return f"{name} is {value}"
    return ""


def _route_targets(route: Route, choice: _Choice) -> tuple[Target, ...]:
    names = dict.fromkeys((route.backend, *route.fallbacks))
    return tuple(
        Target(name, model_for(choice.policy.backends[name], choice.tags.family, choice.observations)) for name in names
    )


# --- the other stages: drop or reorder ----------------------------------------------------------


def _privacy(choice: _Choice) -> None:
    if not choice.private:
        choice.note("privacy", "not private: every target may be used")
        return
    kept = []
    for target in choice.targets:
        verdict = judge_target(target, choice.observations)
        if verdict.local is False:
            choice.drop("privacy", target, _not_for_private(verdict))
            continue
        if verdict.local is None:
            choice.note("privacy", f"{target.backend} {verdict.reason}: it is asked just before the call")
        kept.append(target)
    choice.targets = tuple(kept)
    if not kept:
        raise NoEligibleBackend(_nothing_local(choice))
    choice.note("privacy", "private: only local targets are left")


def _not_for_private(verdict: Verdict) -> str:
    return f"the request is private and it {verdict.reason}"


def _cause(request: ChatRequest, header: str) -> str:
    """Return what made the request private, for a sentence."""
    causes = {"header": header, "conversation": "the conversation that it continues"}
    return causes.get(request.sensitivity_reason, request.sensitivity_reason)


def _nothing_local(choice: _Choice) -> str:
    """Say what made the request private, what the client named, and the way out."""
    request = choice.request
    private = f"The request is private (because of {_cause(request, 'the header X-LLR-Sensitivity')})"
    if request.continues:
        keeper = repr(request.continues.backend)
        return (
            f"{private}, and the backend that keeps its conversation, {keeper}, is not local. "
            "Send the whole conversation as `input`, without `previous_response_id`."
        )
    way_out = "Give the policy a route whose backend is local, or name a local model."
    if choice.pin_refused:
        pinned = f"the model that it names, {_quote(request.model)}, is not local"
        return f"{private}, {pinned}, and no route of the policy has a local backend. {way_out}"
    return f"{private} and no local backend may serve it. {way_out}"


def _fit(choice: _Choice) -> None:
    needed = choice.tags.tokens + choice.output_tokens
    kept, largest = [], 0
    for target in choice.targets:
        window = choice.config(target).context_window(target.model)
        if window is not None and needed > window:
            largest = max(largest, window)
            choice.drop("fit", target, f"about {needed} tokens, its window holds {window}")
        else:
            kept.append(target)
    if kept and kept[0] != choice.targets[0]:
        choice.reason = Reason.FIT
    choice.targets = tuple(kept)
    if not kept:
        raise ContextTooLong(
            f"This request needs about {needed} tokens ({choice.tags.tokens} in and {choice.output_tokens} out); "
            f"the largest context window among its backends is {largest} tokens."
        )


def _health(choice: _Choice) -> None:
    cooling = tuple(target for target in choice.targets if target.backend in choice.observations.cooling)
    if cooling:
        if choice.targets[0] in cooling and len(cooling) < len(choice.targets):
            choice.reason = Reason.COOLING
        choice.targets = tuple(target for target in choice.targets if target not in cooling) + cooling
        for target in cooling:
            choice.note("health", f"{_name(target)} is cooling down after failures: last")


def _budget(choice: _Choice) -> None:
    """A primary that is too slow gives way to a fallback that is expected to be faster, and stays second."""
    if choice.budget_ms is None or len(choice.targets) < 2 or not choice.targets[0].model:
        return
    primary = choice.targets[0]
    expected = choice.expected_ms(primary)
    if expected is None or expected <= choice.budget_ms or primary.backend in choice.observations.cooling:
        return
    because = f"{_name(primary)} is expected to take {expected:.0f} ms, over the budget of {choice.budget_ms:.0f} ms"
    faster = next((target for target in choice.targets[1:] if _is_faster(target, expected, choice)), None)
    if faster is None:
        choice.note("budget", f"{because}; no fallback is expected to be faster")
        return
    local = is_local(primary, choice.observations)
    if not local and choice.trial(primary):
        choice.measured = True
        choice.note("budget", f"{because}; tried first all the same, to measure it")
        return
    rest = tuple(target for target in choice.targets if target not in (primary, faster))
    choice.targets, choice.reason = (faster, primary, *rest), Reason.SPILL
    choice.skipped = primary if local else None
    choice.note("budget", f"{because}; {_name(faster)} goes first at {choice.expected_ms(faster):.0f} ms")


def _is_faster(target: Target, than_ms: float, choice: _Choice) -> bool:
    expected = choice.expected_ms(target) if target.model else None
    return expected is not None and expected < than_ms and target.backend not in choice.observations.cooling


def _model(choice: _Choice) -> None:
    """Models were resolved as the targets were made; this stage drops a target that has none and says the rest."""
    for target in choice.targets:
        if not target.model:
            choice.dropped[target.backend] = "no model is known for it"
        choice.note("model", f"{target.backend}: " + (target.model or "dropped, no model is known for it"))
    choice.targets = tuple(target for target in choice.targets if target.model)
    if not choice.targets:
        raise NoEligibleBackend(
            "No model is known for any backend of this route; name one under `models:` in the policy."
        )


# --- small readers ------------------------------------------------------------------------------


def _output_tokens(request: ChatRequest) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = request.body.chat.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _name(target: Target) -> str:
    return f"{target.backend}/{target.model}" if target.model else target.backend


def _quote(model: str) -> str:
    return repr(model[:80])

"""Decide where a request goes: a row of stages over an ordered list of targets.

match -> privacy -> fit -> health -> budget -> model.  Only `match` adds targets.  The other stages drop or
reorder targets and give the reason in the trace, so no stage after `privacy` can bring back a target that it dropped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from app.errors import ContextTooLong, NoEligibleBackend, UnknownModel
from app.routing.basis import relevant_observations, storable_name
from app.routing.expected import expected_ms
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

MayMeasure = Callable[[Target], bool]


def measure_nothing(target: Target) -> bool:  # noqa: ARG001
    """Return False: a dry run must not use up the one measurement that is due."""
    return False


@dataclass(slots=True)
class _Choice:
    """Hold the request, and what the stages have decided so far."""

    request: ChatRequest
    tags: Classification
    policy: Policy
    observations: Observations
    meaning: Meaning  # of the client's `model`
    private: bool
    output_tokens: int  # the most that the reply may have; 0 = the request sets no limit
    may_measure: MayMeasure

    targets: tuple[Target, ...] = ()
    route: str = ""
    reason: Reason = Reason.ROUTE
    primary: str = ""
    budget_ms: float | None = None
    skipped: Target | None = None
    measured: bool = False
    pin_refused: bool = False
    trace: list[Step] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # backend -> the reason

    def note(self, stage: str, outcome: str) -> None:
        self.trace.append(Step(stage, outcome))

    def drop(self, stage: str, target: Target, why: str) -> None:
        self.dropped[target.backend] = why
        self.note(stage, f"dropped {_name(target)}: {why}")

    def config(self, target: Target) -> BackendConfig:
        return self.policy.backends[target.backend]

    def expected_ms(self, target: Target) -> float | None:
        return expected_ms(target, self.config(target), self.observations)

    def decision(self) -> Decision:
        request, policy, meaning = self.request, self.policy, self.meaning
        return Decision(
            route=self.route,
            targets=self.targets,
            trace=tuple(self.trace),
            primary=self.primary,
            reason=self.reason,
            skipped=self.skipped,
            private=self.private,
            private_because=request.sensitivity_reason if self.private else None,
            pin_refused=self.pin_refused,
            dropped=self.dropped,
            basis=Basis(
                policy=policy.version,
                asked_model=storable_name(request.model, is_known=meaning.is_known, private=self.private),
                output_tokens=self.output_tokens,
                observations=relevant_observations(self.observations, policy, request.model, meaning),
                measured=self.measured,
                targets=self.targets,
            ),
        )


def decide(
    request: ChatRequest,
    tags: Classification,
    policy: Policy,
    observations: Observations,
    may_measure: MayMeasure = measure_nothing,
) -> Decision:
    """Return the targets in the order of tries, with the reasons.

    The stage `budget` calls `may_measure` before it moves a remote primary behind a faster fallback.  When the result
    is True, this one request goes to the primary all the same, to measure it.

    Raise UnknownModel (a misspelled name, or one that the policy refuses), NoEligibleBackend (no target is left for a
    private request) or ContextTooLong (the request fits into no context window).
    """
    meaning = resolve(request.model, tags.family, policy, observations)
    private = tags.sensitivity == Sensitivity.HIGH
    choice = _Choice(request, tags, policy, observations, meaning, private, _output_tokens(request), may_measure)
    for stage in (
        _match,  # makes the targets: by the conversation, by the client's `model`, or by the first route that matches
        _privacy,  # of a private request: drops the targets that are not local
        _fit,  # drops the targets whose context window is too small
        _health,  # moves the targets whose circuit is open to the end
        _budget,  # moves a faster fallback to the front when the primary exceeds the latency budget
        _model,  # drops the targets for which no model is known
    ):
        stage(choice)
    return choice.decision()


# --- match: the only stage that makes targets ---------------------------------------------------


def _match(choice: _Choice) -> None:
    if choice.private:
        choice.note("privacy", f"private, because of {_cause(choice.request, 'the header')}")
    if not _continue_conversation(choice) and not _pin(choice):
        _match_route(choice)
    choice.primary = choice.targets[0].backend if choice.targets else ""


def _continue_conversation(choice: _Choice) -> bool:
    """Take the backend that keeps the conversation.  Return False when no backend does."""
    keeper = choice.request.continues
    if keeper is None:
        return False
    choice.route, choice.reason, choice.targets = "continuation", Reason.CONTINUATION, (keeper,)
    choice.note("match", f"{_name(keeper)} keeps the conversation and continues it")
    return True


def _pin(choice: _Choice) -> bool:
    """Take the targets that the client's `model` names.  Return False when the routes must decide.

    Raise UnknownModel."""
    model, meaning, name = choice.request.model, choice.meaning, choice.meaning.name
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
    if choice.private and not _any_local(meaning.targets, choice):
        choice.pin_refused = True
        for target in meaning.targets:
            choice.dropped[target.backend] = _not_for_private(judge_target(target, choice.observations))
        choice.note("match", f"pin refused: the request is private, and model {_quote(model)} is not local")
        return False
    choice.route, choice.reason, choice.targets = "pin", Reason.PIN, meaning.targets
    choice.note("match", f"pinned by model {_quote(model)}")
    return True


def unknown_model(model: str, meaning: Meaning, policy: Policy) -> UnknownModel:
    """Return the error for a name that is misspelled, barred or unknown.  Its message says what to do."""
    if meaning.nearest:
        text = f"No model here is called {_quote(model)}; did you mean {_quote(meaning.nearest)}?"
    elif meaning.is_barred:
        text = f"The model {_quote(model)} may not be named here (policy: `pins: {policy.pins}`)."
    else:
        text = f"No model here is called {_quote(model)}."
    return UnknownModel(f"{text} GET /v1/models lists the names; `aliases` in the policy can add one.")


def _match_route(choice: _Choice) -> None:
    """Take the targets of the first route that matches.  A private request needs a route with a local target."""
    for route in choice.policy.routes:
        mismatch = _mismatch(route, choice.tags)
        if mismatch:
            choice.note("match", f"{route.label}: no, {mismatch}")
            continue
        targets = _route_targets(route, choice)
        if choice.private and not _any_local(targets, choice):
            choice.note("match", f"{route.label}: passed over, it has no local target for a private request")
            continue
        choice.route, choice.budget_ms, choice.targets = route.label, route.latency_budget_ms, targets
        choice.note("match", f"{route.label}: yes" + (f" ({route.reason})" if route.reason else ""))
        return


def _mismatch(route: Route, tags: Classification) -> str:
    """Return the first tag that the route does not allow, or "" when the route matches."""
    for name, condition in route.match.items():
        value = getattr(tags, name)
        if value not in condition:
            return f"{name} is {value}"
    return ""


def _route_targets(route: Route, choice: _Choice) -> tuple[Target, ...]:
    backends, family = choice.policy.backends, choice.tags.family
    names = dict.fromkeys((route.backend, *route.fallbacks))
    return tuple(Target(name, model_for(backends[name], family, choice.observations)) for name in names)


def _any_local(targets: tuple[Target, ...], choice: _Choice) -> bool:
    return any(is_local(target, choice.observations) for target in targets)


# --- the other stages drop or reorder -----------------------------------------------------------


def _privacy(choice: _Choice) -> None:
    if not choice.private:
        choice.note("privacy", "not private: every target may be used")
        return
    local_targets = []
    for target in choice.targets:
        verdict = judge_target(target, choice.observations)
        if verdict.local is False:
            choice.drop("privacy", target, _not_for_private(verdict))
            continue
        if verdict.local is None:
            choice.note("privacy", f"{target.backend} {verdict.reason}: it is asked just before the call")
        local_targets.append(target)
    choice.targets = tuple(local_targets)
    if not local_targets:
        raise NoEligibleBackend(_nothing_local(choice))
    choice.note("privacy", "private: only local targets are left")


def _not_for_private(verdict: Verdict) -> str:
    return f"the request is private and it {verdict.reason}"


def _cause(request: ChatRequest, header: str) -> str:
    """Return what made the request private, as a part of a sentence."""
    causes = {"header": header, "conversation": "the conversation that it continues"}
    return causes.get(request.sensitivity_reason, request.sensitivity_reason)


def _nothing_local(choice: _Choice) -> str:
    """Return the error message: what made the request private, what the client named, and what to do."""
    request = choice.request
    private = f"The request is private (because of {_cause(request, 'the header X-LLR-Sensitivity')})"
    if request.continues:
        keeper = repr(request.continues.backend)
        return (
            f"{private}, and the backend that keeps its conversation, {keeper}, is not local. "
            "Send the whole conversation as `input`, without `previous_response_id`."
        )
    remedy = "Give the policy a route whose backend is local, or name a local model."
    if choice.pin_refused:
        pinned = f"the model that it names, {_quote(request.model)}, is not local"
        return f"{private}, {pinned}, and no route of the policy has a local backend. {remedy}"
    return f"{private} and no local backend may serve it. {remedy}"


def _fit(choice: _Choice) -> None:
    needed = choice.tags.tokens + choice.output_tokens
    fitting, largest = [], 0
    for target in choice.targets:
        window = choice.config(target).context_window(target.model)
        if window is not None and needed > window:
            largest = max(largest, window)
            choice.drop("fit", target, f"about {needed} tokens, its window holds {window}")
        else:
            fitting.append(target)
    if fitting and fitting[0] != choice.targets[0]:
        choice.reason = Reason.FIT
    choice.targets = tuple(fitting)
    if not fitting:
        raise ContextTooLong(
            f"This request needs about {needed} tokens ({choice.tags.tokens} in and {choice.output_tokens} out); "
            f"the largest context window among its backends is {largest} tokens."
        )


def _health(choice: _Choice) -> None:
    if not choice.observations.unhealthy:
        return
    unhealthy = tuple(target for target in choice.targets if _is_unhealthy(target, choice))
    if not unhealthy:
        return
    if choice.targets[0] in unhealthy and len(unhealthy) < len(choice.targets):
        choice.reason = Reason.COOLING
    choice.targets = tuple(target for target in choice.targets if target not in unhealthy) + unhealthy
    for target in unhealthy:
        choice.note("health", f"the circuit of {_name(target)} is open after failures: tried last")


def _is_unhealthy(target: Target, choice: _Choice) -> bool:
    return target.backend in choice.observations.unhealthy


def _budget(choice: _Choice) -> None:
    """Move a faster fallback before a primary that exceeds the latency budget; the primary becomes the second."""
    if choice.budget_ms is None or len(choice.targets) < 2 or not choice.targets[0].model:
        return
    primary = choice.targets[0]
    expected = choice.expected_ms(primary)
    if expected is None or expected <= choice.budget_ms or _is_unhealthy(primary, choice):
        return
    because = f"{_name(primary)} is expected to take {expected:.0f} ms, over the budget of {choice.budget_ms:.0f} ms"
    faster = next((target for target in choice.targets[1:] if _is_faster(target, expected, choice)), None)
    if faster is None:
        choice.note("budget", f"{because}; no fallback is expected to be faster")
        return
    local = is_local(primary, choice.observations)
    if not local and choice.may_measure(primary):
        choice.measured = True
        choice.note("budget", f"{because}; tried first all the same, to measure it")
        return
    others = tuple(target for target in choice.targets if target not in (primary, faster))
    choice.targets, choice.reason = (faster, primary, *others), Reason.SPILL
    choice.skipped = primary if local else None
    choice.note("budget", f"{because}; {_name(faster)} goes first at {choice.expected_ms(faster):.0f} ms")


def _is_faster(target: Target, than_ms: float, choice: _Choice) -> bool:
    expected = choice.expected_ms(target) if target.model else None
    return expected is not None and expected < than_ms and not _is_unhealthy(target, choice)


def _model(choice: _Choice) -> None:
    """Drop the targets without a model.  `match` has resolved the models already; the trace shows them here."""
    for target in choice.targets:
        if not target.model:
            choice.dropped[target.backend] = "no model is known for it"
        choice.note("model", f"{target.backend}: " + (target.model or "dropped, no model is known for it"))
    choice.targets = tuple(target for target in choice.targets if target.model)
    if not choice.targets:
        raise NoEligibleBackend(
            "No model is known for any backend of this route; name one under `models:` in the policy."
        )


# --- small functions ----------------------------------------------------------------------------


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

"""Decide where a request goes: a row of stages over an ordered list of targets.

match -> privacy -> capabilities -> fit -> pool -> health -> queue -> budget -> model -> verify.

Only `match` adds targets.  The other stages drop or reorder targets and give the reason in the trace, so no stage after
`privacy` can bring back a target that it dropped.
"""

from __future__ import annotations

from app.errors import NoEligibleBackend
from app.routing.capabilities import capabilities, needs_of
from app.routing.choice import Choice, MayMeasure
from app.routing.fit import fit
from app.routing.match import match
from app.routing.names import resolve
from app.routing.order import budget, health, queue
from app.routing.pools import pool
from app.routing.privacy import privacy
from app.routing.verify import verify
from app.types import ChatRequest, Classification, Decision, Observations, Policy, Sensitivity, Target


def measure_nothing(target: Target) -> bool:  # noqa: ARG001
    """Return False: a dry run must not use up the one measurement that is due."""
    return False


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
    private request), UnsupportedByModels (every model lacks a capability) or ContextTooLong (the request fits into no
    context window).
    """
    meaning = resolve(request.model, tags.family, policy, observations)
    private = tags.sensitivity == Sensitivity.HIGH
    choice = Choice(
        request=request,
        tags=tags,
        policy=policy,
        observations=observations,
        meaning=meaning,
        private=private,
        output_tokens=_output_tokens(request),
        needs=needs_of(request, tags),
        may_measure=may_measure,
    )
    for stage in (
        match,  # makes the targets: by the conversation, by the client's `model`, or by the first route that matches
        privacy,  # of a private request: drops the targets that are not local
        capabilities,  # drops the targets whose model lacks tools or vision, when the request needs them
        fit,  # drops the targets whose context window is too small; a window that is not in force moves them back
        pool,  # orders the members of each pool
        health,  # moves the targets whose circuit is open to the end
        queue,  # moves the targets with a long queue, and busy ones, behind the others
        budget,  # moves a faster fallback to the front when the primary exceeds the latency budget
        model,  # drops the targets for which no model is known
        verify,  # plans how the first answer is judged; moves the stronger target to the front where it has begun
    ):
        stage(choice)
    return choice.decision()


def model(choice: Choice) -> None:
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


def _output_tokens(request: ChatRequest) -> int:
    for name in ("max_completion_tokens", "max_tokens"):
        value = request.body.chat.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0

"""What a decision would lead to: what each call would take and cost, and who gets nothing.  Pure."""

from __future__ import annotations

from app.types import BackendConfig, Decision, Estimate, Observations, Policy, Target

_NOT_FOR_PRIVATE = "the request is private and it is not local"
_OTHERS = {"pin": "the client named another", "continuation": "the conversation is kept elsewhere"}


def estimate(
    target: Target, config: BackendConfig, observations: Observations, input_tokens: int, output_tokens: int
) -> Estimate:
    """`output_tokens`: room asked for the answer, 0 = no limit."""
    measured = observations.latency_ms.get((target.backend, target.model))
    expected = config.p50_ms if measured is None else measured
    return Estimate(
        expected_ms=expected,
        expected_from=None if expected is None else "policy" if measured is None else "measured",
        price=config.price,
        input_tokens=input_tokens,
        output_tokens=output_tokens or None,
    )


def never(policy: Policy, decision: Decision, observations: Observations, reached: frozenset[str]) -> dict[str, str]:
    """The backends that are not among those `reached`, each with the reason."""
    other = _OTHERS.get(decision.route, f"the route {decision.route} does not name it")
    left = (name for name in policy.backends if name not in reached)
    return {name: decision.dropped.get(name) or _barred(name, decision, observations) or other for name in left}


def _barred(name: str, decision: Decision, observations: Observations) -> str:
    return _NOT_FOR_PRIVATE if decision.private and name not in observations.local else ""

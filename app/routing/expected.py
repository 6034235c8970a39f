"""Estimate the time and the cost of a call.  Pure."""

from __future__ import annotations

from app.types import BackendConfig, Estimate, Observations, Target


def expected_ms(target: Target, config: BackendConfig, observations: Observations) -> float | None:
    """Return the live median of the target's calls, else the policy's `p50Ms`; None when neither is known."""
    return observations.latency_ms.get((target.backend, target.model), config.p50_ms)


def estimate(
    target: Target, config: BackendConfig, observations: Observations, input_tokens: int, output_tokens: int
) -> Estimate:
    """Return the expected time and cost of a call.  `output_tokens` is the limit of the reply, 0 = no limit."""
    expected = expected_ms(target, config, observations)
    is_measured = (target.backend, target.model) in observations.latency_ms
    return Estimate(
        expected_ms=expected,
        expected_from=None if expected is None else "measured" if is_measured else "policy",
        price=config.price,
        input_tokens=input_tokens,
        output_tokens=output_tokens or None,
    )

"""Reorder the targets by health and by the latency budget.  Pure."""

from __future__ import annotations

from app.routing.choice import Choice, target_name
from app.routing.locality import is_local
from app.types import Reason, Target


def health(choice: Choice) -> None:
    """Move the targets whose circuit is open to the end."""
    if not choice.observations.unhealthy:
        return
    unhealthy = tuple(target for target in choice.targets if is_unhealthy(target, choice))
    if not unhealthy:
        return
    if choice.targets[0] in unhealthy and len(unhealthy) < len(choice.targets):
        choice.reason = Reason.COOLING
    choice.targets = tuple(target for target in choice.targets if target not in unhealthy) + unhealthy
    for target in unhealthy:
        choice.note("health", f"the circuit of {target_name(target)} is open after failures: tried last")


def is_unhealthy(target: Target, choice: Choice) -> bool:
    return target.backend in choice.observations.unhealthy


def budget(choice: Choice) -> None:
    """Move a faster fallback before a primary that exceeds the latency budget; the primary becomes the second."""
    if choice.budget_ms is None or len(choice.targets) < 2 or not choice.targets[0].model:
        return
    primary = choice.targets[0]
    expected = choice.expected_ms(primary)
    if expected is None or expected <= choice.budget_ms or is_unhealthy(primary, choice):
        return
    because = (
        f"{target_name(primary)} is expected to take {expected:.0f} ms, over the budget of {choice.budget_ms:.0f} ms"
    )
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
    choice.note("budget", f"{because}; {target_name(faster)} goes first at {choice.expected_ms(faster):.0f} ms")


def _is_faster(target: Target, than_ms: float, choice: Choice) -> bool:
    expected = choice.expected_ms(target) if target.model else None
    return expected is not None and expected < than_ms and not is_unhealthy(target, choice)

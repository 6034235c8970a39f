"""Reorder the targets by health and by the latency budget.  Pure."""

from __future__ import annotations

from app.routing.choice import Choice, Rank, target_name
from app.routing.locality import is_local
from app.types import Reason, Target


def health(choice: Choice) -> None:
    """Move the targets whose circuit is open to the end."""
    unhealthy = choice.observations.unhealthy
    if unhealthy:
        back = {
            target: f"the circuit of {target_name(target)} is open after failures: tried last"
            for target in choice.targets
            if target.backend in unhealthy
        }
        choice.move_back("health", back, Rank.UNHEALTHY, Reason.COOLING)


def budget(choice: Choice) -> None:
    """Move a faster fallback before a primary that exceeds the latency budget; the primary becomes the second."""
    if choice.budget_ms is None or len(choice.targets) < 2 or not choice.targets[0].model:
        return
    primary = choice.targets[0]
    expected = choice.expected_ms(primary)
    if expected is None or expected <= choice.budget_ms or choice.rank(primary):
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
    return expected is not None and expected < than_ms and not choice.rank(target)

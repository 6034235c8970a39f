"""Reorder the targets by health, by their queues and by the latency budget.  Pure."""

from __future__ import annotations

from app.routing.choice import Choice, Rank, target_name
from app.routing.expected import parts, waiting
from app.routing.locality import is_local
from app.types import SLOW_ABOVE, SLOW_BELOW, ExpectedTime, Reason, Target


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


def queue(choice: Choice) -> None:
    """Move the targets back that would let the request wait too long for a place, and those whose server asked for no
    calls for a while."""
    queues, busy = choice.observations.queues, choice.observations.busy
    if queues or busy:
        back = {target: why for target in choice.targets if (why := _delay(target, choice))}
        choice.move_back("queue", back, Rank.QUEUED, Reason.QUEUE)


def _delay(target: Target, choice: Choice) -> str:
    """Return why a request should not wait at a target; "" when nothing speaks against it."""
    if target.backend in choice.observations.busy:
        return f"the server of {target_name(target)} asked for no calls for a while: passed over while another is left"
    longest_ms, expected = choice.config(target).longest_wait_ms, choice.expected(target)
    wait_ms = expected.ahead if expected.wait_ms is None else expected.wait_ms  # unknown: above 0, and not much more
    if wait_ms <= longest_ms:
        return ""
    wait = f"{waiting(expected)}, over its maxWaitMs of {longest_ms:.0f} ms"
    return f"{target_name(target)} has {wait}: passed over while another is left"


def budget(choice: Choice) -> None:
    """Move a faster fallback before a primary that exceeds the latency budget; the primary becomes the second."""
    if choice.budget_ms is None or len(choice.targets) < 2 or not choice.targets[0].model:
        return
    if choice.rank(choice.targets[0]):
        return
    primary = _best_member(choice.targets[0], choice.budget_ms, choice)
    expected, limit = choice.expected(primary), _limit(primary, choice.budget_ms, choice)
    if expected.known_ms <= limit:
        if expected.known_ms > choice.budget_ms or parts(expected):
            choice.note("budget", _compared(primary, expected, limit, choice.budget_ms))
        return
    because = _compared(primary, expected, limit, choice.budget_ms)
    faster = next((target for target in choice.targets[1:] if _is_faster(target, expected, choice)), None)
    if faster is None:
        choice.note("budget", f"{because}; no fallback is expected to be faster")
        return
    is_slow = expected.warm_ms is not None and expected.warm_ms > limit and not expected.ahead and not expected.is_cold
    local = is_local(primary, choice.observations)
    if is_slow and not local and choice.may_measure(primary):
        choice.measured = True
        choice.note("budget", f"{because}; tried first all the same, to measure it")
        return
    others = tuple(target for target in choice.targets if target not in (primary, faster))
    choice.targets, choice.reason = (faster, primary, *others), Reason.SPILL
    choice.skipped = primary if is_slow and local else None
    choice.note("budget", f"{because}; {target_name(faster)} goes first at {choice.expected(faster).known_ms:.0f} ms")


def _best_member(first: Target, budget_ms: float, choice: Choice) -> Target:
    """Return the primary.  When the first member of a pool exceeds the budget, it is the member that is expected to be
    the fastest."""
    if first.pool is None or choice.expected(first).known_ms <= _limit(first, budget_ms, choice):
        return first
    members = [one for one in choice.targets if one.pool == first.pool and one.model and not choice.rank(one)]
    free = [one for one in members if not choice.expected(one).ahead]  # the call takes a free place if there is one
    best = min(free or members, key=lambda one: choice.expected(one).known_ms)
    if best is not first:
        choice.note("budget", f"{target_name(best)} goes before {target_name(first)}: it is expected to be faster")
        choice.targets = (best, *(one for one in choice.targets if one is not best))
        choice.primary = best.backend if choice.primary == first.backend else choice.primary
    return best


def _limit(primary: Target, budget_ms: float, choice: Choice) -> float:
    """Return the time over which the primary is skipped.  A primary near the budget keeps the place that it has, so
    that requests do not change between two targets all the time."""
    is_slow = choice.observations.slow.get((choice.route, primary.backend, primary.model))
    return budget_ms * (1 if is_slow is None else SLOW_BELOW if is_slow else SLOW_ABOVE)


def _compared(primary: Target, expected: ExpectedTime, limit: float, budget_ms: float) -> str:
    """Return the comparison of the expected time with the budget, for the trace."""
    more = f" ({more})" if (more := parts(expected)) else ""
    time = f"{'' if expected.warm_ms is not None else 'at least '}{expected.known_ms:.0f} ms{more}"
    share = "" if limit == budget_ms else f"{limit / budget_ms:g} times "
    relation = "over" if expected.known_ms > limit else "within"
    return f"{target_name(primary)} is expected to take {time}, {relation} {share}the budget of {budget_ms:.0f} ms"


def _is_faster(target: Target, than: ExpectedTime, choice: Choice) -> bool:
    if not target.model or choice.rank(target):
        return False
    total_ms = choice.expected(target).total_ms
    return total_ms is not None and total_ms < than.known_ms

"""Ask the stronger target, because the answer of the first one does not hold."""

from __future__ import annotations

from app.call import Call
from app.dispatch import Opened
from app.errors import BackendError, NoPlace
from app.services import Services
from app.tries import groups
from app.types import Kind, Plan, Reason, Step, Target, VerificationPlan, Why


def escalate(
    plan: Plan, verification: VerificationPlan, first: Opened, longest_wait_s: float, services: Services
) -> Opened | None:
    """Return the reply of the stronger target.  Return None when it has none: it is down, busy, or refuses the request.
    Members of a pool are tried one after the other.  Failures and steps are added to those of the first reply."""
    why = Why(route=plan.decision.route, reason=Reason.ESCALATED)
    for targets in groups(_reachable(verification.escalation, services)):
        while targets:
            call = Call(plan, targets, why, services, kind=Kind.LIVE, longest_wait_s=longest_wait_s)
            try:
                return first._replace(reply=call.make(), call=call)
            except BackendError as error:
                error.__traceback__ = error.__context__ = None  # as in app/dispatch.py
                _note(error, call.target, first)
                for target in call.tried:
                    targets.remove(target)
    return None


def _reachable(targets: tuple[Target, ...], services: Services) -> list[Target]:
    """Return the targets that are healthy and want calls: an answer is there already."""
    passed_over = services.circuits.unhealthy() | services.circuits.busy()
    return [target for target in targets if target.backend not in passed_over]


def _note(error: BackendError, target: Target, first: Opened) -> None:
    first.failures.append((target.backend, error))
    what = "has no free place" if isinstance(error, NoPlace) else f"failed: {error.kind}"
    first.steps.append(Step("call", f"{target.backend} {what}"))

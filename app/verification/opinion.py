"""Ask a second model the same question, in a greenlet beside the first answer."""

from __future__ import annotations

import dataclasses

import gevent

from app.call import Call
from app.errors import BackendError
from app.routing.answer.comparable import may_compare
from app.routing.expected import expected_time
from app.services import Services
from app.types import ChatRequest, JsonDict, Kind, Lane, Plan, Reason, Target, VerificationPlan, Why
from app.wire.opinion import opinion_of


class Opinion:
    """Hold the second opinion on one request.  Its call is buffered, in the last lane, and has a record of its own."""

    def __init__(self, plan: Plan, verification: VerificationPlan, services: Services) -> None:
        self.message: JsonDict | None = None  # of the assistant; None: there is no answer, or none yet
        self.problem = ""  # why there is no answer, in words
        self._plan = _asking_again(plan, verification)
        self._target = verification.second
        self._services = services
        self._greenlet: gevent.Greenlet | None = None
        self._had_place = True

    def begin_beside(self) -> None:
        """Ask at the same time as the first target, when its answers can be compared, the model of the second one is
        loaded and a place is free.  The greenlet takes its place after the first call has got its own."""
        if self._target is not None and _is_ready(self._target, self._services) and _is_comparable(self._plan):
            self._begin(self._target, 0.0)

    def get(self, within_s: float) -> JsonDict | None:
        """Return the opinion, or None when there is none within that time.  Ask for it now when it has not begun."""
        if self._target is not None and within_s > 0:
            if self._greenlet is None or not self._had_place:
                self._begin(self._target, within_s)
            assert self._greenlet is not None
            self._greenlet.join(within_s)
        return self.message

    def stop(self) -> None:
        """End the call if it has not ended."""
        if self._greenlet is not None:
            self._greenlet.kill(block=False)

    def _begin(self, target: Target, longest_wait_s: float) -> None:
        self._had_place = True
        self._greenlet = gevent.spawn(self._ask, target, longest_wait_s)

    def _ask(self, target: Target, longest_wait_s: float) -> None:
        why = Why(route=self._plan.decision.route, reason=Reason.VERIFY)
        call = Call(self._plan, (target,), why, self._services, kind=Kind.VERIFY, longest_wait_s=longest_wait_s)
        try:
            reply = call.make()
        except BackendError as error:
            self._had_place, self.problem = call.is_recorded, f"{target.backend} gives no second opinion: {error.kind}"
            return
        call.end(reply)
        self.problem = ""
        self.message = reply.answer.message if reply.answer else None


def _is_comparable(plan: Plan) -> bool:
    assert isinstance(plan.request, ChatRequest)
    return may_compare("", plan.request.body.chat)


def _is_ready(target: Target, services: Services) -> bool:
    """Return True when a call is expected neither to load a model nor to wait for a place."""
    config, observations = services.upstreams[target.backend].backend.config, services.beliefs.observations()
    expected = expected_time(target, config, observations, Lane.BACKGROUND)
    return not expected.is_cold and not expected.ahead


def _asking_again(plan: Plan, verification: VerificationPlan) -> Plan:
    """Return the plan of the call for the second opinion."""
    assert isinstance(plan.request, ChatRequest)
    return dataclasses.replace(plan, request=opinion_of(plan.request, sample=verification.is_sample))

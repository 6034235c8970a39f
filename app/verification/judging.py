"""Judge one answer of the first target: keep it, escalate, release it, or only observe it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from functools import partial

from app.backends.reply import Whole
from app.dispatch import Opened, described
from app.routing.judgement import Exchange, Ruling, can_change, judge
from app.services import Services
from app.types import ChatRequest, Outcome, Plan, Reply, Step, Verdict, VerificationPlan, Verified
from app.verification.chunks import HeldChunks, ReadStream
from app.verification.escalation import escalate
from app.verification.hold import Hold
from app.verification.opinion import Opinion
from app.wire.answer import Answer


class Judging:
    """Hold the open reply of the first target, and what its judgement needs."""

    def __init__(
        self, plan: Plan, verification: VerificationPlan, first: Opened, opinion: Opinion, services: Services
    ) -> None:
        assert isinstance(plan.request, ChatRequest)
        self._request = plan.request
        self._plan = plan
        self._decision = plan.decision
        self._verification = verification
        self._rules = verification.rules
        self._first = first
        self._opinion = opinion
        self._services = services

    # --- observed -------------------------------------------------------------------------------

    def observed(self) -> Reply:
        """Return the answer as it comes.  Its structure is judged for the record."""
        reply, call = self._first.reply, self._first.call
        conclude = partial(self._with_fault, Verdict(verified=Verified.OBSERVED))
        if isinstance(reply, Whole):
            call.end(reply, verdict=conclude(reply.answer))
            return described(self._first, self._decision, None)
        call.begin()
        reply.collect()
        return described(self._first, self._decision, ReadStream(reply, call, conclude))

    def _with_fault(self, verdict: Verdict, answer: Answer | None) -> Verdict:
        fault = self._exchange(answer).fault if answer is not None else None
        return dataclasses.replace(verdict, fault=fault)

    # --- held -----------------------------------------------------------------------------------

    def held(self, show: Callable[[Reply], None]) -> Reply:
        """Hold the answer until it is judged.  `show` gets the reply meanwhile.  Raise RouterError when the stream
        breaks and no other target answers."""
        reply, call = self._first.reply, self._first.call
        try:
            if not isinstance(reply, Whole):
                call.begin()
            show(described(self._first, self._decision, HeldChunks(())))
            hold = Hold(reply, self._rules, self._request.body.chat)
            answer = hold.read()
            if answer is None:
                return self._released(hold)
            call.complete(reply)
            return self._judged(hold, answer)
        except BaseException:  # the client disconnected, or the worker stops
            reply.close()
            call.end(reply, Outcome.CANCELLED)
            raise

    def _released(self, hold: Hold) -> Reply:
        """Return the answer before it is complete: what has arrived, then the rest as it comes."""
        self._opinion.stop()
        verdict = Verdict(verified=Verified.RELEASED, held_ms=hold.ms)
        self._note(f"the answer of {self._name} is sent before its end: {hold.limit}")
        reply, call = self._first.reply, self._first.call
        if isinstance(reply, Whole):
            call.end(reply, verdict=verdict)
            return described(self._first, self._decision, None, verdict)
        chunks = ReadStream(reply, call, partial(self._with_fault, verdict), hold.pieces)
        return described(self._first, self._decision, chunks, verdict)

    def _judged(self, hold: Hold, answer: Answer) -> Reply:
        time.sleep(0)  # let other requests run, here and below: each step may take some ms
        exchange = self._exchange(answer, is_whole=hold.broken is None)
        ruling = judge(exchange, self._opinion.message)
        if self._opinion.message is None and can_change(exchange, ruling):
            second = self._opinion.get(hold.left_s)
            ruling = judge(exchange, second) if second is not None else ruling
        self._opinion.stop()
        if self._opinion.problem:
            self._note(self._opinion.problem)
        if not ruling.reason:
            self._note(f"the answer of {self._name} holds{ruling.in_words}: it is kept")
            return self._kept(hold, ruling)
        self._note(f"the answer of {self._name} does not hold: {ruling.reason}{ruling.in_words}")
        return self._escalated(hold, ruling) or self._kept(hold, ruling)

    def _kept(self, hold: Hold, ruling: Ruling) -> Reply:
        verdict = ruling.verdict(Verified.KEPT, hold.ms)
        self._end_first(hold, verdict)
        return described(self._first, self._decision, HeldChunks(hold.pieces, hold.broken), verdict)

    def _escalated(self, hold: Hold, ruling: Ruling) -> Reply | None:
        """Return the reply of the stronger target; None when the first answer must be kept."""
        beliefs, route, request_id = self._services.beliefs, self._decision.route, self._request.request_id
        if not beliefs.claim_escalation(route, request_id):
            self._note("it is kept: the dailyShare of the route is used up")
            return None
        held_ms = self._first.call.age_ms
        stronger = escalate(self._plan, self._verification, self._first, hold.left_s, self._services)
        if stronger is None:
            beliefs.withdraw_escalation(route, request_id)
            self._note("it is kept: no stronger target answers")
            return None
        verdict = ruling.verdict(Verified.ESCALATED, held_ms)
        self._end_first(hold, verdict)
        return self._routed(stronger, verdict)

    def _routed(self, stronger: Opened, verdict: Verdict) -> Reply:
        """Return the reply of the stronger target.  It gets the rest of the loop when its answer calls tools."""
        reply, call = stronger.reply, stronger.call
        if isinstance(reply, Whole):
            self._remember_calls(reply.answer)
            call.end(reply)
            return described(stronger, self._decision, None, verdict)
        call.begin()
        reply.collect()
        return described(stronger, self._decision, ReadStream(reply, call, self._remember_calls), verdict)

    def _remember_calls(self, answer: Answer | None) -> Verdict:
        if answer is not None and self._services.tool_loops is not None:
            self._services.tool_loops.add(self._request, answer.message)
        return Verdict()

    # --- parts ----------------------------------------------------------------------------------

    @property
    def _name(self) -> str:
        return self._first.call.target.backend

    def _note(self, outcome: str) -> None:
        self._first.steps.append(Step("verify", outcome))

    def _end_first(self, hold: Hold, verdict: Verdict) -> None:
        """Write the record of the first call.  A call whose stream broke has failed."""
        first, broken = self._first, hold.broken
        if broken is None:
            first.call.end(first.reply, verdict=verdict)
        else:
            first.call.end(first.reply, Outcome.ERROR, broken.kind, verdict)

    def _exchange(self, answer: Answer, *, is_whole: bool = True) -> Exchange:
        tags = self._plan.tags
        return Exchange(
            chat=self._request.body.chat,
            message=answer.message,
            finish=answer.finish,
            logprobs=answer.logprobs,
            rules=self._rules,
            difficulty=tags.difficulty if tags else None,
            is_sample=self._verification.is_sample,
            is_whole=is_whole,
        )

"""Judge the two answers to a request that was repeated for the A/B trial."""

from __future__ import annotations

import time
from dataclasses import dataclass

from app.routing.answer.comparable import comparable
from app.routing.answer.structure import structure
from app.routing.doubt import Assessment, assess
from app.types import JsonObject, Verdict
from app.wire.answer import Answer

_FAULTY = 1.0  # the doubt of an answer whose structure has a fault: it is of no use


@dataclass(frozen=True, slots=True)
class Comparison:
    """Hold a request and its two answers.  Each answer is a second opinion on the other one, when they can be compared.
    Log-probabilities count only when both backends sent them: otherwise one side had more evidence."""

    chat: JsonObject  # the request
    live: Answer
    candidate: Answer
    difficulty: float | None = None

    def verdict(self) -> Verdict:
        """Return the verdict for the record of the shadow call."""
        is_comparable = all(comparable("", answer.message, self.chat) for answer in (self.live, self.candidate))
        fault, live_fault = self._fault(self.candidate), self._fault(self.live)
        candidate = self._assess(self.candidate, self.live, is_comparable)
        live = self._assess(self.live, self.candidate, is_comparable)
        return Verdict(
            doubt=_FAULTY if fault else round(candidate.doubt, 4),
            fault=fault,
            agreement=None if candidate.agreement is None else round(candidate.agreement, 4),
            live_doubt=_FAULTY if live_fault else round(live.doubt, 4),
        )

    def _fault(self, answer: Answer) -> str | None:
        _give_way()
        return structure(self.chat, answer.message, answer.finish)

    def _assess(self, answer: Answer, other: Answer, is_comparable: bool) -> Assessment:
        _give_way()
        has_logprobs = bool(answer.logprobs and other.logprobs)
        return assess(
            "",
            answer.message,
            second=other.message if is_comparable else None,
            logprobs=answer.logprobs if has_logprobs else None,
            request=self.chat,
            finish=answer.finish,
            difficulty=self.difficulty,
        )


def _give_way() -> None:
    """Let other requests run: each step takes about 1 ms, and several ms for long answers."""
    time.sleep(0)

"""Hold a request, and what the stages of decide.py have decided about it so far."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from app.routing.basis import storable_name
from app.routing.expected import expected_time
from app.routing.locality import is_local
from app.routing.names import Meaning
from app.routing.relevant import relevant_moment, relevant_observations
from app.types import (
    BackendConfig,
    Basis,
    ChatRequest,
    Classification,
    Conversation,
    Decision,
    ExpectedTime,
    Observations,
    Policy,
    Reason,
    Route,
    Step,
    Target,
    VerificationPlan,
)

MayMeasure = Callable[[Target], bool]


class Rank(IntEnum):
    """The order of the tries.  Targets of the same rank stay in the order of their route."""

    READY = 0
    QUEUED = 1  # its expected wait is too long, or its server asked for no calls
    TOO_SMALL = 2  # its context window, which is not in force now, is probably too small
    UNHEALTHY = 3  # its circuit is open


@dataclass(slots=True)
class Choice:
    """Hold the request, and what the stages have decided so far."""

    request: ChatRequest
    tags: Classification
    policy: Policy
    observations: Observations
    meaning: Meaning  # of the client's `model`
    private: bool
    output_tokens: int  # the most that the reply may have; 0 = the request sets no limit
    needs: frozenset[str]  # the capabilities that a model must have
    may_measure: MayMeasure

    targets: tuple[Target, ...] = ()
    route: str = ""
    reason: Reason = Reason.ROUTE
    primary: str = ""
    rule: Route | None = None  # the route that matched; None: a pin or a continuation
    budget_ms: float | None = None
    verification: VerificationPlan | None = None
    skipped: Target | None = None
    measured: bool = False
    conversation: Conversation | None = None  # set by the stage `pool`
    pin_refused: bool = False
    trace: list[Step] = field(default_factory=list)
    dropped: dict[str, str] = field(default_factory=dict)  # backend -> the reason
    ranks: dict[tuple[str, str], Rank] = field(default_factory=dict)  # (backend, model) -> rank; absent = READY

    def note(self, stage: str, outcome: str) -> None:
        self.trace.append(Step(stage, outcome))

    def drop(self, stage: str, target: Target, why: str) -> None:
        self.dropped[target.backend] = why
        self.note(stage, f"dropped {target_name(target)}: {why}")

    def keep(self, targets: Sequence[Target], reason: Reason) -> None:
        """Go on with these targets.  When the first one is dropped, another one is first because of `reason`."""
        if targets and targets[0] != self.targets[0]:
            self.reason = reason
        self.targets = tuple(targets)

    def move_back(self, stage: str, targets: Mapping[Target, str], rank: Rank, reason: Reason) -> None:
        """Give targets a rank, each with its line for the trace, and sort all targets by rank."""
        for target, why in targets.items():
            self.ranks[target.backend, target.model] = max(rank, self.rank(target))
            self.note(stage, why)
        self.keep(sorted(self.targets, key=self.rank), reason)

    def rank(self, target: Target) -> Rank:
        return self.ranks.get((target.backend, target.model), Rank.READY)

    def config(self, target: Target) -> BackendConfig:
        return self.policy.backends[target.backend]

    def expected(self, target: Target) -> ExpectedTime:
        return expected_time(target, self.config(target), self.observations, self.request.lane)

    def decision(self) -> Decision:
        request, policy, meaning, now = self.request, self.policy, self.meaning, self.observations
        relevant = relevant_observations(now, policy, request.model, meaning)
        moment = relevant_moment(now, policy, relevant, request.model, meaning)
        return Decision(
            route=self.route,
            targets=self.targets,
            trace=tuple(self.trace),
            primary=self.primary,
            reason=self.reason,
            skipped=self.skipped,
            private=self.private,
            private_because=request.sensitivity_reason if self.private else None,
            pin_refused=self.pin_refused,
            dropped=self.dropped,
            verification=self.verification,
            basis=Basis(
                policy=policy.version,
                asked_model=storable_name(request.model, is_known=meaning.is_known, private=self.private),
                output_tokens=self.output_tokens,
                needs=self.needs,
                observations=relevant,
                moment=moment,
                measured=self.measured,
                targets=self.targets,
                conversation=self.conversation,
                escalated=request.escalated,
            ),
        )


def any_local(targets: tuple[Target, ...], choice: Choice) -> bool:
    """Return True when a private request may go to one of the targets."""
    return any(is_local(target, choice.observations) for target in targets)


def target_name(target: Target) -> str:
    """Return a target for the trace."""
    return f"{target.backend}/{target.model}" if target.model else target.backend


def quote(model: str) -> str:
    """Return a client's `model` for a message."""
    return repr(model[:80])

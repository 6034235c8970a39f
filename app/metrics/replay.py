"""Decide past requests again by another policy: find those that would go elsewhere, and compute the change of cost,
latency and privacy.

A request is decided from the row of its first call, which keeps the tags and the `Basis` of the decision.
The database has no texts, so private requests stay private, and only `complexity` is computed again.  With the
policy that made the decisions, no decision changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from app.errors import RouterError
from app.metrics.queries import PastCall
from app.metrics.rejudged import JudgedRequest, Rejudged
from app.metrics.rows import MOST_CHARS
from app.routing.basis import load, observations_of
from app.routing.classify import tag_complexity
from app.routing.decide import decide
from app.routing.expected import expected_time
from app.routing.locality import is_local
from app.routing.pools import conversation_of_id
from app.types import (
    Basis,
    ChatRequest,
    Classification,
    Decision,
    JsonDict,
    Kind,
    Lane,
    Observations,
    Policy,
    Reason,
    Sensitivity,
    Target,
    Verified,
    Wire,
)
from app.wire.chat.request import ChatBody
from app.wire.json_body import JsonBody

_MOST_WAITING = 10_000  # requests with rows that wait for a later row: the call that answered, or the first call
_MOST_GROUPS = 500
_MOST_VERSIONS = 20
_EXAMPLES = 3
_LANES = {lane.value: lane for lane in Lane}


class Change(StrEnum):
    """Name the difference between the decision then and now; the values are members of the report."""

    UNCHANGED = "unchanged"
    ELSEWHERE = "elsewhere"  # another first target
    ORDER = "order"  # other fallbacks
    RULE = "rule"  # another route, the same targets
    REFUSED = "refused"


CHANGES = tuple(change for change in Change if change != Change.UNCHANGED)


class Group(NamedTuple):
    """Name requests that change in the same way."""

    change: Change
    route_then: str
    target_then: str
    route_now: str
    target_now: str


@dataclass(frozen=True, slots=True)
class PastRequest:
    """Hold the first call of one request, and the call that answered it."""

    first: PastCall
    answer: PastCall | None
    others: Sequence[PastCall]  # all its calls but the first
    tags: Classification
    basis: Basis

    @property
    def cost_usd(self) -> float | None:
        """Return the cost of its calls; None = that of the answer is unknown."""
        if self.answer is None or self.answer.cost_usd is None:
            return None
        return sum(call.cost_usd or 0.0 for call in (self.first, *self.others))


@dataclass(frozen=True, slots=True)
class Verdict:
    """Hold the decision of another policy on a past request."""

    past: PastRequest
    change: Change
    route: str
    target: Target | None  # the first one; None = refused

    @property
    def group(self) -> Group:
        then, now = self.past.basis.targets[0], self.target
        return Group(self.change, self.past.first.route, _name(then), self.route, _name(now) if now else "none")


@dataclass(slots=True)
class Effect:
    """Count the requests that change, and add up cost and latency of those that go elsewhere: measured then,
    expected now."""

    requests: int = 0
    then_known: int = 0  # requests whose cost then is known
    then_usd: float = 0.0
    now_known: int = 0
    now_usd: float = 0.0
    latency_known: int = 0  # then and now
    then_ms: float = 0.0
    now_ms: float = 0.0
    examples: list[str] = field(default_factory=list)

    def document(self) -> JsonDict:
        both = self.latency_known
        return {
            "requests": self.requests,
            "cost_usd": {
                "then": round(self.then_usd, 6) if self.then_known else None,
                "then_known": self.then_known,
                "now": round(self.now_usd, 6) if self.now_known else None,
                "now_known": self.now_known,
            },
            "latency_ms": {
                "then": round(self.then_ms / both, 1) if both else None,
                "now": round(self.now_ms / both, 1) if both else None,
                "known": both,
            },
        }


class Replay:
    """Take live calls, oldest first, and report what another policy changes.  Memory does not grow with the calls."""

    def __init__(self, policy: Policy, local: frozenset[str]) -> None:
        """Take the policy to decide by, and the names of its backends that are local now."""
        self._policy = policy
        self._local = local
        self._waiting: dict[str, list[PastCall]] = {}  # request id -> its first call, which did not answer it; more
        self._early: dict[str, list[PastCall]] = {}  # request id -> calls whose rows come before that of the first one
        self._rejudged = Rejudged(policy)
        self._counts: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._total = Effect()
        self._groups: dict[Group, Effect] = {}
        self._privacy = dict.fromkeys(("leaves", "comes_home", "private_refused"), 0)
        self._not_replayed = 0  # requests of versions that stored too little

    def take(self, calls: Iterable[PastCall]) -> Iterator[Verdict]:
        """Yield the verdicts on the requests that these calls complete."""
        for call in calls:
            if call.basis is not None:
                yield from self._take_first(call)
            elif call.request_id in self._waiting:
                yield from self._take_later(call)
            elif call.kind == Kind.VERIFY or call.reason == Reason.ESCALATED:
                self._early.setdefault(call.request_id, []).append(call)
                if len(self._early) > _MOST_WAITING:
                    del self._early[next(iter(self._early))]
            elif call.tags is None and call.fallback_for is None:
                self._not_replayed += 1

    def _take_first(self, first: PastCall) -> Iterator[Verdict]:
        others = self._early.pop(first.request_id, [])
        if first.verified == Verified.ESCALATED:
            answer = next((call for call in others if call.kind != Kind.VERIFY and call.ok), None)
        else:
            answer = first if first.ok else None
        if answer or first.asked_model is None:
            yield from self._judge([first, *others], answer)
            return
        self._waiting[first.request_id] = [first, *others]
        if len(self._waiting) > _MOST_WAITING:
            yield from self._judge(self._waiting.pop(next(iter(self._waiting))), None)

    def _take_later(self, call: PastCall) -> Iterator[Verdict]:
        calls = self._waiting[call.request_id]
        calls.append(call)
        if call.ok and call.kind != Kind.VERIFY:
            del self._waiting[call.request_id]
            yield from self._judge(calls, call)

    def finish(self) -> Iterator[Verdict]:
        """Yield the verdicts on the requests that no call answered."""
        while self._waiting:
            yield from self._judge(self._waiting.pop(next(iter(self._waiting))), None)

    def report(self) -> JsonDict:
        """Return the report as JSON."""
        groups = sorted(self._groups.items(), key=lambda item: -item[1].requests)
        requests = sum(self._counts.values())
        return {
            "requests": requests,
            "unchanged": self._counts[Change.UNCHANGED],
            "changed": requests - self._counts[Change.UNCHANGED],
            **{change: self._counts[change] for change in CHANGES},
            "not_replayed": self._not_replayed,
            "decided_under": dict(self._versions),
            **{name: value for name, value in self._total.document().items() if name != "requests"},
            "privacy": self._privacy,
            "verify": self._rejudged.document(),
            "changes": [
                {**group._asdict(), **effect.document(), "examples": effect.examples} for group, effect in groups
            ],
        }

    # --- inside ---

    def _judge(self, calls: Sequence[PastCall], answer: PastCall | None) -> Iterator[Verdict]:
        """Yield the verdict on a request, whose first call comes first; nothing when its row has too little data."""
        first, *others = calls
        if first.tags is None or first.asked_model is None or first.basis is None:
            self._not_replayed += 1
            return
        past = PastRequest(first, answer, others, first.tags, load(first.policy, first.asked_model, first.basis))
        observations = self._observations(past.basis)
        try:
            decision = self._decide(past, observations)
            verdict = _compared(past, decision)
            if first.ok:
                judged = JudgedRequest(first, past.basis.targets[0], others)
                self._rejudged.add(judged, decision, is_same_policy=self._same_policy(past.basis))
        except RouterError as error:
            verdict = Verdict(past, Change.REFUSED, error.code or "refused", None)
        self._add(verdict, observations)
        yield verdict

    def _same_policy(self, basis: Basis) -> bool:
        return basis.policy == self._policy.version

    def _observations(self, basis: Basis) -> Observations:
        """Return the observations at that time.  The policy decides which backends are local."""
        then = observations_of(basis)
        return then if self._same_policy(basis) else replace(then, local=self._local)

    def _decide(self, past: PastRequest, observations: Observations) -> Decision:
        basis, tags = past.basis, past.tags
        if not self._same_policy(basis):
            complexity = tag_complexity(tags.difficulty, tags.tokens, self._policy.complexity)
            tags = replace(tags, complexity=complexity)
        keeper = basis.targets[0] if past.first.route == "continuation" else None
        if keeper and not self._keeps_conversations(keeper.backend):
            raise RouterError(
                "The backend that keeps the conversation is not in the policy.", code="previous_response_not_found"
            )
        body: JsonDict = {"max_tokens": basis.output_tokens}
        if "tools" in basis.needs:
            body["tools"] = [{}]
        request = ChatRequest(
            request_id=past.first.request_id,
            surface=past.first.surface,
            body=ChatBody(JsonBody("", body, ())),
            model=basis.asked_model or "",
            stream=past.first.stream,
            sensitivity=tags.sensitivity,
            lane=_lane(past.first),
            continues=keeper,
            conversation=basis.conversation or conversation_of_id(past.first.request_id),
            escalated=basis.escalated,
        )
        return decide(request, tags, self._policy, observations, lambda _: basis.measured)

    def _keeps_conversations(self, backend: str) -> bool:
        config = self._policy.backends.get(backend)
        return config is not None and Wire.RESPONSES in config.wires

    def _add(self, verdict: Verdict, observations: Observations) -> None:
        past = verdict.past
        self._counts[verdict.change] += 1
        if past.basis.policy in self._versions or len(self._versions) < _MOST_VERSIONS:
            self._versions[past.basis.policy] += 1
        if verdict.change == Change.UNCHANGED:
            return
        group = verdict.group
        if group not in self._groups and len(self._groups) >= _MOST_GROUPS:
            group = Group(verdict.change, "…", "…", "…", "…")
        of_group = self._groups.setdefault(group, Effect())
        if len(of_group.examples) < _EXAMPLES:
            of_group.examples.append(past.first.request_id)
        for effect in (self._total, of_group):
            effect.requests += 1
            if verdict.change == Change.ELSEWHERE and verdict.target:
                self._add_effect(effect, past, verdict.target, observations)
        if verdict.target is None:
            self._privacy["private_refused"] += past.tags.sensitivity == Sensitivity.HIGH
        else:
            was, will = is_local(past.basis.targets[0], past.basis.observations), is_local(verdict.target, observations)
            self._privacy["leaves"] += was and not will
            self._privacy["comes_home"] += will and not was

    def _add_effect(self, effect: Effect, past: PastRequest, target: Target, observations: Observations) -> None:
        """Add cost, and latency where both sides are known."""
        answer, config = past.answer, self._policy.backends[target.backend]
        if answer is None:
            return
        cost = config.price.cost_usd(answer.input_tokens, answer.output_tokens) if config.price else None
        if past.cost_usd is not None:
            effect.then_known += 1
            effect.then_usd += past.cost_usd
        if cost is not None:
            effect.now_known += 1
            effect.now_usd += cost
        measured = answer.ttfb_ms if answer.stream else answer.latency_ms
        if measured is not None and past.first.verified == Verified.ESCALATED:
            measured += past.first.held_ms or 0  # until the answer was escalated
        expected = expected_time(target, config, observations, _lane(past.first)).total_ms
        if measured is not None and expected is not None:
            effect.latency_known += 1
            effect.then_ms += measured
            effect.now_ms += expected


def _compared(past: PastRequest, now: Decision) -> Verdict:
    then = [(target.backend, target.model) for target in past.basis.targets]
    again = [(target.backend, target.model) for target in now.targets]
    if then[0] != again[0]:
        change = Change.ELSEWHERE
    elif then != again:
        change = Change.ORDER
    else:
        change = Change.UNCHANGED if now.route[:MOST_CHARS] == past.first.route else Change.RULE
    return Verdict(past, change, now.route, now.targets[0])


def _lane(call: PastCall) -> Lane:
    """Return the lane of a past call.  Rows of older versions have none."""
    return _LANES.get(call.lane or "", Lane.INTERACTIVE)


def _name(target: Target) -> str:
    return f"{target.backend}/{target.model}"

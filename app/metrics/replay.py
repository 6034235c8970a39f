"""Past requests put to another policy: which would go elsewhere, and what that would cost, take and give away.

A request is judged by the row of its first call, which keeps the tags and what the decision was made from (`Basis`).
Texts are not kept: whether a request was private stays as it was, and only `complexity` is cut anew.  Of a policy that
is the one decided by, everything stays as it was, so that nothing changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from typing import Any

from app.errors import RouterError
from app.metrics.rows import MOST_CHARS
from app.routing.basis import load
from app.routing.classify import tag_complexity
from app.routing.decide import decide
from app.routing.expected import expected_ms
from app.routing.locality import is_local
from app.types import Basis, ChatRequest, Classification, Decision, Observations, Policy, Target, Wire
from app.wire.chat.request import ChatBody
from app.wire.json_body import JsonBody

UNCHANGED, ELSEWHERE, ORDER, RULE, REFUSED = "unchanged", "elsewhere", "order", "rule", "refused"
CHANGES = (ELSEWHERE, ORDER, RULE, REFUSED)
_TAGS = tuple(tag.name for tag in fields(Classification))
_MOST_WAITING = 10_000  # first calls that failed, whose answer may come from a later row
_MOST_GROUPS = 500
_MOST_VERSIONS = 20
_EXAMPLES = 3

Group = tuple[str, str, str, str, str]  # change, route then, target then, route now, target now


@dataclass(frozen=True, slots=True)
class Past:
    """One request: the row of its first call, and that of the call that answered."""

    first: Any
    answer: Any | None
    tags: Classification
    basis: Basis


@dataclass(frozen=True, slots=True)
class Verdict:
    """What another policy makes of a past request."""

    past: Past
    change: str  # UNCHANGED or one of CHANGES
    route: str
    target: Target | None  # the first one; None = refused

    @property
    def group(self) -> Group:
        then, now = self.past.basis.targets[0], self.target
        return self.change, self.past.first.route, _name(then), self.route, _name(now) if now else "none"


@dataclass(slots=True)
class Sums:
    """Requests that change, and of those that go elsewhere cost and latency: measured then, expected now."""

    requests: int = 0
    then_known: int = 0  # requests whose cost then is known
    then_usd: float = 0.0
    now_known: int = 0
    now_usd: float = 0.0
    latency_known: int = 0  # then and now
    then_ms: float = 0.0
    now_ms: float = 0.0
    examples: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
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
    """Takes rows of live calls, oldest first, and says what they amount to.  Its memory does not grow with them."""

    def __init__(self, policy: Policy, local: frozenset[str]) -> None:
        """`local`: the backends of `policy` that are local now."""
        self._policy = policy
        self._local = local
        self._waiting: dict[str, Any] = {}  # request id -> first row
        self._counts: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._total = Sums()
        self._groups: dict[Group, Sums] = {}
        self._privacy = dict.fromkeys(("leaves", "comes_home", "private_refused"), 0)
        self._not_kept = 0

    def take(self, rows: Iterable[Any]) -> Iterator[Verdict]:
        """The verdicts on the requests that these rows make whole."""
        for row in rows:
            if row.basis is None:
                first = self._waiting.pop(row.request_id, None) if row.ok else None
                if first:
                    yield self._judge(first, row)
                elif row.tokens is None and row.fallback_for is None:
                    self._not_kept += 1  # of a version that kept no tags
            elif row.asked_model is None:
                self._not_kept += 1
            elif row.ok:
                yield self._judge(row, row)
            else:
                self._waiting[row.request_id] = row
                if len(self._waiting) > _MOST_WAITING:
                    yield self._judge(self._waiting.pop(next(iter(self._waiting))), None)

    def finish(self) -> Iterator[Verdict]:
        """The verdicts on the requests that nobody answered."""
        while self._waiting:
            yield self._judge(self._waiting.pop(next(iter(self._waiting))), None)

    def report(self) -> dict[str, Any]:
        """Everything, as JSON can say it."""
        groups = sorted(self._groups.items(), key=lambda item: -item[1].requests)
        names = ("change", "route_then", "target_then", "route_now", "target_now")
        requests = sum(self._counts.values())
        return {
            "requests": requests,
            "unchanged": self._counts[UNCHANGED],
            "changed": requests - self._counts[UNCHANGED],
            **{change: self._counts[change] for change in CHANGES},
            "not_replayed": self._not_kept,
            "decided_under": dict(self._versions),
            **{name: value for name, value in self._total.document().items() if name != "requests"},
            "privacy": self._privacy,
            "changes": [
                {**dict(zip(names, group, strict=True)), **sums.document(), "examples": sums.examples}
                for group, sums in groups
            ],
        }

    # --- inside ---

    def _judge(self, first: Any, answer: Any | None) -> Verdict:
        tags = Classification(**{name: getattr(first, name) for name in _TAGS})
        past = Past(first, answer, tags, load(first.policy, first.asked_model, first.basis))
        seen = self._observations(past.basis)
        try:
            verdict = _compared(past, self._decide(past, seen))
        except RouterError as error:
            verdict = Verdict(past, REFUSED, error.code or "refused", None)
        self._add(verdict, seen)
        return verdict

    def _same_policy(self, basis: Basis) -> bool:
        return basis.policy == self._policy.version

    def _observations(self, basis: Basis) -> Observations:
        """What is local is a question to the policy; the rest was as it was."""
        seen = basis.observations
        return seen if self._same_policy(basis) else replace(seen, local=self._local)

    def _decide(self, past: Past, seen: Observations) -> Decision:
        basis, tags = past.basis, past.tags
        if not self._same_policy(basis):
            complexity = tag_complexity(tags.difficulty, tags.tokens, self._policy.complexity)
            tags = replace(tags, complexity=complexity)
        keeper = basis.targets[0] if past.first.route == "continuation" else None
        if keeper and not self._keeps_conversations(keeper.backend):
            raise RouterError("The backend that keeps the conversation is gone.", code="previous_response_not_found")
        request = ChatRequest(
            request_id=past.first.request_id,
            surface=past.first.surface,
            body=ChatBody(JsonBody("", {"max_tokens": basis.output_tokens}, ())),
            model=basis.asked_model or "",
            stream=past.first.stream,
            sensitivity=tags.sensitivity,
            continues=keeper,
        )
        return decide(request, tags, self._policy, seen, lambda _: basis.measured)

    def _keeps_conversations(self, backend: str) -> bool:
        config = self._policy.backends.get(backend)
        return config is not None and Wire.RESPONSES in config.wires

    def _add(self, verdict: Verdict, seen: Observations) -> None:
        past = verdict.past
        self._counts[verdict.change] += 1
        if past.basis.policy in self._versions or len(self._versions) < _MOST_VERSIONS:
            self._versions[past.basis.policy] += 1
        if verdict.change == UNCHANGED:
            return
        group = verdict.group
        if group not in self._groups and len(self._groups) >= _MOST_GROUPS:
            group = (verdict.change, "…", "…", "…", "…")
        sums = self._groups.setdefault(group, Sums())
        if len(sums.examples) < _EXAMPLES:
            sums.examples.append(past.first.request_id)
        for each in (self._total, sums):
            each.requests += 1
            if verdict.change == ELSEWHERE and verdict.target:
                self._effect(each, past, verdict.target, seen)
        if verdict.target is None:
            self._privacy["private_refused"] += past.tags.sensitivity == "high"
        else:
            was, will = is_local(past.basis.targets[0], past.basis.observations), is_local(verdict.target, seen)
            self._privacy["leaves"] += was and not will
            self._privacy["comes_home"] += will and not was

    def _effect(self, sums: Sums, past: Past, target: Target, seen: Observations) -> None:
        """Adds cost, and latency where both sides are known."""
        answer, config = past.answer, self._policy.backends[target.backend]
        if answer is None:
            return
        cost = config.price.cost_usd(answer.input_tokens, answer.output_tokens) if config.price else None
        if answer.cost_usd is not None:
            sums.then_known += 1
            sums.then_usd += answer.cost_usd
        if cost is not None:
            sums.now_known += 1
            sums.now_usd += cost
        took = answer.ttfb_ms if answer.stream else answer.latency_ms
        expected = expected_ms(target, config, seen)
        if took is not None and expected is not None:
            sums.latency_known += 1
            sums.then_ms += took
            sums.now_ms += expected


def _compared(past: Past, now: Decision) -> Verdict:
    then = [(target.backend, target.model) for target in past.basis.targets]
    there = [(target.backend, target.model) for target in now.targets]
    if then[0] != there[0]:
        change = ELSEWHERE
    elif then != there:
        change = ORDER
    else:
        change = UNCHANGED if now.route[:MOST_CHARS] == past.first.route else RULE
    return Verdict(past, change, now.route, now.targets[0])


def _name(target: Target) -> str:
    return f"{target.backend}/{target.model}"

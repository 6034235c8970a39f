"""Define the decision, the facts that it was made from, and the calls that would follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.types.facts import ModelFacts, Queue
from app.types.policy import Price, Verification
from app.types.request import Request, Target
from app.types.states import CircuitState, Kind, Reason
from app.types.tags import Classification, Conversation


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the trace: a stage, what it did and why."""

    stage: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """The state of the backends as the router sees it now.  It is replaced as a whole, never changed in place."""

    latency_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (backend, model) -> median, warm calls
    load_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # as in Timings
    hold_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)
    slow: Mapping[tuple[str, str, str], bool] = field(default_factory=dict)
    facts: Mapping[str, Mapping[str, ModelFacts]] = field(default_factory=dict)  # backend -> model (model_key) -> facts
    queues: Mapping[tuple[str, str], Queue] = field(default_factory=dict)  # (backend, BackendConfig.places_of) -> queue
    in_flight: Mapping[str, int] = field(default_factory=dict)  # calls of all workers now, of members of pools only
    busy: frozenset[str] = frozenset()  # backends that asked for no calls for a while: they are healthy
    unhealthy: frozenset[str] = frozenset()  # backends whose circuit is open or half-open
    spent: frozenset[str] = frozenset()  # routes that have used up the `dailyShare` of their `verify`
    local: frozenset[str] = frozenset()  # backends that count as local
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # backend -> discovered models
    # backend -> model (locality.model_key) -> host:port that runs it, "" = the server itself.  A backend that is absent
    # runs all its models itself; a model that is absent is unknown.
    model_hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The facts that a decision was made from, beside the tags, and its targets.  `flask policy replay` decides by
    them with another policy.  It is stored with the metrics, so it holds no text of the request."""

    policy: str  # its version
    asked_model: str | None  # the client's `model`; "" = no name that a policy could have; None = cannot be stored
    output_tokens: int  # the most that the reply may have; 0 = no limit
    needs: frozenset[str] = frozenset()  # the capabilities that a model must have, of CAPABILITIES
    observations: Observations  # the part that decisions can depend on, without `moment`
    moment: Observations | None = None  # `queues`, `hold_ms`, `in_flight` and `busy` at that moment; None = all empty
    measured: bool  # the primary was tried first although it is too slow, to measure it
    targets: tuple[Target, ...]
    conversation: Conversation | None = None  # None: no member of a pool was chosen
    escalated: bool = False  # ChatRequest.escalated


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationPlan:
    """A plan to judge the answer of the first target.  When the answer does not hold, the request goes elsewhere."""

    rules: Verification
    holds: bool  # False: the answer is sent as it comes, and its structure is judged for the record
    escalation: tuple[Target, ...]  # one target, or the members of a pool
    second: Target | None = None  # the local target of the second opinion; None = there is none
    is_sample: bool = False  # `second` is the first target: it must be asked so that it may answer otherwise


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The targets of a request in the order of tries, never none, and the reasons for them."""

    route: str
    targets: tuple[Target, ...]
    trace: tuple[Step, ...]
    primary: str  # the first backend of the route or pin, before any reordering
    reason: Reason = Reason.ROUTE  # why the first target is first
    skipped: Target | None = None  # a local primary that was skipped because it is slow, and must be measured
    private: bool = False  # only local targets may be called
    private_because: str | None = None  # ChatRequest.private_because
    pin_refused: bool = False  # a private request named a target that is not local; a route was used instead
    dropped: Mapping[str, str] = field(default_factory=dict)  # backend of the route or pin, not usable -> the reason
    verification: VerificationPlan | None = None  # None: the answer is not judged
    basis: Basis | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with its tags, and the decision about it."""

    request: Request
    tags: Classification | None  # None: nothing is asked of a model
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedTime:
    """The expected time of a call, in three parts."""

    ahead: int = 0  # calls that run or wait before it; 0 = a place is free
    wait_ms: float | None = 0.0  # for a place; None = unknown
    is_cold: bool = False  # the model is not loaded
    load_ms: float | None = 0.0  # None = unknown
    warm_ms: float | None  # of a loaded model with a free place; None = unknown
    is_measured: bool  # `warm_ms` is a live median, not the policy's `p50Ms`

    @property
    def known_ms(self) -> float:
        """Return the sum of the parts that are known: the call takes at least so long."""
        return (self.wait_ms or 0.0) + (self.load_ms or 0.0) + (self.warm_ms or 0.0)

    @property
    def total_ms(self) -> float | None:
        """Return the expected time; None = unknown."""
        return None if self.warm_ms is None else self.known_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The expected time and cost of a call."""

    time: ExpectedTime
    price: Price | None  # None = unknown
    input_tokens: int
    output_tokens: int | None  # at most; None = the request sets no limit

    @property
    def expected_ms(self) -> float | None:
        """Return the whole time; None = unknown."""
        return self.time.total_ms

    @property
    def expected_from(self) -> str | None:
        """Return the source of the warm part: measured or policy; None = it is unknown."""
        if self.time.warm_ms is None:
            return None
        return "measured" if self.time.is_measured else "policy"

    @property
    def input_usd(self) -> float | None:
        return self.price.cost_usd(self.input_tokens, 0) if self.price else None

    @property
    def cost_usd(self) -> float | None:
        """Return the highest cost; None = unknown: there is no price, or no limit to the reply."""
        return self.price.cost_usd(self.input_tokens, self.output_tokens) if self.price else None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall:
    """A call that the router would make."""

    target: Target
    kind: Kind
    share: float  # the share of such requests: 1, or the sample rate of the A/B trial
    local: bool
    circuit: CircuitState
    estimate: Estimate
    url: str | None  # None: no request is sent, because the backend is a part of the router
    body: str  # passed_on | translated | native
    sent_bytes: int
    key_env: str | None  # the variable with the key that is sent; None = no key is sent
    key_set: bool  # False: the key is missing


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The calls that a decision would lead to."""

    calls: tuple[PlannedCall, ...]  # in the order of tries
    shadows: tuple[PlannedCall, ...]  # additional calls: a shadow call, a probe
    never: Mapping[str, str]  # the other backends -> why they get no call

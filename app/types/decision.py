"""What is decided, what it was decided from, and what it would lead to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from app.types.policy import Price
from app.types.request import Request, Target
from app.types.states import CircuitState, Kind, Reason
from app.types.tags import Classification


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the trace: a stage, what it did and why."""

    stage: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What the router believes about the backends now.  It is replaced as a whole, never changed in place."""

    latency_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (backend, model) -> live median
    unhealthy: frozenset[str] = frozenset()  # backends whose circuit is open or half-open
    local: frozenset[str] = frozenset()  # backends inside the operator's boundary
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # backend -> models it was seen to hold
    # backend -> model (locality.model_key) -> host:port that runs it, "" = the server itself.  A backend that is absent
    # runs all its models itself; a model that is absent is unknown.
    model_hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """The facts that a decision was made from, beside the tags, and its targets.  `flask policy replay` puts them to
    another policy.  It is stored with the metrics, so it holds no text of the request."""

    policy: str  # its version
    asked_model: str | None  # the client's `model`; "" = none that could be ours; None = not fit to be kept
    output_tokens: int  # room asked for the answer
    observations: Observations  # as far as they can matter to this request
    measured: bool  # the primary went first although too slow, to be measured
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The targets of a request in the order of tries, never none, and the reasons for them."""

    route: str
    targets: tuple[Target, ...]
    trace: tuple[Step, ...]
    primary: str  # the backend the route or pin names first, before any reordering
    reason: Reason = Reason.ROUTE  # why the first target is first
    skipped: Target | None = None  # a local primary passed over for its latency: it wants measuring
    private: bool = False  # only local targets may be called
    private_because: str | None = None  # ChatRequest.private_because
    pin_refused: bool = False  # the client named a backend or model that privacy forbids: the policy's route stands in
    dropped: Mapping[str, str] = field(
        default_factory=dict
    )  # backends the route or pin names, that may not be used: why
    basis: Basis | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """A request with its tags, and the decision about it."""

    request: Request
    tags: Classification | None  # None: nothing is asked of a model
    decision: Decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """The expected time and cost of a call."""

    expected_ms: float | None  # None = unknown
    expected_from: str | None  # measured | policy
    price: Price | None  # None = unknown
    input_tokens: int
    output_tokens: int | None  # at most; None = the request sets no limit

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
    share: float  # of such requests: 1, or that of the A/B sample
    local: bool
    circuit: CircuitState
    estimate: Estimate
    url: str | None  # None: nothing is sent, the backend answers by itself
    body: str  # passed_on | translated | native
    sent_bytes: int
    key_env: str | None  # the variable whose key goes along; None = none does
    key_set: bool  # False: it should go along and is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class DryRun:
    """The calls that a decision would lead to."""

    calls: tuple[PlannedCall, ...]  # in the order of tries
    shadows: tuple[PlannedCall, ...]  # beside them: a shadow call, a probe
    never: Mapping[str, str]  # the other backends, and why none of this reaches them

"""The vocabulary: every value that crosses a module boundary.  Read this first.

Everything here is frozen.  Units are suffixes (`_ms`, `_s`, `_bytes`); `ts_ms` is Unix time in
milliseconds.  Nothing here does I/O, and nothing here imports another module of ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

TASKS = ("code", "web_search", "summarisation", "classification", "vision", "general")
COMPLEXITIES = ("low", "medium", "high")
SENSITIVITIES = ("normal", "high")
MODALITIES = ("text", "image")
FAMILIES = ("qwen-coder", "gemma", "llama", "any")
PINS = ("any", "declared", "local", "none")  # `pins:`; the first is the default
UNKNOWN_MODELS = ("auto", "refuse")  # `unknownModel:`; likewise

JsonObject = Mapping[str, Any]


# --- what a client asks -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one chat server's wire departs from OpenAI's.  The Responses translator writes bodies by it; of a chat body
    it changes the words that the server would refuse or ignore, and nothing else."""

    reasoning_field: str = "reasoning_content"  # where reasoning sits in messages; "" = it must not be sent
    max_tokens_field: str = "max_tokens"
    max_tokens_only: bool = False  # the other of `max_tokens` and `max_completion_tokens` is refused or ignored
    developer_role: bool = False  # False: the Responses translator sends `developer` as `system`
    system_first: bool = False  # chat templates: no `developer`, and one system message, in front
    verbosity: bool = False  # understands `verbosity`
    json_schema: bool = True  # False: a schema is sent as `{"type": "json_object", "schema": …}`
    efforts: Mapping[str, str] = field(default_factory=dict)  # client's reasoning effort -> server's


class Body(Protocol):
    """A request body that can be written for whichever target is tried next."""

    @property
    def chat(self) -> JsonObject:
        """The request in chat shape: what is classified."""

    @property
    def original(self) -> Any:
        """The request as it came, with all that goes along with it: what is searched for private text.  JSON whose
        objects may be tuples of (name, value), because a name may be repeated."""

    def translate(self, dialect: Dialect) -> None:
        """Does the first half of `encode` ahead of it: with a large body each takes its time."""

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:
        """The chat body as JSON bytes for one target.  `stream` differs from the client's own only for shadow calls."""

    def native(self, model: str, *, stream: bool) -> bytes | None:
        """The Responses body for a backend that speaks that API itself; None when the client sent chat."""


@dataclass(frozen=True, slots=True)
class Target:
    """One try: a backend and the concrete model asked of it."""

    backend: str
    model: str
    client_named: bool = False  # the client named this model: its 404 is the client's mistake


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """One request, from any surface, in the form the pipeline works on."""

    request_id: str
    surface: str  # chat | responses | cli
    body: Body
    model: str  # the client's `model`, trimmed; "" when absent
    stream: bool
    sensitivity: str = "normal"
    sensitivity_reason: str = "header"  # what made it high: header, detector:NAME, pattern:patterns[N], conversation
    large: bool = True  # each step with it may take milliseconds: the others get a turn between them
    continues: Target | None = None  # the backend that keeps the conversation: no other can go on with it
    kind: ClassVar[str] = "live"  # of its calls, but for those that mirror it

    @property
    def private_because(self) -> str | None:
        """Name what made the request private; None when it is not.  The name holds nothing of the text."""
        return self.sensitivity_reason if self.sensitivity == "high" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRequest:
    """GET or DELETE of a response that a backend keeps."""

    request_id: str
    method: str
    path: str  # behind the backend's path of responses
    keeper: Target  # the only backend that can answer
    private: bool
    surface: ClassVar[str] = "responses"
    stream: ClassVar[bool] = False
    kind: ClassVar[str] = "stored"

    @property
    def private_because(self) -> str | None:
        """Name what made the request private, as ChatRequest does."""
        return "conversation" if self.private else None


# --- what the policy says -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Backend deadlines in seconds."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    send_s: float = 60.0  # in which a backend must take some of the request


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def cost_usd(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """USD of a call; None = unknown, which is not 0."""
        if self.input == self.output == 0:
            return 0.0
        if input_tokens is None or output_tokens is None:
            return None
        return (input_tokens * self.input + output_tokens * self.output) / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendConfig:
    """One entry under `backends:`, in normal form (defaults filled in, endpoint without a trailing slash)."""

    name: str
    type: str
    endpoint: str
    timeouts: Timeouts
    models: tuple[str, ...] = ()  # the first is the default model
    families: Mapping[str, str] = field(default_factory=dict)  # family -> model
    p50_ms: float | None = None  # expected latency until measured; None = unknown
    local: bool | None = None  # inside the operator's boundary; None = depends on what its name resolves to
    context_windows: Mapping[str, int] = field(default_factory=dict)  # model -> tokens; "*" = every other model
    price: Price | None = None  # None = unknown, which is not 0
    max_concurrency: int = 0  # 0 = no limit
    api_key_env: str | None = None
    responses: str = "chat"  # native: it speaks the Responses API itself
    own: Mapping[str, Any] = field(default_factory=dict)  # keys of its type alone (Backend.policy_fields)

    def context_window(self, model: str) -> int | None:
        """Tokens that fit into `model`'s window, or None when the policy does not say."""
        return self.context_windows.get(model, self.context_windows.get("*"))


@dataclass(frozen=True, slots=True)
class Range:
    """`{min, max}` of a match, both ends included; None = open."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


Condition = frozenset[str] | Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One rule.  An empty match is the default route."""

    label: str  # how rows and headers name it: `task=code,complexity=low`, `default`
    match: Mapping[str, Condition]
    backend: str
    fallbacks: tuple[str, ...] = ()
    latency_budget_ms: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cuts:
    """`complexity:`; where `difficulty` becomes medium and high."""

    medium: float = 0.35
    high: float = 0.65


@dataclass(frozen=True, slots=True)
class ABTest:
    """`ab:`; candidates maps a primary to the backend that is tried beside it."""

    enabled: bool = False
    sample_rate: float = 0.05  # as in the original
    candidates: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SensitivityRules:
    """`sensitivity:`; names of built-in detectors and the operator's own patterns."""

    detect: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponsesRules:
    """`responses:`; what /v1/responses keeps for continuation and retrieval."""

    store: bool = True
    store_private: bool = False
    ttl_hours: float = 24.0
    max_rows: int = 10_000
    max_bytes: int = 268_435_456  # of all turns as JSON: 256 MiB
    max_turn_bytes: int = 8_388_608  # 8 MiB: a larger one is not kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The validated policy.  Nothing but `policy.py` reads YAML."""

    backends: Mapping[str, BackendConfig]
    routes: tuple[Route, ...]  # top to bottom; the last is the default
    complexity: Cuts = Cuts()
    ab: ABTest = ABTest()
    sensitivity: SensitivityRules = SensitivityRules()
    responses: ResponsesRules = ResponsesRules()
    aliases: Mapping[str, str] = field(default_factory=dict)  # a name that clients send -> what it stands for
    pins: str = "any"  # which names may pin a request: one of PINS
    unknown_model: str = "auto"  # a request with a name that nobody knows: one of UNKNOWN_MODELS
    savings_against: str | None = None  # the backend whose price the savings are reckoned with
    version: str = ""  # short hash of the text, so that two machines can be compared

    @property
    def echoes(self) -> frozenset[str]:
        """The backends that are no model: they repeat what they are told."""
        return frozenset(name for name, config in self.backends.items() if config.type == "echo")


# --- what is decided ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Classification:
    """What the classifier says.  The field names are the legal `match:` keys of a policy."""

    task: str
    complexity: str
    sensitivity: str
    modality: str
    family: str
    tokens: int  # estimated input tokens: messages, tools and instructions
    difficulty: float = 0.0  # 0 to 1: how likely a small local model is not enough
    confidence: float = 1.0  # 0 to 1: in the task


@dataclass(frozen=True, slots=True)
class Sign:
    """One feature that spoke, and with how many points (below 0: against)."""

    feature: str
    points: float
    words: tuple[str, ...] = ()  # of the prompt, that made it speak


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Why the classifier said what it said.  Features can hold the prompt's words: show it, never store it."""

    tags: Classification
    runner_up: str  # the next likely task
    task_signs: tuple[Sign, ...]  # for the task over the runner-up, the loudest first
    difficulty_signs: tuple[Sign, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the trace: which stage, and what it did and why."""

    stage: str
    outcome: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Observations:
    """What we believe about the backends now.  Swapped whole, never changed in place."""

    latency_ms: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (backend, model) -> live median
    cooling: frozenset[str] = frozenset()  # backends whose circuit is open
    local: frozenset[str] = frozenset()  # backends inside the operator's boundary
    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # backend -> models it was seen to hold
    # backend -> model (locality.model_key) -> host:port that runs it, "" = the server itself.  A backend that is absent
    # runs all its models itself; a model that is absent is unknown.
    model_hosts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What a decision was made from, beside the tags, and what came of it: with it the same question can be put to
    another policy.  Kept with the metrics, so it holds no text of the request."""

    policy: str  # its version
    asked_model: str | None  # the client's `model`; "" = none that could be ours; None = not fit to be kept
    output_tokens: int  # room asked for the answer
    observations: Observations  # as far as they can matter to this request
    measured: bool  # the primary went first although too slow, to be measured
    targets: tuple[Target, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Where a request goes.  `targets` is never empty; the order is the order of tries."""

    route: str
    targets: tuple[Target, ...]
    trace: tuple[Step, ...]
    primary: str  # the backend the route or pin names first, before any reordering
    reason: str = "route"  # why the first target is first: route, pin, continuation, fit, cooling, spill
    skipped: Target | None = None  # a local primary passed over for its latency: it wants measuring
    private: bool = False  # only local targets may be called
    private_because: str | None = None  # ChatRequest.private_because
    pin_refused: bool = False  # the client named a backend or model that privacy forbids: the policy's route stands in
    dropped: Mapping[str, str] = field(
        default_factory=dict
    )  # backends the route or pin names, that may not be used: why
    basis: Basis | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request as it is sent to one target."""

    path: str
    body: bytes  # empty: none is sent
    native: bool = False  # a Responses body instead of chat
    method: str = "POST"

    def form(self, request: ChatRequest) -> str:
        """native | translated | passed_on: what became of the client's body."""
        return "native" if self.native else "translated" if request.surface == "responses" else "passed_on"


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """What a call is expected to take and cost."""

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
        """At most; None = unknown: no price, or no limit to the answer."""
        return self.price.cost_usd(self.input_tokens, self.output_tokens) if self.price else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A call that a dry run foresees."""

    target: Target
    kind: str  # live | shadow | probe
    share: float  # of such requests: 1, or that of the A/B sample
    local: bool
    circuit: str  # closed | open | half-open
    estimate: Estimate
    url: str | None  # None: nothing is sent, the backend answers by itself
    body: str  # passed_on | translated | native
    sent_bytes: int
    key_env: str | None  # the variable whose key goes along; None = none does
    key_set: bool  # False: it should go along and is not there


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a decision would lead to."""

    calls: tuple[Planned, ...]  # in the order of tries
    mirrors: tuple[Planned, ...]  # beside them: an A/B sample, a measurement
    never: Mapping[str, str]  # the other backends, and why none of this reaches them


# --- what comes back ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Buffered:
    """A whole answer; `body` is the backend's own bytes, `document` the same parsed."""

    target: Target
    route: str
    body: bytes
    document: Mapping[str, Any]
    fallback_for: str | None = None
    failed: str = ""  # the calls that failed before this one: `local:refused,spare:http_503`
    trace: tuple[Step, ...] = ()  # the decision's, and what failed since
    private: bool = False
    private_because: str | None = None
    pin_refused: bool = False
    native: bool = False  # a Response object, not a chat completion


class Chunks(Protocol):
    """The bytes of a stream as they come.  Iterating raises StreamInterrupted when the stream breaks."""

    failure: str | None  # the short kind of what broke the stream; None while it is whole

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None:
        """Close the connection to the backend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streamed:
    """A stream whose first event has arrived."""

    target: Target
    route: str
    chunks: Chunks
    fallback_for: str | None = None
    failed: str = ""  # the calls that failed before this one: `local:refused,spare:http_503`
    trace: tuple[Step, ...] = ()  # the decision's, and what failed since
    private: bool = False
    private_because: str | None = None
    pin_refused: bool = False
    native: bool = False  # Responses events, not chat chunks


Reply = Buffered | Streamed


@dataclass(frozen=True, slots=True, kw_only=True)
class CallRecord:
    """One finished call to one target.  Metrics, health, A/B and cost listen to this and nothing else."""

    request_id: str
    ts_ms: int  # when the call ended
    kind: str  # live | shadow | probe | stored
    backend: str
    model: str
    route: str
    surface: str
    stream: bool
    latency_ms: int  # the whole call
    ttfb_ms: int | None  # to the first byte of content; None when none came
    outcome: str  # ok | error | cancelled
    error: str | None = None  # short kind: timeout, refused, http_503 …
    reason: str = "route"  # Decision.reason, or fallback, shadow, probe
    fallback_for: str | None = None  # the backend that failed or cools down, for which this call stood in
    destination: str | None = None  # host:port of a target that is not local, or that runs its model
    sent_bytes: int | None = None  # size of the body that was sent; None when it came to nothing before
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None  # None = unknown
    finish: str | None = None  # why the answer ended, in the backend's word: stop, length, content_filter …
    answer_chars: int | None = None  # length of the answer: text and tool arguments; None = there is no answer
    live_ts_ms: int | None = None  # `ts_ms` of the live call that a shadow call mirrors
    task: str | None = None  # these eight: the tags of the request; None: nothing was asked of a model
    complexity: str | None = None
    sensitivity: str | None = None
    modality: str | None = None
    family: str | None = None
    tokens: int | None = None
    difficulty: float | None = None
    confidence: float | None = None
    sensitivity_reason: str | None = None  # what made the request private; None = it is not
    basis: Basis | None = None  # of the decision, on the first call of a request
    backend_failed: bool = False  # the backend's fault: counts towards its circuit
    retry_after_s: float | None = None

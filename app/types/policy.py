"""The policy: backends, routes and rules, validated and in normal form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from app.types.aliases import JsonObject
from app.types.facts import model_key
from app.types.states import Wire

PINS = ("any", "declared", "local", "none")  # `pins:`; the first is the default
VERIFY_BY = ("structure", "confidence", "agreement")  # `verify.by`
HOLDS = ("turns", "task")  # `conversations.hold`; the first is the default
UNKNOWN_MODELS = ("auto", "refuse")  # `unknownModel:`; the first is the default


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Backend deadlines in seconds."""

    connect_s: float
    first_byte_s: float
    idle_s: float
    send_s: float = 60.0  # in which a backend must read the next piece of the request


@dataclass(frozen=True, slots=True)
class Price:
    """USD per million tokens."""

    input: float
    output: float

    def cost_usd(self, input_tokens: int | None, output_tokens: int | None) -> float | None:
        """Return the USD that a call costs; None = unknown, which is not 0."""
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
    local: bool | None = None  # None = depends on the addresses of its host
    context_windows: Mapping[str, int] = field(default_factory=dict)  # model_key -> tokens; "*" = every other model
    price: Price | None = None  # None = unknown, which is not 0
    max_concurrency: Mapping[str, int] = field(
        default_factory=dict
    )  # model_key -> calls at the same time; 0 = no limit
    max_wait_ms: float | None = None  # a call that is expected to wait longer for a place goes elsewhere
    api_key_env: str | None = None
    responses: str = "chat"  # native: the server speaks the Responses API itself
    messages: str = "chat"  # native: the server speaks the Messages API itself; only: it speaks no other
    own: JsonObject = field(default_factory=dict)  # keys of its type alone (Backend.policy_fields)

    @property
    def wires(self) -> tuple[Wire, ...]:
        """Return the wire forms of the server.  For clients of another form, the last one is used."""
        if self.messages == "only":
            return (Wire.MESSAGES,)
        responses = (Wire.RESPONSES,) if self.responses == "native" else ()
        messages = (Wire.MESSAGES,) if self.messages == "native" else ()
        return (*responses, *messages, Wire.CHAT)

    @property
    def longest_wait_ms(self) -> float:
        """Return `maxWaitMs`; its default is the first-byte deadline."""
        return self.timeouts.first_byte_s * 1000 if self.max_wait_ms is None else self.max_wait_ms

    def context_window(self, model: str) -> int | None:
        """Return the tokens that fit into `model`'s window, or None when the policy does not say."""
        windows = self.context_windows
        return windows.get(model_key(model), windows.get("*")) if windows else None

    def places_of(self, model: str) -> str:
        """Return the name of the places that calls to a model share: its model_key, or "*"."""
        key = model_key(model)
        return key if key in self.max_concurrency else "*"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Backends that do the same work.  A pool's name stands wherever a backend's does."""

    members: tuple[str, ...]
    weights: Mapping[str, float] = field(default_factory=dict)  # share of the conversations; absent = 1

    def weight(self, member: str) -> float:
        return self.weights.get(member, 1.0)


@dataclass(frozen=True, slots=True)
class Range:
    """`{min, max}` of a match, both ends included; None = open."""

    min: float | None = None
    max: float | None = None

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, (int, float)):
            return False
        return (self.min is None or value >= self.min) and (self.max is None or value <= self.max)


Condition = frozenset[str | bool] | Range


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """`verify:` of a route; how its first answer is judged, and where a request goes whose answer does not hold."""

    by: frozenset[str] = frozenset(VERIFY_BY)
    second: str | None = None  # the local backend of the second opinion
    second_model: str | None = None  # None = the one for the family of the request
    samples: int = 1  # 2: the second opinion is another sample of the same model
    escalate: str | None = None  # a backend or a pool; None = the first fallback of the route
    doubt: float = 0.5  # an answer with more doubt is not sent
    max_hold_ms: float = 8000.0  # a stream is held no longer
    max_hold_tokens: int = 400
    daily_share: float = 0.3  # of the route's requests in the last 24 h that may be escalated


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One rule.  An empty match is the default route."""

    label: str  # its name in rows and headers: `task=code,complexity=low`, `default`
    match: Mapping[str, Condition]
    backend: str
    model: str | None = None  # of `backend`; None = the one for the family of the request
    fallbacks: tuple[str, ...] = ()
    latency_budget_ms: float | None = None
    verify: Verification | None = None
    reason: str = ""

    def words(self, tag: str) -> frozenset[str]:
        """Return the words of the condition on a tag; none when there is no such condition."""
        condition = self.match.get(tag)
        return frozenset(map(str, condition)) if isinstance(condition, frozenset) else frozenset()


@dataclass(frozen=True, slots=True)
class Cuts:
    """`complexity:`; the values of `difficulty` from which on it is medium and high."""

    medium: float = 0.35
    high: float = 0.65


@dataclass(frozen=True, slots=True)
class ConversationRules:
    """`conversations:`; how the turns of a conversation are judged together."""

    sticky: bool = True  # False: each turn is judged alone
    hold: str = HOLDS[0]  # task: difficulty falls with a new task only


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
    """`responses:`; the limits of the responses that /v1/responses stores."""

    store: bool = True
    store_private: bool = False
    ttl_hours: float = 24.0
    max_rows: int = 10_000
    max_bytes: int = 268_435_456  # of all turns as JSON: 256 MiB
    max_turn_bytes: int = 8_388_608  # 8 MiB: a larger one is not stored


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The validated policy."""

    backends: Mapping[str, BackendConfig]
    routes: tuple[Route, ...]  # top to bottom; the last is the default
    pools: Mapping[str, Pool] = field(default_factory=dict)
    complexity: Cuts = Cuts()
    conversations: ConversationRules = ConversationRules()
    ab: ABTest = ABTest()
    sensitivity: SensitivityRules = SensitivityRules()
    responses: ResponsesRules = ResponsesRules()
    aliases: Mapping[str, str] = field(default_factory=dict)  # a name that clients send -> its meaning
    pins: str = "any"  # which names may pin a request: one of PINS
    unknown_model: str = "auto"  # the treatment of unknown names: one of UNKNOWN_MODELS
    savings_against: str | None = None  # the backend whose price is compared with the cost
    version: str = ""  # short hash of the text, so that two machines can be compared

    def members(self, name: str) -> tuple[str, ...]:
        """Return the backends that a name of a backend or a pool stands for."""
        return self.pools[name].members if name in self.pools else (name,)

    def route_models(self, backend: str) -> Iterator[str]:
        """Yield the models that routes name for a backend."""
        for route in self.routes:
            if route.model and backend in self.members(route.backend):
                yield route.model
            if route.verify and route.verify.second == backend and route.verify.second_model:
                yield route.verify.second_model

    @property
    def echoes(self) -> frozenset[str]:
        """Return the backends that are not models: they repeat the prompt."""
        return frozenset(name for name, config in self.backends.items() if config.type == "echo")

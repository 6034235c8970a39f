"""Define every key of the policy: its type, its default and its help text.

`app/policy/docs.py` writes docs/policy.md from this module.
"""

from __future__ import annotations

from collections.abc import Mapping

from marshmallow import Schema, ValidationError, fields, validates_schema

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.fields import (
    CheckedField,
    Choice,
    Choices,
    Condition,
    Endpoint,
    EnvName,
    Flag,
    FlagCondition,
    Limits,
    NameList,
    Names,
    Number,
    StrictSchema,
    Text,
    Weights,
    Windows,
)
from app.policy.detector_fields import DetectorNames, Patterns
from app.routing.sender import CLIENTS
from app.types import (
    COMPLEXITIES,
    FAMILIES,
    HOLDS,
    MODALITIES,
    PINS,
    PURPOSES,
    SENSITIVITIES,
    TASKS,
    UNKNOWN_MODELS,
    VERIFY_BY,
    ABTest,
    Cuts,
    Verification,
)

_AB = ABTest()
_CUTS = Cuts()
_VERIFY = Verification()
_MOST_SAMPLES = 2


def _help(text: str, default: str = "") -> dict[str, str]:
    """Return the metadata of a field: its help text, and its default as the page shows it."""
    return {"help": text, "default": default}


class PriceSchema(StrictSchema):
    input = Number(required=True, metadata=_help("USD per million input tokens"))
    output = Number(required=True, metadata=_help("USD per million output tokens"))


class TimeoutsSchema(StrictSchema):
    connect_ms = Number(
        above=True, data_key="connectMs", metadata=_help("time limit for the connection", "LLR_CONNECT_TIMEOUT")
    )
    first_byte_ms = Number(
        above=True,
        data_key="firstByteMs",
        metadata=_help(
            "time limit for the first byte of a reply, or the first event of a stream", "LLR_FIRST_BYTE_TIMEOUT"
        ),
    )
    idle_ms = Number(
        above=True, data_key="idleMs", metadata=_help("time limit between two pieces of a reply", "LLR_IDLE_TIMEOUT")
    )
    send_ms = Number(
        above=True,
        data_key="sendMs",
        metadata=_help(
            "time in which the backend must accept at least one more piece of the request", "LLR_SEND_TIMEOUT"
        ),
    )


class BackendSchema(StrictSchema):
    type = Choice(BACKEND_TYPES, required=True, metadata=_help("the kind of server, which sets the API and defaults"))
    endpoint = Endpoint(metadata=_help("the address of the server; each type has a default"))
    model = Text(metadata=_help("the default model"))
    models = NameList(metadata=_help("the models of the server; the first one is the default model"))
    families = Names(FAMILIES, metadata=_help("the model for each family of requests"))
    p50_ms = Number(
        above=True, data_key="p50Ms", metadata=_help("the expected latency in ms, until the router has measured it")
    )
    local = Flag(
        metadata=_help(
            "`true`: the backend counts as local, so private requests may go there",
            "true for local types at a private address",
        )
    )
    context_window = Windows(
        data_key="contextWindow",
        metadata=_help(
            "the limit for the tokens of prompt and reply together; a longer prompt never goes to this backend"
        ),
    )
    price = fields.Nested(
        PriceSchema, metadata=_help("what the tokens cost; without it the cost is unknown, which is not 0")
    )
    timeouts = fields.Nested(TimeoutsSchema, metadata=_help("time limits in ms"))
    max_concurrency = Limits(
        data_key="maxConcurrency",
        metadata=_help("the largest number of calls at the same time; 0 means no limit", "0"),
    )
    max_wait_ms = Number(
        data_key="maxWaitMs",
        metadata=_help(
            "the longest wait for a place in ms: a call that would wait longer goes to the next target", "firstByteMs"
        ),
    )
    api_key_env = EnvName(
        data_key="apiKeyEnv",
        metadata=_help('the environment variable that holds the key; "" means that the backend needs none', "by type"),
    )
    responses = Choice(
        ("chat", "native"),
        metadata=_help(
            "`chat`: the router translates /v1/responses to chat; `native`: the backend serves that API itself",
            "chat; native for openai at its default endpoint",
        ),
    )
    messages = Choice(
        ("chat", "native"),
        metadata=_help(
            "`chat`: the router translates /v1/messages to chat; `native`: the backend serves that API itself",
            "chat; native for anthropic",
        ),
    )


def backend_schema(kind: type[Backend]) -> StrictSchema:
    """Return a schema with the common keys and the keys of this type of backend."""
    schema: type[Schema] = type(f"{kind.__name__}Schema", (BackendSchema,), dict(kind.policy_fields))
    assert issubclass(schema, StrictSchema)
    return schema()


class BackendField(CheckedField[Mapping[str, object]]):
    """Check a backend by the schema of its type."""

    def check(self, value: object) -> Mapping[str, object]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of keys to values")
        kind = BACKEND_TYPES.get(str(value.get("type")))
        schema = backend_schema(kind) if kind else BackendSchema()
        entry: Mapping[str, object] = schema.load(value)
        return entry


class PoolSchema(StrictSchema):
    members = NameList(required=True, metadata=_help("the backends of the pool"))
    weights = Weights(
        load_default=dict,
        metadata=_help("the share of the conversations of each member, compared with the others; absent means 1", "1"),
    )


class VerifySchema(StrictSchema):
    by = Choices(
        VERIFY_BY,
        load_default=_VERIFY.by,
        metadata=_help(
            "how the answer is judged: by its form, by the probabilities of its tokens, by a second opinion",
            "all three",
        ),
    )
    second = Text(metadata=_help("the local backend of the second opinion, as `backend` or `backend/model`"))
    samples = Number(
        1,
        _MOST_SAMPLES,
        whole=True,
        load_default=_VERIFY.samples,
        metadata=_help(
            "2: the second opinion is another sample of the same model, when that is local", f"{_VERIFY.samples}"
        ),
    )
    escalate = Text(
        metadata=_help("the backend or pool for a request whose answer does not hold", "the first of `fallback`")
    )
    doubt = Number(
        0,
        1,
        load_default=_VERIFY.doubt,
        metadata=_help("0 to 1; an answer with more doubt is not sent", f"{_VERIFY.doubt:g}"),
    )
    max_hold_ms = Number(
        above=True,
        load_default=_VERIFY.max_hold_ms,
        data_key="maxHoldMs",
        metadata=_help("in ms; a stream is held no longer, then it is sent as it is", f"{_VERIFY.max_hold_ms:g}"),
    )
    max_hold_tokens = Number(
        1,
        whole=True,
        load_default=_VERIFY.max_hold_tokens,
        data_key="maxHoldTokens",
        metadata=_help("a stream with more tokens is sent as it is", f"{_VERIFY.max_hold_tokens}"),
    )
    daily_share = Number(
        0,
        1,
        load_default=_VERIFY.daily_share,
        data_key="dailyShare",
        metadata=_help(
            "the share of the route's requests of the last 24 hours that may be escalated", f"{_VERIFY.daily_share:g}"
        ),
    )

    @validates_schema(pass_original=True)
    def _check_second(self, data: object, original: object, **_: object) -> None:  # noqa: ARG002
        if isinstance(original, Mapping) and "second" in original and original.get("samples", 1) != 1:
            raise ValidationError({"samples": ["cannot stand beside `second`; remove one of them"]})


class MatchSchema(StrictSchema):
    task = Condition(TASKS, metadata=_help("the kind of work that the prompt asks for"))
    complexity = Condition(COMPLEXITIES, metadata=_help("how strong a model the prompt needs"))
    sensitivity = Condition(SENSITIVITIES, metadata=_help("high means private: the request must stay local"))
    modality = Condition(MODALITIES, metadata=_help("image when any message contains an image"))
    family = Condition(FAMILIES, metadata=_help("the family of models that fits the task"))
    tokens = Condition(None, metadata=_help("the estimated input tokens, as {min, max}"))
    difficulty = Condition(
        None,
        1,
        metadata=_help("the probability that a small local model is not good enough, 0 to 1, as {min, max}"),
    )
    confidence = Condition(
        None, 1, metadata=_help("how certain the classifier is about the task, 0 to 1, as {min, max}")
    )

    client = Condition(CLIENTS, metadata=_help("the program that asks; `other` when it is not known"))
    tools = FlagCondition(metadata=_help("whether the request declares tools"))
    purpose = Condition(
        PURPOSES,
        metadata=_help(
            "interactive: a person asks; agent: a coding agent, or tools that act on a machine; background: a program "
            "asks by itself, for titles, tags or suggestions"
        ),
    )


class RouteSchema(StrictSchema):
    match = fields.Nested(MatchSchema, metadata=_help("the conditions; all of them must hold"))
    backend = Text(metadata=_help("the backend or pool for a request that matches"))
    model = Text(metadata=_help("the model of `backend` for a request that matches", "by the family of the request"))
    default = Text(metadata=_help("the backend or pool of the last route, which matches every request"))
    fallback = NameList(metadata=_help("the backends and pools to try, in this order, when the first one fails"))
    latency_budget_ms = Number(
        above=True,
        data_key="latencyBudgetMs",
        metadata=_help("in ms; when the backend is expected to take longer, a faster fallback is tried before it"),
    )
    verify = fields.Nested(
        VerifySchema, metadata=_help("how the answer of the backend is judged before the client gets it")
    )
    reason = Text(metadata=_help("a note for people; the trace shows it"))

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _check_form(self, data: object, original: object, **_: object) -> None:  # noqa: ARG002
        if not isinstance(original, dict):
            return
        if "default" in original:
            for key in ("match", "backend"):
                if key in original:
                    raise ValidationError(
                        {key: ["cannot stand beside `default`, which matches every request; remove one of them"]}
                    )
        elif "match" not in original or "backend" not in original:
            missing = " and ".join(f"`{key}`" for key in ("match", "backend") if key not in original)
            raise ValidationError(f"needs {missing} (or `default: NAME` in the last route)")


class ComplexitySchema(StrictSchema):
    medium = Number(
        0, 1, load_default=_CUTS.medium, metadata=_help("the lowest `difficulty` that is medium", f"{_CUTS.medium}")
    )
    high = Number(
        0, 1, load_default=_CUTS.high, metadata=_help("the lowest `difficulty` that is high", f"{_CUTS.high}")
    )

    @validates_schema
    def _check_order(self, data: Mapping[str, float], **_: object) -> None:
        if data["medium"] >= data["high"]:
            raise ValidationError(f"medium ({data['medium']:g}) must be below high ({data['high']:g})")


class ConversationsSchema(StrictSchema):
    sticky = Flag(
        load_default=True,
        metadata=_help(
            "`true`: a conversation keeps its task until a turn clearly asks for another one; `false`: each turn is "
            "judged alone",
            "true",
        ),
    )
    hold = Choice(
        HOLDS,
        load_default=HOLDS[0],
        metadata=_help(
            "`turns`: the difficulty of a conversation falls after three easier turns; `task`: only with a new task",
            HOLDS[0],
        ),
    )


class ABSchema(StrictSchema):
    enabled = Flag(load_default=False, metadata=_help("`true` switches the trial on", "false"))
    sample_rate = Number(
        0,
        1,
        load_default=_AB.sample_rate,
        data_key="sampleRate",
        metadata=_help("the share of requests that is sent to the candidate too, 0 to 1", f"{_AB.sample_rate}"),
    )
    candidates = Names(load_default=dict, metadata=_help("the candidate of each primary, as `primary: candidate`"))


class SensitivitySchema(StrictSchema):
    detect = DetectorNames(load_default=(), metadata=_help("the built-in detectors to use"))
    patterns = Patterns(
        load_default=(), metadata=_help("your own RE2 regular expressions; ^ and $ match at the ends of every line")
    )


class ResponsesSchema(StrictSchema):
    store = Flag(
        load_default=True, metadata=_help("keep responses, so that clients can continue and retrieve them", "true")
    )
    store_private = Flag(
        load_default=False, data_key="storePrivate", metadata=_help("keep private responses too", "false")
    )
    ttl_hours = Number(
        above=True,
        high=8760,
        load_default=24.0,
        data_key="ttlHours",
        metadata=_help("the hours after which a response is deleted", "24"),
    )
    max_rows = Number(
        1,
        10_000_000,
        whole=True,
        load_default=10_000,
        data_key="maxRows",
        metadata=_help("the largest number of responses", "10000"),
    )
    max_bytes = Number(
        1024,
        10**14,
        whole=True,
        load_default=268_435_456,
        data_key="maxBytes",
        metadata=_help(
            "the largest size of all responses, in bytes of JSON; the oldest are deleted first", "268435456 (256 MiB)"
        ),
    )
    max_turn_bytes = Number(
        1024,
        2**30,
        whole=True,
        load_default=8_388_608,
        data_key="maxTurnBytes",
        metadata=_help(
            "the largest size of one request with its response, in bytes; larger ones are not kept", "8388608 (8 MiB)"
        ),
    )


class SavingsSchema(StrictSchema):
    against = Text(required=True, metadata=_help("the backend whose `price` is applied to all tokens"))


class PolicySchema(StrictSchema):
    backends = fields.Dict(
        keys=Text(),
        values=BackendField(),
        required=True,
        metadata=_help("the backends, each under a name of your choice"),
        error_messages={"invalid": "must be a mapping of name to backend"},
    )
    routes = fields.List(
        fields.Nested(RouteSchema),
        required=True,
        metadata=_help("the rules, from top to bottom: the first match wins, and the last one is `default`"),
        error_messages={"invalid": "must be a list of routes"},
    )
    pools = fields.Dict(
        keys=Text(),
        values=fields.Nested(PoolSchema),
        load_default=dict,
        metadata=_help("groups of backends that do the same work, each under a name that stands for a backend"),
        error_messages={"invalid": "must be a mapping of name to pool"},
    )
    aliases = Names(
        load_default=dict,
        metadata=_help("the names that clients may send, each with its meaning: `auto`, a backend, a pool or a model"),
    )
    pins = Choice(
        PINS,
        load_default=PINS[0],
        metadata=_help("the names that a request may send, beside `auto` and the aliases", PINS[0]),
    )
    unknown_model = Choice(
        UNKNOWN_MODELS,
        load_default=UNKNOWN_MODELS[0],
        data_key="unknownModel",
        metadata=_help("`auto`: an unknown name is routed as `auto`; `refuse`: it is a 404", UNKNOWN_MODELS[0]),
    )
    complexity = fields.Nested(ComplexitySchema, metadata=_help("the limits of `difficulty` for the tag `complexity`"))
    conversations = fields.Nested(
        ConversationsSchema, metadata=_help("how the turns of a conversation are judged together")
    )
    ab = fields.Nested(
        ABSchema, metadata=_help("an A/B trial, which sends a sample of the live requests to a candidate too")
    )
    sensitivity = fields.Nested(
        SensitivitySchema,
        metadata=_help("the detectors that make a request private by its text; without them only the header does"),
    )
    responses = fields.Nested(ResponsesSchema, metadata=_help("the limits of what /v1/responses keeps"))
    savings = fields.Nested(
        SavingsSchema, metadata=_help("the backend with whose price the dashboard compares the cost")
    )

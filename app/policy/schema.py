"""Every policy key: its type, default and help.  docs/policy.md is generated from here."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validates_schema

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.errors import excerpt
from app.policy.fields import (
    MOST_PROBLEMS,
    Checked,
    Choice,
    Condition,
    Endpoint,
    EnvName,
    Flag,
    NameList,
    Names,
    Number,
    StrictSchema,
    Text,
    Windows,
    nearest,
)
from app.routing.detect import CHOICES, DETECTORS, MOST_BYTES, TOO_MUCH, PatternError, check_detector, check_pattern
from app.types import (
    COMPLEXITIES,
    FAMILIES,
    MODALITIES,
    PINS,
    SENSITIVITIES,
    TASKS,
    UNKNOWN_MODELS,
    ABTest,
    Cuts,
)

_AB = ABTest()
_CUTS = Cuts()


def _help(text: str, default: str = "") -> dict[str, Any]:
    return {"help": text, "default": default}


class PriceSchema(StrictSchema):
    input = Number(required=True, metadata=_help("USD per million input tokens"))
    output = Number(required=True, metadata=_help("USD per million output tokens"))


class TimeoutsSchema(StrictSchema):
    connect_ms = Number(above=True, data_key="connectMs", metadata=_help("to connect", "LLR_CONNECT_TIMEOUT"))
    first_byte_ms = Number(
        above=True,
        data_key="firstByteMs",
        metadata=_help("to the first byte of an answer or event of a stream", "LLR_FIRST_BYTE_TIMEOUT"),
    )
    idle_ms = Number(above=True, data_key="idleMs", metadata=_help("between two pieces of it", "LLR_IDLE_TIMEOUT"))
    send_ms = Number(
        above=True,
        data_key="sendMs",
        metadata=_help("in which the backend must take some of the request", "LLR_SEND_TIMEOUT"),
    )


class BackendSchema(StrictSchema):
    type = Choice(BACKEND_TYPES, required=True, metadata=_help("which API it speaks"))
    endpoint = Endpoint(metadata=_help("its address; each type has a default"))
    model = Text(metadata=_help("its default model"))
    models = NameList(metadata=_help("models it holds; the first is the default model"))
    families = Names(FAMILIES, metadata=_help("model to use for each family of requests"))
    p50_ms = Number(above=True, data_key="p50Ms", metadata=_help("expected latency in ms until it is measured"))
    local = Flag(
        metadata=_help("inside your boundary: may see private requests", "true for local types at a private address")
    )
    context_window = Windows(
        data_key="contextWindow", metadata=_help("of prompt and answer together; what does not fit is not sent there")
    )
    price = fields.Nested(PriceSchema, metadata=_help("what it costs; absent = unknown, which is not 0"))
    timeouts = fields.Nested(TimeoutsSchema, metadata=_help("deadlines in ms"))
    max_concurrency = Number(whole=True, data_key="maxConcurrency", metadata=_help("calls at once; 0 = no limit", "0"))
    api_key_env = EnvName(
        data_key="apiKeyEnv", metadata=_help('variable that holds its key; "" = it wants none', "by type")
    )
    responses = Choice(
        ("chat", "native"),
        metadata=_help(
            "how it serves /v1/responses: translated to chat, or by speaking that API itself",
            "chat; native for openai at its default endpoint",
        ),
    )


def backend_schema(kind: type[Backend]) -> StrictSchema:
    """The common keys and the type's own."""
    made: type[Schema] = type(f"{kind.__name__}Schema", (BackendSchema,), dict(kind.policy_fields))
    assert issubclass(made, StrictSchema)
    return made()


class BackendField(Checked):
    """A backend, checked by the schema of its type."""

    def check(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of keys to values")
        kind = BACKEND_TYPES.get(str(value.get("type")))
        schema = backend_schema(kind) if kind else BackendSchema()
        loaded: dict[str, Any] = schema.load(value)
        return loaded


class MatchSchema(StrictSchema):
    task = Condition(TASKS, metadata=_help("what is asked"))
    complexity = Condition(COMPLEXITIES, metadata=_help("how strong a model it needs"))
    sensitivity = Condition(SENSITIVITIES, metadata=_help("high = private: must stay local"))
    modality = Condition(MODALITIES, metadata=_help("image when any message holds one"))
    family = Condition(FAMILIES, metadata=_help("the model family that fits the task"))
    tokens = Condition(None, metadata=_help("estimated input tokens, as {min, max}"))
    difficulty = Condition(
        None, 1, metadata=_help("how likely a small local model is not enough, 0 to 1, as {min, max}")
    )
    confidence = Condition(None, 1, metadata=_help("how sure the classifier is of the task, 0 to 1, as {min, max}"))


class RouteSchema(StrictSchema):
    match = fields.Nested(MatchSchema, metadata=_help("all of these must hold"))
    backend = Text(metadata=_help("where a matching request goes"))
    default = Text(metadata=_help("the backend of the last route, which takes everything else"))
    fallback = NameList(metadata=_help("tried in order when the backend fails"))
    latency_budget_ms = Number(
        above=True,
        data_key="latencyBudgetMs",
        metadata=_help("ms; a backend expected to take longer gives way to a faster fallback"),
    )
    reason = Text(metadata=_help("for people: shown in the trace"))

    @validates_schema(skip_on_field_errors=False, pass_original=True)
    def _kind(self, data: Any, original: Any, **_: Any) -> None:  # noqa: ARG002
        if not isinstance(original, dict):
            return
        if "default" in original:
            for key in ("match", "backend"):
                if key in original:
                    raise ValidationError(
                        {key: ["does not go with `default`: that route takes everything else; remove one of them"]}
                    )
        elif "match" not in original or "backend" not in original:
            missing = " and ".join(f"`{key}`" for key in ("match", "backend") if key not in original)
            raise ValidationError(f"needs {missing} (or `default: NAME` in the last route)")


class ComplexitySchema(StrictSchema):
    medium = Number(
        0, 1, load_default=_CUTS.medium, metadata=_help("from this `difficulty` on it is medium", f"{_CUTS.medium}")
    )
    high = Number(0, 1, load_default=_CUTS.high, metadata=_help("from this one on it is high", f"{_CUTS.high}"))

    @validates_schema
    def _rising(self, data: Any, **_: Any) -> None:
        if data["medium"] >= data["high"]:
            raise ValidationError(f"medium ({data['medium']:g}) must be below high ({data['high']:g})")


class ABSchema(StrictSchema):
    enabled = Flag(load_default=False, metadata=_help("mirror requests at all", "false"))
    sample_rate = Number(
        0,
        1,
        load_default=_AB.sample_rate,
        data_key="sampleRate",
        metadata=_help("share mirrored, 0 to 1", f"{_AB.sample_rate}"),
    )
    candidates = Names(load_default=dict, metadata=_help("primary: candidate that is tried beside it"))


class Patterns(Checked):
    """Regular expressions in RE2's syntax: no pattern of it can stall a worker."""

    def check(self, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list):
            raise ValidationError("must be a list of patterns")
        problems: dict[int, list[str]] = {}
        size = 0
        for index, pattern in enumerate(value):
            try:
                size += check_pattern(pattern)
            except PatternError as error:
                problems[index] = [
                    f"{excerpt(str(error), most=200)}; correct it (the syntax: github.com/google/re2/wiki/Syntax)"
                ]
            if size > MOST_BYTES:
                raise ValidationError(TOO_MUCH)
            if len(problems) > MOST_PROBLEMS:
                break  # compiling takes time, and no more lines are printed
        if problems:
            raise ValidationError(problems)
        return tuple(value)


class DetectorNames(Checked):
    """`recommended`, or a list of names of detectors, `recommended` among them."""

    def check(self, value: Any) -> tuple[str, ...]:
        if value == "recommended":
            return ("recommended",)
        if not isinstance(value, list):
            raise ValidationError(f"must be recommended, or a list out of {_DETECTORS}")
        problems = {index: [problem] for index, name in enumerate(value) if (problem := self._problem(name))}
        if problems:
            raise ValidationError(problems)
        return tuple(value)

    def _problem(self, name: object) -> str | None:
        if name not in CHOICES:
            return f"{name!r:.60} is not one of {_DETECTORS}{nearest(str(name), CHOICES)}"
        try:
            check_detector(str(name))
        except PatternError as error:
            return str(error)
        return None


_DETECTORS = f"recommended, {', '.join(DETECTORS)}, or a national id such as id_de"


class SensitivitySchema(StrictSchema):
    detect = DetectorNames(load_default=(), metadata=_help("built-in detectors that make a request private"))
    patterns = Patterns(
        load_default=(), metadata=_help("your own, as RE2 regular expressions; ^ and $ are the ends of a line")
    )


class ResponsesSchema(StrictSchema):
    store = Flag(load_default=True, metadata=_help("keep responses for continuation and retrieval", "true"))
    store_private = Flag(load_default=False, data_key="storePrivate", metadata=_help("private ones too", "false"))
    ttl_hours = Number(
        above=True, high=8760, load_default=24.0, data_key="ttlHours", metadata=_help("for so many hours", "24")
    )
    max_rows = Number(
        1,
        10_000_000,
        whole=True,
        load_default=10_000,
        data_key="maxRows",
        metadata=_help("and at most so many", "10000"),
    )
    max_bytes = Number(
        1024,
        10**14,
        whole=True,
        load_default=268_435_456,
        data_key="maxBytes",
        metadata=_help("and at most so many bytes of JSON in all; the oldest go first", "268435456 (256 MiB)"),
    )
    max_turn_bytes = Number(
        1024,
        2**30,
        whole=True,
        load_default=8_388_608,
        data_key="maxTurnBytes",
        metadata=_help("a request and its answer of more bytes are answered, but not kept", "8388608 (8 MiB)"),
    )


class SavingsSchema(StrictSchema):
    against = Text(required=True, metadata=_help("the backend whose `price` all tokens are reckoned with"))


class PolicySchema(StrictSchema):
    backends = fields.Dict(
        keys=Text(),
        values=BackendField(),
        required=True,
        metadata=_help("where requests can go, by a name of your choice"),
        error_messages={"invalid": "must be a mapping of name to backend"},
    )
    routes = fields.List(
        fields.Nested(RouteSchema),
        required=True,
        metadata=_help("top to bottom, the first match wins; the last is `default`"),
        error_messages={"invalid": "must be a list of routes"},
    )
    aliases = Names(
        load_default=dict, metadata=_help("name that a client sends: what it stands for (`auto`, a backend, a model)")
    )
    pins = Choice(
        PINS, load_default=PINS[0], metadata=_help("which names beside `auto` and aliases a request may send", PINS[0])
    )
    unknown_model = Choice(
        UNKNOWN_MODELS,
        load_default=UNKNOWN_MODELS[0],
        data_key="unknownModel",
        metadata=_help("a request with a name that nobody knows: routed as `auto`, or 404", UNKNOWN_MODELS[0]),
    )
    complexity = fields.Nested(ComplexitySchema, metadata=_help("where the tag `complexity` is cut from `difficulty`"))
    ab = fields.Nested(ABSchema, metadata=_help("mirrors a sample of live requests to a candidate"))
    sensitivity = fields.Nested(
        SensitivitySchema, metadata=_help("makes requests private by what is in them; absent = by header only")
    )
    responses = fields.Nested(ResponsesSchema, metadata=_help("what /v1/responses keeps"))
    savings = fields.Nested(SavingsSchema, metadata=_help("what the dashboard compares the cost with"))

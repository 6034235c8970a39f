"""Make a `types.Policy` of checked data.  A policy has one normal form, with all defaults in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from app.backends import BACKEND_TYPES
from app.routing.locality import Verdict, host_name, judge
from app.settings import Settings
from app.types import (
    PINS,
    UNKNOWN_MODELS,
    ABTest,
    BackendConfig,
    ConversationRules,
    Cuts,
    JsonObject,
    Policy,
    Pool,
    Price,
    ResponsesRules,
    Route,
    SensitivityRules,
    Timeouts,
    Verification,
    model_key,
)

Resolve = Callable[[str], Sequence[str]]
"""A function from a host name to its addresses; it returns none when the name does not resolve."""


def build(data: JsonObject, settings: Settings, version: str) -> Policy:
    """Return the policy of `data`, which the schema and the cross-check have passed."""
    return Policy(
        backends={name: _backend(name, entry, settings) for name, entry in data["backends"].items()},
        routes=tuple(map(_route, data["routes"])),
        complexity=Cuts(**data.get("complexity") or {}),
        pools={name: Pool(**pool) for name, pool in (data.get("pools") or {}).items()},
        conversations=ConversationRules(**data.get("conversations") or {}),
        ab=_ab(data.get("ab") or {}, data.get("pools") or {}),
        sensitivity=SensitivityRules(**data.get("sensitivity") or {}),
        responses=ResponsesRules(**data.get("responses") or {}),
        aliases=data.get("aliases") or {},
        pins=data.get("pins") or PINS[0],
        unknown_model=data.get("unknown_model") or UNKNOWN_MODELS[0],
        savings_against=(data.get("savings") or {}).get("against"),
        version=version,
    )


def _backend(name: str, entry: JsonObject, settings: Settings) -> BackendConfig:
    kind = BACKEND_TYPES[entry["type"]]
    models = [model for model in (entry.get("model"), *(entry.get("models") or ())) if model]
    if not models and not entry.get("families"):
        models = list(kind.default_models)
    timeouts = entry.get("timeouts") or {}
    endpoint = kind.normal_endpoint(entry.get("endpoint") or kind.default_endpoint or "")
    is_default = endpoint == kind.default_endpoint
    return BackendConfig(
        name=name,
        type=kind.type,
        endpoint=endpoint,
        timeouts=Timeouts(
            connect_s=_seconds(timeouts.get("connect_ms"), settings.connect_timeout_s),
            first_byte_s=_seconds(timeouts.get("first_byte_ms"), settings.first_byte_timeout_s),
            idle_s=_seconds(timeouts.get("idle_ms"), settings.idle_timeout_s),
            send_s=_seconds(timeouts.get("send_ms"), settings.send_timeout_s),
        ),
        models=tuple(dict.fromkeys(models)),
        families=entry.get("families") or {},
        p50_ms=entry.get("p50_ms"),
        local=verdict(entry).local,
        context_windows=_by_model(entry.get("context_window") or {}),
        price=Price(**entry["price"]) if entry.get("price") else None,
        max_concurrency=_by_model(entry.get("max_concurrency") or {}),
        max_wait_ms=entry.get("max_wait_ms"),
        api_key_env=entry.get("api_key_env", kind.default_key_env) or None,
        own={name: entry[name] for name in kind.policy_fields if name in entry},
        messages="only" if kind.messages_only else entry.get("messages") or "chat",
        responses=entry.get("responses") or ("native" if kind.responses_at_default and is_default else "chat"),
    )


def _by_model(limits: Mapping[str, int]) -> dict[str, int]:
    return {model if model == "*" else model_key(model): limit for model, limit in limits.items()}


def _seconds(ms: float | None, default_s: float) -> float:
    return default_s if ms is None else ms / 1000


def _route(entry: JsonObject) -> Route:
    match = entry.get("match") or {}
    return Route(
        label=_label(match) if "backend" in entry else "default",
        match=match,
        backend=entry.get("backend") or entry["default"],
        model=entry.get("model"),
        fallbacks=entry.get("fallback") or (),
        latency_budget_ms=entry.get("latency_budget_ms"),
        verify=_verification(entry),
        reason=entry.get("reason") or "",
    )


def _verification(route: JsonObject) -> Verification | None:
    """Return the rules of `verify`, with the backend or pool that is asked when an answer does not hold."""
    entry = route.get("verify")
    if entry is None:
        return None
    second, _, model = entry.get("second", "").partition("/")
    escalate = entry.get("escalate") or route["fallback"][0]
    own = {"second": second or None, "second_model": model or None, "escalate": escalate}
    return Verification(**{**entry, **own})


def _ab(entry: JsonObject, pools: JsonObject) -> ABTest:
    """Return the A/B trial.  A pool as the primary stands for each of its members that is no primary itself."""
    candidates = dict(entry.get("candidates") or {})
    for primary in pools.keys() & candidates:
        candidate = candidates.pop(primary)
        candidates = dict.fromkeys(pools[primary]["members"], candidate) | candidates
    return ABTest(**{**entry, "candidates": candidates})


def _label(match: JsonObject) -> str:
    """Return a route's name, such as `task=code,complexity=low`: it is short and stable, and a header can hold it."""
    parts = []
    for name, condition in match.items():
        if isinstance(condition, frozenset):
            parts.append(f"{name}={'|'.join(sorted(map(_word, condition)))}")
        else:
            low = "" if condition.min is None else f"{condition.min:.15g}"
            high = "" if condition.max is None else f"{condition.max:.15g}"
            parts.append(f"{name}={low}..{high}")
    return ",".join(parts) or "any"


def _word(value: str | bool) -> str:
    """Return a value of a condition as YAML has it."""
    return value if isinstance(value, str) else str(value).lower()


def verdict(entry: JsonObject, resolve: Resolve | None = None) -> Verdict:
    """Judge whether a backend is local, by its entry and, with `resolve`, by the addresses of its host."""
    kind = BACKEND_TYPES[entry["type"]]
    host = "" if kind.in_process else host_name(entry.get("endpoint") or kind.default_endpoint or "")
    judgement = judge(kind.type, kind.hosted, entry.get("local"), host)
    if judgement.local is None and resolve:
        return judge(kind.type, kind.hosted, entry.get("local"), host, resolve(host))
    return judgement

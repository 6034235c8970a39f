"""Checked data -> types.Policy, the one normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.backends import BACKEND_TYPES
from app.routing.locality import Verdict, host_name, judge
from app.settings import Settings
from app.types import (
    PINS,
    UNKNOWN_MODELS,
    ABTest,
    BackendConfig,
    Cuts,
    Policy,
    Price,
    ResponsesRules,
    Route,
    SensitivityRules,
    Timeouts,
)

Resolve = Callable[[str], Sequence[str]]
"""Host name -> its addresses; empty when it does not resolve."""


def build(data: Mapping[str, Any], settings: Settings, version: str) -> Policy:
    names = ("complexity", "ab", "sensitivity", "responses")
    complexity, ab, sensitivity, responses = (data.get(name) or {} for name in names)
    return Policy(
        backends={name: _backend(name, given, settings) for name, given in data["backends"].items()},
        routes=tuple(_route(given) for given in data["routes"]),
        complexity=Cuts(**complexity),
        ab=ABTest(**ab),
        sensitivity=SensitivityRules(**sensitivity),
        responses=ResponsesRules(**responses),
        aliases=data.get("aliases") or {},
        pins=data.get("pins") or PINS[0],
        unknown_model=data.get("unknown_model") or UNKNOWN_MODELS[0],
        savings_against=(data.get("savings") or {}).get("against"),
        version=version,
    )


def _backend(name: str, given: Mapping[str, Any], settings: Settings) -> BackendConfig:
    kind = BACKEND_TYPES[given["type"]]
    models = [model for model in (given.get("model"), *(given.get("models") or ())) if model]
    if not models and not given.get("families"):
        models = list(kind.default_models)
    timeouts = given.get("timeouts") or {}
    endpoint = kind.normal_endpoint(given.get("endpoint") or kind.default_endpoint or "")
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
        families=given.get("families") or {},
        p50_ms=given.get("p50_ms"),
        local=verdict(given).local,
        context_windows=given.get("context_window") or {},
        price=Price(**given["price"]) if given.get("price") else None,
        max_concurrency=int(given.get("max_concurrency") or 0),
        api_key_env=given.get("api_key_env", kind.default_key_env) or None,
        own={name: given[name] for name in kind.policy_fields if name in given},
        responses=given.get("responses") or ("native" if kind.native_at_default and is_default else "chat"),
    )


def _seconds(ms: float | None, default_s: float) -> float:
    return default_s if ms is None else ms / 1000


def _route(given: Mapping[str, Any]) -> Route:
    match = given.get("match") or {}
    return Route(
        label=_label(match) if "backend" in given else "default",
        match=match,
        backend=given.get("backend") or given["default"],
        fallbacks=given.get("fallback") or (),
        latency_budget_ms=given.get("latency_budget_ms"),
        reason=given.get("reason") or "",
    )


def _label(match: Mapping[str, Any]) -> str:
    """`task=code,complexity=low`: short, stable, and fit for a header."""
    parts = []
    for name, condition in match.items():
        if isinstance(condition, frozenset):
            parts.append(f"{name}={'|'.join(sorted(condition))}")
        else:
            low = "" if condition.min is None else f"{condition.min:.15g}"
            high = "" if condition.max is None else f"{condition.max:.15g}"
            parts.append(f"{name}={low}..{high}")
    return ",".join(parts) or "any"


def verdict(given: Mapping[str, Any], resolve: Resolve | None = None) -> Verdict:
    """Judge whether a backend is local, as far as its entry and the addresses of its host can tell."""
    kind = BACKEND_TYPES[given["type"]]
    host = "" if kind.in_process else host_name(given.get("endpoint") or kind.default_endpoint or "")
    found = judge(kind.type, kind.hosted, given.get("local"), host)
    if found.local is None and resolve:
        return judge(kind.type, kind.hosted, given.get("local"), host, resolve(host))
    return found

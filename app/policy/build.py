"""Checked data -> types.Policy, the one normal form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from app.backends import BACKEND_TYPES
from app.routing.locality import is_address, is_inside, is_loopback_name
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
    local, _ = locality(given, None)
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
        local=local,
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


def locality(given: Mapping[str, Any], resolve: Resolve | None) -> tuple[bool | None, str]:
    """True, False, or None when only resolving its name can tell; and why it is not local, or not yet."""
    kind = BACKEND_TYPES[given["type"]]
    if given.get("local") is not None:
        return given["local"], "the policy says `local: false`"
    if kind.hosted:
        return False, f"type {kind.type} is a hosted kind (say `local: true` if it is yours)"
    host = urlsplit(given.get("endpoint") or kind.default_endpoint or "").hostname or ""
    if is_loopback_name(host):
        return True, ""
    if is_address(host):
        return is_inside(host), f"{host} is a public address"
    addresses = resolve(host) if resolve else ()
    if not addresses:
        return None, f"{host} does not resolve yet"
    if not all(is_inside(address) for address in addresses):
        return False, f"{host} resolves to a public address"
    return None, ""

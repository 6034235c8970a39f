"""What a decision was made from: what of it is kept, and how.  Pure.

With a Basis and the tags the same question can be put to another policy, see metrics/replay.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.routing.locality import model_key
from app.routing.names import Meaning
from app.types import Basis, Observations, Policy, Target

_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,99}")
_MOST_CHARS = 200
_latest: tuple[Observations, Policy | None, str, Observations] = (Observations(), None, "", Observations())


def kept_name(model: str, *, known: bool, private: bool) -> str | None:
    """`Basis.asked_model`.  A client may put anything into `model`: what nobody knows is kept only when it looks like
    a model's name (a later policy may know it), and never that of a private request."""
    if known:
        return model if model.isprintable() and len(model) <= _MOST_CHARS else None
    return model if not private and model.lower() != "auto" and _NAME.fullmatch(model) else ""


def relevant(seen: Observations, policy: Policy, asked: str, meaning: Meaning) -> Observations:
    """What the decision could depend on.  It stays small whatever was observed.

    Most requests come between two changes of what is seen, and ask for the same model: then it is the same object."""
    global _latest
    if _latest[0] is not seen or _latest[1] is not policy or _latest[2] != asked:
        _latest = (seen, policy, asked, _relevant(seen, policy, asked, meaning))
    return _latest[3]


def _relevant(seen: Observations, policy: Policy, asked: str, meaning: Meaning) -> Observations:
    wanted = {asked, *(target.model for target in (meaning.name.targets if meaning.name else ()))}
    models: dict[str, tuple[str, ...]] = {}
    latency: dict[tuple[str, str], float] = {}
    hosts: dict[str, dict[str, str]] = {}
    for name, config in policy.backends.items():
        named = {*config.models, *config.families.values()}
        held = seen.models.get(name, ())
        kept = tuple(model for number, model in enumerate(held) if model in wanted or (number == 0 and not named))
        if kept:
            models[name] = kept
        for model in (*named, *kept):
            median = seen.latency_ms.get((name, model))
            if median is not None:
                latency[name, model] = median
        elsewhere = _elsewhere((*named, *kept, *wanted), seen.model_hosts.get(name, {}))
        if elsewhere:
            hosts[name] = elsewhere
    return Observations(latency_ms=latency, cooling=seen.cooling, local=seen.local, models=models, model_hosts=hosts)


def _elsewhere(models: Iterable[str], hosts: Mapping[str, str]) -> dict[str, str]:
    """Return the hosts of those models that run elsewhere: what is known of the others changes no decision."""
    keys = {key for model in models for key in (model_key(model), model_key(model.partition("@")[0]))}
    return {key: host for key in sorted(keys) if (host := hosts.get(key))}


def dump(basis: Basis) -> str:
    """One short JSON document, without `policy` and `asked_model`.  What is empty is left out."""
    seen = basis.observations
    document = {
        "targets": [f"{target.backend}/{target.model}" for target in basis.targets],
        "out": basis.output_tokens,
        "ms": {"/".join(target): median for target, median in sorted(seen.latency_ms.items())},
        "cooling": sorted(seen.cooling),
        "local": sorted(seen.local),
        "models": seen.models,
        "hosts": seen.model_hosts,
        "measured": basis.measured,
    }
    return json.dumps({name: value for name, value in document.items() if value}, separators=(",", ":"))


def load(policy: str, asked_model: str | None, text: str) -> Basis:
    """The same again (but for `client_named` of the targets)."""
    known: dict[str, Any] = json.loads(text)
    return Basis(
        policy=policy,
        asked_model=asked_model,
        output_tokens=known.get("out", 0),
        observations=Observations(
            latency_ms={_pair(name): median for name, median in known.get("ms", {}).items()},
            cooling=frozenset(known.get("cooling", ())),
            local=frozenset(known.get("local", ())),
            models={backend: tuple(models) for backend, models in known.get("models", {}).items()},
            model_hosts=known.get("hosts", {}),
        ),
        measured=known.get("measured", False),
        targets=tuple(Target(*_pair(name)) for name in known["targets"]),
    )


def _pair(name: str) -> tuple[str, str]:
    """Backend and model; a backend's name holds no slash."""
    backend, _, model = name.partition("/")
    return backend, model

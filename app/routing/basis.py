"""The basis of a decision: which part of it is stored with the metrics, and in what form.  Pure.

With a Basis and the tags, metrics/replay.py decides the same request again by another policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from app.routing.locality import model_key
from app.routing.model_facts import model_facts, relevant_facts
from app.routing.names import Meaning
from app.types import Basis, Conversation, JsonObject, ModelFacts, Observations, Policy, Target

_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,99}")
_MAX_CHARS = 200
_CHAT = frozenset({"completion"})  # needed by every request, and so not stored
_latest: tuple[Observations, Policy | None, str, Observations] = (Observations(), None, "", Observations())
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each call
_latest_dump: tuple[Observations, str] = (Observations(), "")


def storable_name(model: str, *, is_known: bool, private: bool) -> str | None:
    """Return the client's `model` as `Basis.asked_model` may hold it.

    A client can write any text into `model`.  So an unknown name is stored only when it looks like the name of a model
    (a later policy may know it), and never when the request is private."""
    if is_known:
        return model if model.isprintable() and len(model) <= _MAX_CHARS else None
    return model if not private and model.lower() != "auto" and _NAME.fullmatch(model) else ""


def relevant_observations(observations: Observations, policy: Policy, model: str, meaning: Meaning) -> Observations:
    """Return the part of the observations that the decision can depend on: it stays small whatever was observed.

    Most requests ask for the same model while the observations stay the same: then they share one result."""
    global _latest
    if _latest[0] is not observations or _latest[1] is not policy or _latest[2] != model:
        _latest = (observations, policy, model, _relevant(observations, policy, model, meaning))
    return _latest[3]


def _relevant(observations: Observations, policy: Policy, model: str, meaning: Meaning) -> Observations:
    wanted = {model, *(target.model for target in (meaning.name.targets if meaning.name else ()))}
    models: dict[str, tuple[str, ...]] = {}
    latency: dict[tuple[str, str], float] = {}
    hosts: dict[str, dict[str, str]] = {}
    facts: dict[str, dict[str, ModelFacts]] = {}
    for name, config in policy.backends.items():
        declared = {*config.models, *config.families.values()}
        discovered = observations.models.get(name, ())
        used = tuple(
            model for number, model in enumerate(discovered) if model in wanted or (number == 0 and not declared)
        )
        if used:
            models[name] = used
        for model in (*declared, *used):
            median = observations.latency_ms.get((name, model))
            if median is not None:
                latency[name, model] = median
        remote = _remote_hosts((*declared, *used, *wanted), observations.model_hosts.get(name, {}))
        if remote:
            hosts[name] = remote
        if own_facts := _facts({*declared, *used, *wanted}, name, observations):
            facts[name] = own_facts
    return Observations(
        latency_ms=latency,
        facts=facts,
        unhealthy=observations.unhealthy,
        local=observations.local,
        models=models,
        model_hosts=hosts,
    )


def _facts(models: Iterable[str], backend: str, observations: Observations) -> dict[str, ModelFacts]:
    """Return the facts about models that can change a decision."""
    by_model = {model_key(model): relevant_facts(model_facts(Target(backend, model), observations)) for model in models}
    return {key: facts for key, facts in sorted(by_model.items()) if facts != ModelFacts()}


def _remote_hosts(models: Iterable[str], hosts: Mapping[str, str]) -> dict[str, str]:
    """Return the hosts of the models that run on another host.  The other models change no decision."""
    keys = {key for model in models for key in (model_key(model), model_key(model.partition("@")[0]))}
    return {key: host for key in sorted(keys) if (host := hosts.get(key))}


def dump(basis: Basis) -> str:
    """Return one short JSON document, without `policy` and `asked_model`.  Empty members are left out."""
    own: dict[str, object] = {"targets": [f"{target.backend}/{target.model}" for target in basis.targets]}
    if basis.output_tokens:
        own["out"] = basis.output_tokens
    if needs := sorted(basis.needs - _CHAT):
        own["needs"] = needs
    if basis.measured:
        own["measured"] = True
    if basis.conversation:
        own["begins" if basis.conversation.is_first else "goes_on"] = basis.conversation.key
    return f"{{{_members(own)}{_dump_observations(basis.observations)}}}"


def _dump_observations(observations: Observations) -> str:
    """Return further members of a document.  They are kept, because most requests share their observations."""
    global _latest_dump
    if _latest_dump[0] is not observations:
        document = {
            "ms": {"/".join(target): median for target, median in sorted(observations.latency_ms.items())},
            "cooling": sorted(observations.unhealthy),
            "local": sorted(observations.local),
            "models": observations.models,
            "hosts": observations.model_hosts,
            "facts": {
                backend: {model: _dump_facts(facts) for model, facts in models.items()}
                for backend, models in observations.facts.items()
            },
        }
        members = _members({name: value for name, value in document.items() if value})
        _latest_dump = (observations, f",{members}" if members else "")
    return _latest_dump[1]


def _dump_facts(facts: ModelFacts) -> dict[str, object]:
    document = {
        "loaded": facts.loaded,
        "window": facts.window,
        "refuses": facts.refuses or None,
        "can": sorted(facts.capabilities) if facts.capabilities else None,
        "size": facts.size_bytes,
    }
    return {name: value for name, value in document.items() if value is not None}


def _load_facts(document: JsonObject) -> ModelFacts:
    can = document.get("can")
    return ModelFacts(
        loaded=document.get("loaded"),
        window=document.get("window"),
        refuses=document.get("refuses", False),
        capabilities=frozenset(can) if can else None,
        size_bytes=document.get("size"),
    )


def _members(document: Mapping[str, object]) -> str:
    return _encode(document)[1:-1]


def load(policy: str, asked_model: str | None, text: str) -> Basis:
    """Return the basis that `dump` wrote.  `client_named` of the targets is not stored."""
    document = json.loads(text)
    return Basis(
        policy=policy,
        asked_model=asked_model,
        output_tokens=document.get("out", 0),
        needs=_CHAT | frozenset(document.get("needs", ())),
        observations=Observations(
            latency_ms={_pair(name): median for name, median in document.get("ms", {}).items()},
            unhealthy=frozenset(document.get("cooling", ())),
            local=frozenset(document.get("local", ())),
            models={backend: tuple(models) for backend, models in document.get("models", {}).items()},
            model_hosts=document.get("hosts", {}),
            facts={
                backend: {model: _load_facts(facts) for model, facts in models.items()}
                for backend, models in document.get("facts", {}).items()
            },
        ),
        measured=document.get("measured", False),
        targets=tuple(Target(*_pair(name)) for name in document["targets"]),
        conversation=_conversation(document),
    )


def _conversation(document: JsonObject) -> Conversation | None:
    for name, is_first in (("begins", True), ("goes_on", False)):
        if name in document:
            return Conversation(document[name], is_first)
    return None


def _pair(name: str) -> tuple[str, str]:
    """Return backend and model.  The name of a backend holds no slash."""
    backend, _, model = name.partition("/")
    return backend, model

"""Write and read the basis of a decision, which is stored with the metrics.  Pure.

With a Basis and the tags, metrics/replay.py decides the same request again by another policy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace

from app.types import Basis, Conversation, JsonObject, ModelFacts, Observations, Queue, Target

_NAME = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,99}")
_MAX_CHARS = 200
_CHAT = frozenset({"completion"})  # needed by every request, and so not stored
_encode = json.JSONEncoder(separators=(",", ":")).encode  # json.dumps would make an encoder for each call
_latest_dump: tuple[Observations, str] = (Observations(), "")


def storable_name(model: str, *, is_known: bool, private: bool) -> str | None:
    """Return the client's `model` as `Basis.asked_model` may hold it.

    A client can write any text into `model`.  So an unknown name is stored only when it looks like the name of a model
    (a later policy may know it), and never when the request is private."""
    if is_known:
        return model if model.isprintable() and len(model) <= _MAX_CHARS else None
    return model if not private and model.lower() != "auto" and _NAME.fullmatch(model) else ""


def dump(basis: Basis) -> str:
    """Return one short JSON document, without `policy` and `asked_model`.  Empty members are left out."""
    own: dict[str, object] = {"targets": [f"{target.backend}/{target.model}" for target in basis.targets]}
    if basis.output_tokens:
        own["out"] = basis.output_tokens
    if needs := sorted(basis.needs - _CHAT):
        own["needs"] = needs
    if basis.measured:
        own["measured"] = True
    if basis.escalated:
        own["escalated"] = True
    if basis.conversation:
        own["begins" if basis.conversation.is_first else "goes_on"] = basis.conversation.key
    if basis.moment is not None:
        own |= _dump_moment(basis.moment)
    return f"{{{_members(own)}{_dump_observations(basis.observations)}}}"


def _dump_moment(moment: Observations) -> dict[str, object]:
    document = {
        "queues": {"/".join(key): [queue.places, queue.waiting, queue.model] for key, queue in moment.queues.items()},
        "hold": {"/".join(target): median for target, median in moment.hold_ms.items()},
        "in_flight": moment.in_flight,
        "busy": sorted(moment.busy),
    }
    return {name: value for name, value in document.items() if value}


def _dump_observations(observations: Observations) -> str:
    """Return further members of a document.  They are kept, because most requests share their observations."""
    global _latest_dump
    if _latest_dump[0] is not observations:
        document = {
            "ms": {"/".join(target): median for target, median in sorted(observations.latency_ms.items())},
            "load": {"/".join(target): median for target, median in sorted(observations.load_ms.items())},
            "slow": [
                [route, f"{backend}/{model}", is_slow] for (route, backend, model), is_slow in observations.slow.items()
            ],
            "cooling": sorted(observations.unhealthy),
            "spent": sorted(observations.spent),
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
            latency_ms=_load_pairs(document, "ms"),
            load_ms=_load_pairs(document, "load"),
            slow={(route, *_pair(name)): is_slow for route, name, is_slow in document.get("slow", ())},
            unhealthy=frozenset(document.get("cooling", ())),
            spent=frozenset(document.get("spent", ())),
            local=frozenset(document.get("local", ())),
            models={backend: tuple(models) for backend, models in document.get("models", {}).items()},
            model_hosts=document.get("hosts", {}),
            facts={
                backend: {model: _load_facts(facts) for model, facts in models.items()}
                for backend, models in document.get("facts", {}).items()
            },
        ),
        moment=_load_moment(document),
        measured=document.get("measured", False),
        targets=tuple(Target(*_pair(name)) for name in document["targets"]),
        conversation=_conversation(document),
        escalated=document.get("escalated", False),
    )


def _conversation(document: JsonObject) -> Conversation | None:
    for name, is_first in (("begins", True), ("goes_on", False)):
        if name in document:
            return Conversation(document[name], is_first)
    return None


def observations_of(basis: Basis) -> Observations:
    """Return all observations of a basis."""
    then, now = basis.observations, basis.moment
    if now is None:
        return then
    return replace(then, queues=now.queues, hold_ms=now.hold_ms, in_flight=now.in_flight, busy=now.busy)


def _load_moment(document: JsonObject) -> Observations | None:
    moment = Observations(
        queues={
            _pair(name): Queue(places, tuple(waiting), latest)
            for name, (places, waiting, latest) in document.get("queues", {}).items()
        },
        hold_ms=_load_pairs(document, "hold"),
        in_flight=document.get("in_flight", {}),
        busy=frozenset(document.get("busy", ())),
    )
    return moment if moment != Observations() else None


def _load_pairs(document: JsonObject, member: str) -> dict[tuple[str, str], float]:
    return {_pair(name): value for name, value in document.get(member, {}).items()}


def _pair(name: str) -> tuple[str, str]:
    """Return backend and model.  The name of a backend holds no slash."""
    backend, _, model = name.partition("/")
    return backend, model

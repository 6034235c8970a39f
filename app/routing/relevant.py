"""Find the part of the observations that a decision can depend on.  Pure.

It is stored with the metrics (basis.py), so it stays small whatever was observed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from app.routing.expected import held_keys
from app.routing.locality import model_key
from app.routing.model_facts import model_facts, relevant_facts
from app.routing.names import Meaning
from app.types import ModelFacts, Observations, Policy, Queue, Target

_latest: tuple[tuple[object, ...], Policy | None, str, Observations] = ((), None, "", Observations())


def relevant_observations(observations: Observations, policy: Policy, model: str, meaning: Meaning) -> Observations:
    """Return the part of the observations that the decision can depend on, without the state of queues: it stays small
    whatever was observed.

    Most requests ask for the same model while the observations stay the same: then they share one result."""
    global _latest
    parts = (
        *(observations.latency_ms, observations.load_ms, observations.slow, observations.facts, observations.unhealthy),
        *(observations.local, observations.models, observations.model_hosts, observations.spent),
    )
    if _latest[1] is not policy or _latest[2] != model or _latest[0] != parts:  # equal objects are compared by identity
        _latest = (parts, policy, model, _relevant(observations, policy, model, meaning))
    return _latest[3]


def relevant_moment(
    observations: Observations, policy: Policy, relevant: Observations, model: str, meaning: Meaning
) -> Observations | None:
    """Return the part that the first function leaves out: the queues and how long their places are taken, the calls in
    flight and the busy servers.  They change with every request, so requests do not share this part.  None = all are
    empty."""
    if not (observations.queues or observations.in_flight or observations.busy):
        return None
    queues: dict[tuple[str, str], Queue] = {}
    hold: dict[tuple[str, str], float] = {}
    wanted = _wanted(model, meaning)
    for (name, places), queue in observations.queues.items():
        config = policy.backends.get(name)
        if config is None:
            continue
        latest = _known(held_keys(name, queue), observations.hold_ms)
        queues[name, places] = queue if latest else replace(queue, model="")  # it may be any text of a client
        models = (*config.models, *config.families.values(), *relevant.models.get(name, ()), *wanted)
        hold |= latest | _known(((name, model) for model in models), observations.hold_ms)
    if not (queues or observations.in_flight or observations.busy):
        return None
    return Observations(queues=queues, hold_ms=hold, in_flight=observations.in_flight, busy=observations.busy)


def _wanted(model: str, meaning: Meaning) -> set[str]:
    """Return the models that the client's `model` may mean."""
    return {model, *(target.model for target in (meaning.name.targets if meaning.name else ()))}


def _relevant(observations: Observations, policy: Policy, model: str, meaning: Meaning) -> Observations:
    wanted = _wanted(model, meaning)
    models: dict[str, tuple[str, ...]] = {}
    hosts: dict[str, dict[str, str]] = {}
    facts: dict[str, dict[str, ModelFacts]] = {}
    keys: dict[tuple[str, str], str] = {}  # (backend, model) -> its key in the facts
    for name, config in policy.backends.items():
        declared = {*config.models, *config.families.values(), *policy.route_models(name)}
        discovered = observations.models.get(name, ())
        used = tuple(
            model for number, model in enumerate(discovered) if model in wanted or (number == 0 and not declared)
        )
        if used:
            models[name] = used
        own = {(name, model): model_key(model) for model in (*declared, *used, *wanted)}
        keys.update(own)
        if remote := _remote_hosts((model for _, model in own), observations.model_hosts.get(name, {})):
            hosts[name] = remote
        if own_facts := _facts(own, observations):
            facts[name] = own_facts
    return Observations(
        latency_ms=_known(keys, observations.latency_ms),
        load_ms=_known((key for key in keys if _is_cold(facts.get(key[0], {}).get(keys[key]))), observations.load_ms),
        slow={key: is_slow for key, is_slow in observations.slow.items() if key[1:] in keys},
        facts=facts,
        unhealthy=observations.unhealthy,
        spent=observations.spent,
        local=observations.local,
        models=models,
        model_hosts=hosts,
    )


def _known(keys: Iterable[tuple[str, str]], medians: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], float]:
    return {key: ms for key in keys if (ms := medians.get(key)) is not None}


def _is_cold(facts: ModelFacts | None) -> bool:
    return facts is not None and facts.loaded is False


def _facts(keys: Mapping[tuple[str, str], str], observations: Observations) -> dict[str, ModelFacts]:
    """Return the facts about the models of a backend that can change a decision."""
    by_model = {key: relevant_facts(model_facts(Target(*pair), observations)) for pair, key in keys.items()}
    return {key: facts for key, facts in sorted(by_model.items()) if facts != ModelFacts()}


def _remote_hosts(models: Iterable[str], hosts: Mapping[str, str]) -> dict[str, str]:
    """Return the hosts of the models that run on another host.  The other models change no decision."""
    keys = {key for model in models for key in (model_key(model), model_key(model.partition("@")[0]))}
    return {key: host for key in sorted(keys) if (host := hosts.get(key))}

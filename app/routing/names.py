"""Resolve a request's `model`: to `auto`, an alias, a backend or a model; or report it as unknown.  Pure.

The names of a policy are indexed once, so a request costs one dictionary look-up.  The search for a misspelling runs
only for an unknown name: routed as `auto`, a misspelled pin could reach the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.routing.locality import is_local, model_key
from app.types import BackendConfig, Observations, Policy, Target

AUTO = "auto"
ROUTER = "router"  # `owned_by` of names that are not models
_MAX_COMPARED = 100  # characters: a longer name is never taken for a misspelling
_MIN_COMPARED = 3  # characters: one edit can turn a shorter name into any other
_LONG_NAME = 10  # characters: from this length on, two edits still count as a misspelling
_MAX_CACHED = 256  # unknown names


@dataclass(frozen=True, slots=True)
class Name:
    """Represent a name that a request can send as its `model`.  Without targets it stands for `auto`."""

    text: str  # as GET /v1/models lists it
    owner: str  # ROUTER, or the first backend that has the model
    targets: tuple[Target, ...] = ()  # a target without a model gets the one that fits the request
    alias_of: str = ""  # the value of an alias in the policy; "" = not an alias


@dataclass(frozen=True, slots=True)
class Meaning:
    """Represent the meaning of one request's `model`."""

    name: Name | None  # None = unknown
    targets: tuple[Target, ...] = ()  # the request is pinned to these; empty = the routes of the policy decide
    nearest: str = ""  # the usable name that an unknown one misspells; "" = none

    @property
    def is_known(self) -> bool:
        """Return True for a name of this policy that is not `auto`."""
        return self.name is not None and self.name.text != AUTO

    @property
    def is_barred(self) -> bool:
        """Return True for a known name that `pins` does not allow: it counts as unknown."""
        return self.name is not None and bool(self.name.targets) and not self.targets


_AUTO = Meaning(Name(AUTO, ROUTER))


def resolve(model: str, family: str, policy: Policy, observations: Observations) -> Meaning:
    """Return the meaning of `model`.  A backend that is named without a model gets its model for `family`."""
    if not model or model == AUTO:
        return _AUTO
    names = names_of(policy, observations)
    name = names.find(model)
    if name is not None:
        return Meaning(name, allowed(name, family, policy, observations))
    similar = (name.text for name in names.similar(model) if is_usable(name, policy, observations))
    return Meaning(None, nearest=next(similar, ""))


def allowed(name: Name, family: str, policy: Policy, observations: Observations) -> tuple[Target, ...]:
    """Return the targets of `name` that a request may be pinned to, each with its model.  Aliases always work."""
    targets = []
    for target in name.targets:
        config = policy.backends[target.backend]
        complete = target if target.model else replace(target, model=model_for(config, family, observations))
        if name.alias_of or _may_pin(policy.pins, target, complete, config, observations):
            targets.append(complete)
    return tuple(targets)


def _may_pin(pins: str, named: Target, complete: Target, config: BackendConfig, observations: Observations) -> bool:
    if pins == "local":
        return is_local(complete, observations)
    if pins == "declared":
        return not named.model or named.model in config.models or named.model in config.families.values()
    return pins == "any"


def is_usable(name: Name, policy: Policy, observations: Observations) -> bool:
    """Return True when `pins` allows at least one target of `name`."""
    return not name.targets or bool(allowed(name, "any", policy, observations))


def usable(policy: Policy, observations: Observations) -> tuple[Name, ...]:
    """Return the names that GET /v1/models lists: `auto`, aliases, backends, models.  `backend/model` works too."""
    return tuple(name for name in names_of(policy, observations).listed if is_usable(name, policy, observations))


def model_for(config: BackendConfig, family: str, observations: Observations) -> str:
    """Return the backend's model for a family, else its default model, else a discovered model, else ""."""
    if family in config.families:
        return config.families[family]
    discovered = observations.models.get(config.name, ())
    return next(iter((*config.models, *config.families.values(), *discovered)), "")


# --- the index ----------------------------------------------------------------------------------


class Names:
    """Index all names of one policy and of the models that were discovered at its backends."""

    def __init__(self, policy: Policy, models: Mapping[str, tuple[str, ...]]) -> None:
        backends = [Name(name, ROUTER, (Target(name, ""),)) for name in policy.backends]
        backends += [Name(name, ROUTER, _members_of(name, policy)) for name in policy.pools]
        self._backends = {fold(name.text): name for name in reversed(backends)}  # pools too
        self._exact = {name.text: name for name in (_AUTO_NAME, *backends)}
        self._folded = {fold(name.text): name for name in reversed((_AUTO_NAME, *backends))}
        self._similar: dict[str, tuple[Name, ...]] = {}
        self._models = models
        by_model = self._add_models(policy, models)
        self._add_models_of_pools(policy, models)
        aliases = [Name(text, ROUTER, self._alias_targets(to), to) for text, to in policy.aliases.items()]
        for alias in reversed(aliases):  # an alias goes before a model of the same name
            self._exact[alias.text] = self._folded[fold(alias.text)] = alias
        listed = (_AUTO_NAME, *aliases, *backends, *by_model)
        self.listed = tuple({name.text: self._exact[name.text] for name in listed}.values())
        self._by_shape: dict[tuple[str, str], list[tuple[str, Name]]] = {}
        for text, name in self._folded.items():
            if _MIN_COMPARED <= len(text) <= _MAX_COMPARED:
                self._by_shape.setdefault(_shape(text), []).append((text, name))

    def _add_models(self, policy: Policy, models: Mapping[str, tuple[str, ...]]) -> list[Name]:
        """Index every model by `backend/model` and by its own name; return the names of the second form."""
        exact: dict[str, list[Target]] = {}
        folded: dict[str, list[Target]] = {}
        for config in policy.backends.values():
            for target, spellings in _models_of(config, models.get(config.name, ())):
                pair = Name(f"{target.backend}/{target.model}", target.backend, (target,))
                for spelling in spellings:
                    self._exact.setdefault(f"{config.name}/{spelling}", pair)
                    self._folded.setdefault(fold(f"{config.name}/{spelling}"), pair)
                    exact.setdefault(spelling, []).append(target)
                    same = folded.setdefault(fold(spelling), [])
                    if all(other.backend != config.name for other in same):
                        same.append(target)
        for index, by_text in ((self._exact, exact), (self._folded, folded)):
            for text, targets in by_text.items():
                index.setdefault(text, Name(targets[0].model, targets[0].backend, tuple(targets)))
        return [self._exact[text] for text, targets in exact.items() if text == targets[0].model]

    def _add_models_of_pools(self, policy: Policy, models: Mapping[str, tuple[str, ...]]) -> None:
        """Index every model of a pool by `pool/model`.  A member whose list of models is known and lacks the model is
        no target."""
        for index, form in ((self._exact, str), (self._folded, fold)):
            for name in policy.pools:
                members = _members_of(name, policy)
                holders: dict[str, dict[str, str]] = {}  # a spelling of a model -> member -> its own spelling
                for member in members:
                    config = policy.backends[member.backend]
                    for target, spellings in _models_of(config, models.get(config.name, ())):
                        for spelling in spellings:
                            holders.setdefault(form(spelling), {}).setdefault(config.name, target.model)
                for text, own in holders.items():
                    targets = tuple(
                        replace(member, model=own.get(member.backend, text), client_named=True)
                        for member in members
                        if member.backend in own or member.backend not in models
                    )
                    model, holder = next((target.model, target.backend) for target in targets if target.backend in own)
                    index.setdefault(form(f"{name}/{text}"), Name(f"{name}/{model}", holder, targets))

    def _alias_targets(self, to: str) -> tuple[Target, ...]:
        """Return the targets of an alias.  The operator named their models, not the client."""
        name = self.find(to)
        return tuple(replace(target, client_named=False) for target in name.targets) if name else ()

    def find(self, text: str) -> Name | None:
        """Return the name with exactly this text, else one that differs in case only, else None."""
        return self._exact.get(text) or self._folded.get(fold(text)) or self._at_backend(text)

    def is_listed(self, text: str) -> bool:
        """Return True for an indexed name; False for an unknown model after the name of a backend."""
        return text in self._exact or fold(text) in self._folded

    def _at_backend(self, text: str) -> Name | None:
        """Return the name for `backend/model` with an unknown model: the backend itself accepts or refuses it."""
        prefix, slash, model = text.partition("/")
        backend = self._backends.get(fold(prefix))
        return self._with_model(backend, model) if slash and model and backend else None

    def _with_model(self, backend: Name, model: str) -> Name:
        """Return the name `backend/model` for the name of a backend or a pool.  Members of a pool whose models are
        known do not have this one; when no other member is left, they are asked all the same."""
        unknown = tuple(target for target in backend.targets if target.backend not in self._models)
        targets = tuple(replace(target, model=model, client_named=True) for target in unknown or backend.targets)
        return Name(f"{backend.text}/{model}", targets[0].backend, targets)

    def similar(self, text: str) -> tuple[Name, ...]:
        """Return the names that an unknown name may misspell, the nearest first."""
        text = fold(text)
        if len(text) > _MAX_COMPARED + 2 or text in HOSTED_NAMES or text.rpartition("/")[2] in HOSTED_NAMES:
            return ()
        names = self._similar.get(text)
        if names is None:
            pairs = sorted((*self._misspelled(text), *self._misspelled_backend(text)), key=lambda pair: pair[0])
            names = tuple(name for _, name in pairs)
            if len(self._similar) >= _MAX_CACHED:
                self._similar.clear()
            self._similar[text] = names
        return names

    def _misspelled(self, text: str) -> Iterator[tuple[int, Name]]:
        """Yield the indexed names that `text` may misspell, each with its number of edits."""
        for candidate, name in self._by_shape.get(_shape(text), ()):
            limit = 2 if len(candidate) >= _LONG_NAME else 1
            count = edits(text, candidate, limit)
            if count <= limit:
                yield count, name

    def _misspelled_backend(self, text: str) -> Iterator[tuple[int, Name]]:
        """Yield `coder/model` for `codr/model`, whatever the model is."""
        backend, slash, model = text.partition("/")
        if slash and model:
            for count, name in self._misspelled(backend):
                if name in self._backends.values():
                    yield count, self._with_model(name, model)


def _members_of(name: str, policy: Policy) -> tuple[Target, ...]:
    """Return the members of a pool, without models."""
    return tuple(Target(member, "", pool=name) for member in policy.members(name))


_AUTO_NAME = Name(AUTO, ROUTER)
_latest: tuple[Policy | None, Mapping[str, tuple[str, ...]], Names | None] = (None, {}, None)


def names_of(policy: Policy, observations: Observations) -> Names:
    """Return the index.  It is the same object until the policy or the discovered models change."""
    global _latest
    indexed, models, names = _latest
    if names is None or indexed is not policy or (models is not observations.models and models != observations.models):
        names = Names(policy, observations.models)
        _latest = (policy, observations.models, names)
    return names


def _models_of(config: BackendConfig, discovered: tuple[str, ...]) -> Iterator[tuple[Target, tuple[str, ...]]]:
    """Yield the models of a backend, the declared ones first, each with its spellings."""
    listed: set[str] = set()
    for model in (*config.models, *config.families.values(), *discovered):
        spellings = spellings_of(config.type, model)
        if listed.isdisjoint(spellings):
            listed.update(spellings)
            yield Target(config.name, model, client_named=True), spellings


def spellings_of(backend_type: str, model: str) -> tuple[str, ...]:
    """Return all names of one model at one backend, its own first: for Ollama, `x` and `x:latest` are the same."""
    if backend_type != "ollama":
        return (model,)
    key = model_key(model)
    return tuple(dict.fromkeys((model, key, key.removesuffix(":latest"))))


# --- misspellings -------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Return a name in the form in which names are compared: without case."""
    return text.casefold()


def _shape(text: str) -> tuple[str, str]:
    """Return the tag of a name and its digits in order.  A misspelling has the same ones: another digit or tag means
    another model."""
    _, colon, tag = text.rpartition(":")
    return tag if colon and "/" not in tag else "", "".join(filter(str.isdecimal, text))


def edits(left: str, right: str, limit: int) -> int:
    """Return how many letters must be inserted, deleted, replaced or swapped with a neighbour to turn `left` into
    `right`, or `limit` + 1 when there are more than `limit`.  The work is linear in the length."""
    far = limit + 1
    if abs(len(left) - len(right)) > limit:
        return far
    above: list[int] = []
    row = [min(column, far) for column in range(len(right) + 1)]
    for i, letter in enumerate(left, 1):
        two_above, above, row = above, row, [far] * (len(right) + 1)
        row[0] = min(i, far)
        for j in range(max(1, i - limit), min(len(right), i + limit) + 1):
            best = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != right[j - 1]))
            if i > 1 and j > 1 and letter == right[j - 2] and left[i - 2] == right[j - 1]:
                best = min(best, two_above[j - 2] + 1)
            row[j] = min(best, far)
        if min(row) == far:
            return far
    return row[-1]


def _hosted_names(path: Path) -> frozenset[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(name for line in lines if not line.startswith("#") for name in line.split())


HOSTED_NAMES = _hosted_names(Path(__file__).with_name("hosted_names.txt"))

"""What a request's `model` stands for: `auto`, an alias, a backend, a model, or nothing that is known.  Pure.

The names of a policy are indexed once, so that a request costs a dictionary look-up.  The search for a misspelling
runs only for a name that nobody knows: as `auto`, a misspelt pin could go to the cloud.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from app.routing.locality import is_local, model_key
from app.types import BackendConfig, Observations, Policy, Target

AUTO = "auto"
ROUTER = "router"  # the owner of the names that are no models
_MOST_COMPARED = 100  # characters: a longer name has no near misses
_LEAST_COMPARED = 3  # characters: one edit turns a shorter name into any other
_LONG = 10  # characters: two edits of such a name are still a misspelling of it
_MOST_CACHED = 256  # unknown names


@dataclass(frozen=True, slots=True)
class Name:
    """A name that a request can send as its `model`.  Without targets it stands for `auto`."""

    text: str  # as GET /v1/models lists it
    owner: str  # ROUTER, or the first backend that holds the model
    targets: tuple[Target, ...] = ()  # a target without a model gets the one that fits the request
    alias_of: str = ""  # what the policy says that it stands for; "" = it is no alias


@dataclass(frozen=True, slots=True)
class Meaning:
    """What the `model` of one request stands for."""

    name: Name | None  # None = unknown
    targets: tuple[Target, ...] = ()  # where the request is pinned to; empty = the routes of the policy decide
    nearest: str = ""  # the usable name of which an unknown one is a misspelling

    @property
    def is_known(self) -> bool:
        """True for a name of this policy that is not `auto`."""
        return self.name is not None and self.name.text != AUTO

    @property
    def is_barred(self) -> bool:
        """True for a known name that `pins` does not allow: it counts as unknown."""
        return self.name is not None and bool(self.name.targets) and not self.targets


_AUTO = Meaning(Name(AUTO, ROUTER))


def resolve(model: str, family: str, policy: Policy, observations: Observations) -> Meaning:
    """Return what `model` stands for.  A backend that is named without a model gets its model for `family`."""
    if not model or model == AUTO:
        return _AUTO
    names = names_of(policy, observations)
    name = names.find(model)
    if name is not None:
        return Meaning(name, allowed(name, family, policy, observations))
    nearest = (near.text for near in names.near(model) if is_usable(near, policy, observations))
    return Meaning(None, nearest=next(nearest, ""))


def allowed(name: Name, family: str, policy: Policy, observations: Observations) -> tuple[Target, ...]:
    """Return the targets of `name` that a request may be pinned to, each with its model.  Aliases always work."""
    targets = []
    for target in name.targets:
        config = policy.backends[target.backend]
        whole = target if target.model else replace(target, model=model_for(config, family, observations))
        if name.alias_of or _may_pin(policy.pins, target, whole, config, observations):
            targets.append(whole)
    return tuple(targets)


def _may_pin(pins: str, named: Target, whole: Target, config: BackendConfig, observations: Observations) -> bool:
    if pins == "local":
        return is_local(whole, observations)
    if pins == "declared":
        return not named.model or named.model in config.models or named.model in config.families.values()
    return pins == "any"


def is_usable(name: Name, policy: Policy, observations: Observations) -> bool:
    """Return True when `pins` leaves a request something to name with it."""
    return not name.targets or bool(allowed(name, "any", policy, observations))


def usable(policy: Policy, observations: Observations) -> tuple[Name, ...]:
    """Return the names that GET /v1/models lists: `auto`, aliases, backends, models.  `backend/model` works too."""
    return tuple(name for name in names_of(policy, observations).listed if is_usable(name, policy, observations))


def model_for(config: BackendConfig, family: str, observations: Observations) -> str:
    """Return the backend's model for a family, else its default model, else one that it was seen to hold, else ""."""
    if family in config.families:
        return config.families[family]
    seen = observations.models.get(config.name, ())
    return next(iter((*config.models, *config.families.values(), *seen)), "")


# --- the index ----------------------------------------------------------------------------------


class Names:
    """All names under one policy, and under what its backends were seen to hold."""

    def __init__(self, policy: Policy, models: Mapping[str, tuple[str, ...]]) -> None:
        backends = [Name(name, ROUTER, (Target(name, ""),)) for name in policy.backends]
        self._backends = {fold(name): name for name in reversed(list(policy.backends))}
        self._exact = {name.text: name for name in (_AUTO_NAME, *backends)}
        self._folded = {fold(name.text): name for name in reversed((_AUTO_NAME, *backends))}
        self._near: dict[str, tuple[Name, ...]] = {}
        held = self._add_models(policy, models)
        aliases = [Name(text, ROUTER, self._of_alias(to), to) for text, to in policy.aliases.items()]
        for alias in reversed(aliases):  # an alias goes before a model of the same name
            self._exact[alias.text] = self._folded[fold(alias.text)] = alias
        listed = (_AUTO_NAME, *aliases, *backends, *held)
        self.listed = tuple({name.text: self._exact[name.text] for name in listed}.values())
        self._by_shape: dict[tuple[str, str], list[tuple[str, Name]]] = {}
        for text, name in self._folded.items():
            if _LEAST_COMPARED <= len(text) <= _MOST_COMPARED:
                self._by_shape.setdefault(_shape(text), []).append((text, name))

    def _add_models(self, policy: Policy, models: Mapping[str, tuple[str, ...]]) -> list[Name]:
        """Index every model by `backend/model` and by its own name; return the latter."""
        exact: dict[str, list[Target]] = {}
        folded: dict[str, list[Target]] = {}
        for config in policy.backends.values():
            for target, spellings in _held(config, models.get(config.name, ())):
                pair = Name(f"{target.backend}/{target.model}", target.backend, (target,))
                for spelling in spellings:
                    self._exact.setdefault(f"{config.name}/{spelling}", pair)
                    self._folded.setdefault(fold(f"{config.name}/{spelling}"), pair)
                    exact.setdefault(spelling, []).append(target)
                    same = folded.setdefault(fold(spelling), [])
                    if all(other.backend != config.name for other in same):
                        same.append(target)
        for index, found in ((self._exact, exact), (self._folded, folded)):
            for text, targets in found.items():
                index.setdefault(text, Name(targets[0].model, targets[0].backend, tuple(targets)))
        return [self._exact[text] for text, targets in exact.items() if text == targets[0].model]

    def _of_alias(self, to: str) -> tuple[Target, ...]:
        """Return the targets of what an alias stands for.  The operator named their models, not the client."""
        name = self.find(to)
        return tuple(replace(target, client_named=False) for target in name.targets) if name else ()

    def find(self, text: str) -> Name | None:
        """Return the name that is written so, else one that differs in case only, else None."""
        return self._exact.get(text) or self._folded.get(fold(text)) or self._at_backend(text)

    def is_listed(self, text: str) -> bool:
        """Return True for a name that is known by itself: not just any model behind a backend's name."""
        return text in self._exact or fold(text) in self._folded

    def _at_backend(self, text: str) -> Name | None:
        """Return the name for `backend/model` with a model that the backend was not seen to hold: it will say."""
        before, slash, model = text.partition("/")
        backend = self._backends.get(fold(before))
        if not slash or not model or backend is None:
            return None
        return Name(f"{backend}/{model}", backend, (Target(backend, model, client_named=True),))

    def near(self, text: str) -> tuple[Name, ...]:
        """Return the names of which an unknown one is a misspelling, the nearest first."""
        text = fold(text)
        if len(text) > _MOST_COMPARED + 2 or text in HOSTED_NAMES or text.rpartition("/")[2] in HOSTED_NAMES:
            return ()
        found = self._near.get(text)
        if found is None:
            near = sorted((*self._misspelt(text), *self._misspelt_backend(text)), key=lambda pair: pair[0])
            found = tuple(name for _, name in near)
            if len(self._near) >= _MOST_CACHED:
                self._near.clear()
            self._near[text] = found
        return found

    def _misspelt(self, text: str) -> Iterator[tuple[int, Name]]:
        for known, name in self._by_shape.get(_shape(text), ()):
            most = 2 if len(known) >= _LONG else 1
            count = edits(text, known, most)
            if count <= most:
                yield count, name

    def _misspelt_backend(self, text: str) -> Iterator[tuple[int, Name]]:
        """`codr/model` for `coder/model`, whatever the model."""
        before, slash, model = text.partition("/")
        if slash and model:
            for count, name in self._misspelt(before):
                if name.text in self._backends.values() and not name.alias_of:
                    target = Target(name.text, model, client_named=True)
                    yield count, Name(f"{name.text}/{model}", name.text, (target,))


_AUTO_NAME = Name(AUTO, ROUTER)
_latest: tuple[Policy | None, Mapping[str, tuple[str, ...]], Names | None] = (None, {}, None)


def names_of(policy: Policy, observations: Observations) -> Names:
    """Return the index; it is the same object until the policy or the models that backends hold change."""
    global _latest
    known, models, names = _latest
    if names is None or known is not policy or (models is not observations.models and models != observations.models):
        names = Names(policy, observations.models)
        _latest = (policy, observations.models, names)
    return names


def _held(config: BackendConfig, seen: tuple[str, ...]) -> Iterator[tuple[Target, tuple[str, ...]]]:
    """Yield the models of a backend, the declared ones first, each with its spellings."""
    known: set[str] = set()
    for model in (*config.models, *config.families.values(), *seen):
        spellings = spellings_of(config.type, model)
        if known.isdisjoint(spellings):
            known.update(spellings)
            yield Target(config.name, model, client_named=True), spellings


def spellings_of(backend_type: str, model: str) -> tuple[str, ...]:
    """Return the names of one model at one backend, its own first: for Ollama `x` and `x:latest` are the same."""
    if backend_type != "ollama":
        return (model,)
    key = model_key(model)
    return tuple(dict.fromkeys((model, key, key.removesuffix(":latest"))))


# --- near misses --------------------------------------------------------------------------------


def fold(text: str) -> str:
    """Return a name as it is compared: without case."""
    return text.casefold()


def _shape(text: str) -> tuple[str, str]:
    """Return what a misspelling has in common with its name: the tag, and all digits in their order.  Another digit
    or tag is another model."""
    _, colon, tag = text.rpartition(":")
    return tag if colon and "/" not in tag else "", "".join(filter(str.isdecimal, text))


def edits(left: str, right: str, most: int) -> int:
    """Return the number of letters to insert, delete, replace or swap with their neighbour to make `right` of `left`,
    or `most` + 1 when there are more than `most`.  The work is linear in the length."""
    far = most + 1
    if abs(len(left) - len(right)) > most:
        return far
    above: list[int] = []
    row = [min(column, far) for column in range(len(right) + 1)]
    for i, letter in enumerate(left, 1):
        two_above, above, row = above, row, [far] * (len(right) + 1)
        row[0] = min(i, far)
        for j in range(max(1, i - most), min(len(right), i + most) + 1):
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

"""Compare the values of a policy: names must exist, and private routes must stay local."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from app.backends import BACKEND_TYPES
from app.fields.values import MOST_PROBLEMS, name_list, nearest, quote
from app.policy import yaml_source
from app.policy.build import Resolve, verdict
from app.policy.pools import PoolCheck
from app.policy.verify import VerifyCheck
from app.redaction import redact
from app.routing.locality import is_cloud_model
from app.routing.names import AUTO, fold, spellings_of
from app.types import JsonObject, Sensitivity

_LONGEST_ALIAS = 100  # characters
_LONGEST_BACKEND = 64  # characters of the name of a backend or a pool
_NAME_LIMITS = f"ASCII text of at most {_LONGEST_BACKEND} characters, without `/`, and not `auto`"
_PRIVATE_RULE = "a route for `sensitivity: high` may use local backends only"

Problems = Iterable[tuple[yaml_source.Path, str]]
"""Problems of a policy: the path of the value, and what is wrong with it."""


class CrossCheck:
    """Compare the values of one policy with each other."""

    def __init__(self, source: yaml_source.Source, data: JsonObject, resolve: Resolve | None) -> None:
        self._source = source
        self._data = data
        self._resolve = resolve
        backends = source.data.get("backends")
        self._entries: Mapping[str, JsonObject] = data.get("backends") or {}  # those that are legal
        self._names = dict.fromkeys(map(str, backends)) if isinstance(backends, dict) else {}
        pools = source.data.get("pools")
        self._pools: Mapping[str, JsonObject] = data.get("pools") or {}  # those that are legal
        self._names_and_pools = {**self._names, **(dict.fromkeys(map(str, pools)) if isinstance(pools, dict) else {})}
        self._unknown = 0  # names so far that no backend has
        self.warnings: list[str] = []

    def problems(self) -> list[str]:
        """Return every problem as a line of a message; `warnings` is complete afterwards."""
        pools = PoolCheck(self._pools, self._names, self._nearest)
        problems = [*self._backends(), *self._pool_names(), *pools.problems()]
        problems += [*self._routes(), *self._aliases(), *self._ab(), *self._savings()]
        return [self._source.problem(path, text) for path, text in problems]

    def _backends(self) -> Problems:
        if not self._names and isinstance(self._source.data.get("backends"), dict):
            example = "`local: {type: ollama}` (`flask init` writes a whole policy)"
            yield ("backends",), f"must name a backend; add one, such as {example}"
        for name, entry in self._entries.items():
            path = ("backends", name)
            if not _is_backend_name(name):
                yield path, f"the name of a backend must be {_NAME_LIMITS}; rename it"
            kind = BACKEND_TYPES.get(str(entry.get("type")))
            if kind and kind.default_endpoint is None and not entry.get("endpoint"):
                yield path, f"a backend of type {kind.type} needs an `endpoint`"
            if kind and kind.hosted and not any(_models_of(entry)) and not kind.default_models:
                yield path, "needs a `model` (or `models`, or `families`)"

    def _pool_names(self) -> Problems:
        for name in self._pools:
            if not _is_backend_name(name):
                yield ("pools", name), f"the name of a pool must be {_NAME_LIMITS}; rename it"

    def _check_backend(self, path: yaml_source.Path, name: object) -> Problems:
        """Yield a problem when `name` is no backend and no pool of this policy."""
        names = self._names_and_pools
        if isinstance(name, str) and name.strip() not in names:
            legal = f"name one of {name_list(names)}" if names else "add one to `backends`"
            yield path, f"no backend is called {quote(name)}{self._nearest(name, names)}; {legal}"

    def _check_no_pool(self, path: yaml_source.Path, name: object, because: str) -> Problems:
        """Yield a problem when a pool stands where only one backend makes sense."""
        pool = self._pools.get(name) if isinstance(name, str) and name not in self._names else None
        if pool is not None:
            yield path, f"{quote(name)} is a pool, and {because}; name one of {name_list(pool.get('members') or ())}"

    def _nearest(self, name: str, names: Iterable[str]) -> str:
        """Return the nearest name, or "" when the message already has more problems than it prints."""
        self._unknown += 1
        return nearest(name, names) if self._unknown <= MOST_PROBLEMS else ""

    def _routes(self) -> Problems:
        routes = self._source.data.get("routes")
        if not isinstance(routes, list):
            return
        defaults = [index for index, route in enumerate(routes) if isinstance(route, dict) and "default" in route]
        if not defaults:
            yield ("routes",), "there is no default route; add `- default: NAME` at the end"
        for index in range(defaults[0] + 1 if defaults else len(routes), len(routes)):
            yield (
                ("routes", index),
                "stands after the default route, so no request reaches it; move it up or remove it",
            )
        for index, route in enumerate(routes):
            if isinstance(route, dict):
                yield from self._route(("routes", index), route)

    def _route(self, path: yaml_source.Path, route: JsonObject) -> Problems:
        is_private = _is_private(route.get("match"))
        for place, name in _backends_of(path, route):
            yield from self._check_backend(place, name)
            if is_private and isinstance(name, str):
                yield from self._check_local(place, name.strip())
        if isinstance(route.get("verify"), dict):
            check = VerifyCheck(path, route, self._entries, self._pools, self._resolve)
            for place, name in check.names():
                yield from self._check_backend(place, name)
            yield from check.problems()
            self.warnings += [self._source.problem(place, text) for place, text in check.warnings()]

    def _check_local(self, path: yaml_source.Path, name: str) -> Problems:
        """Yield a problem when a backend of a private route is not local, or no member of its pool; warn when that is
        not known yet."""
        if name in self._pools and name not in self._names:
            members = [self._entries[one] for one in self._pools[name].get("members") or () if one in self._entries]
            if members and all(verdict(entry, self._resolve).local is False for entry in members):
                yield path, f"{_PRIVATE_RULE}, and no member of the pool {quote(name)} is local"
            return
        entry = self._entries.get(name)
        if entry is None or entry.get("type") not in BACKEND_TYPES:
            return
        judgement = verdict(entry, self._resolve)
        if judgement.local is False:
            yield path, f"{_PRIVATE_RULE}, and {name!r} is not local: {judgement.reason}"
        elif judgement.local is None and judgement.reason:
            line = self._source.problem(path, f"{name!r} counts as not local for now: {judgement.reason}")
            self.warnings.append(redact(line))
        models = list(filter(None, _models_of(entry)))
        if models and all(map(is_cloud_model, models)):
            yield path, f"{_PRIVATE_RULE}, and {name!r} only has models that run in the cloud ({models[0]})"

    def _aliases(self) -> Problems:
        """Yield the aliases that hide another name, and those that stand for no name."""
        aliases: Mapping[str, str] = self._data.get("aliases") or {}
        backends = {fold(name) for name in self._names_and_pools}
        folded = {fold(alias) for alias in aliases} - {AUTO, *backends}
        models = self._models()
        names = [AUTO, *self._names_and_pools, *models.values()]
        for alias, meaning in aliases.items():
            path = ("aliases", alias)
            if fold(alias) not in folded:
                kind = "a pool" if fold(alias) in backends - {fold(name) for name in self._names} else "a backend"
                yield (
                    path,
                    f"an alias must not be `auto` or the name of {kind}, which has a meaning already; rename it",
                )
            elif not alias or len(alias) > _LONGEST_ALIAS or not alias.isprintable() or alias != alias.strip():
                yield path, f"an alias must be a name of 1 to {_LONGEST_ALIAS} printable characters; rename it"
            backend, _, model = meaning.partition("/")
            if fold(meaning) in folded:
                yield path, f"{quote(meaning)} is itself an alias; write the name that it stands for, or backend/model"
            elif fold(meaning) not in (AUTO, *backends, *models) and not (model and fold(backend) in backends):
                remedy = "write auto, a backend, backend/model, or a model that a backend declares"
                yield path, f"{quote(meaning)} is not a name of this policy{self._nearest(meaning, names)}; {remedy}"

    def _models(self) -> Mapping[str, str]:
        """Return every spelling of every declared model, in lower case, with the model."""
        models: dict[str, str] = {}
        for entry in self._entries.values():
            kind = BACKEND_TYPES.get(str(entry.get("type")))
            declared = _models_of(entry)
            for model in filter(None, declared if any(declared) or kind is None else kind.default_models):
                for spelling in spellings_of(kind.type if kind else "", model):
                    models.setdefault(fold(spelling), model)
        return models

    def _ab(self) -> Problems:
        ab = self._source.data.get("ab")
        candidates = ab.get("candidates") if isinstance(ab, dict) else None
        for primary, candidate in candidates.items() if isinstance(candidates, dict) else ():
            path = ("ab", "candidates", str(primary))
            yield from self._check_backend(path, str(primary))
            yield from self._check_backend(path, candidate)
            yield from self._check_no_pool(path, candidate, "a trial compares two backends")
            if primary == candidate:
                yield path, "a backend cannot be its own candidate; name another backend"
            elif candidate in (self._pools.get(str(primary)) or {}).get("members", ()):
                yield path, f"{quote(candidate)} is a member of {quote(primary)}; name another backend"

    def _savings(self) -> Problems:
        savings = self._source.data.get("savings")
        against = savings.get("against") if isinstance(savings, dict) else None
        path = ("savings", "against")
        yield from self._check_backend(path, against)
        yield from self._check_no_pool(path, against, "a price belongs to one backend")
        entry = self._entries.get(against) if isinstance(against, str) else None
        if entry is not None and not entry.get("price"):
            text = f"{against!r} has no `price`: savings stay unknown until you add one"
            self.warnings.append(self._source.problem(path, text))


def _is_backend_name(name: str) -> bool:
    is_plain = name.isprintable() and name.isascii() and len(name) <= _LONGEST_BACKEND
    return is_plain and "/" not in name and fold(name) != AUTO


def _is_private(match: object) -> bool:
    """Return True for the conditions of a route that takes private requests alone."""
    condition = match.get("sensitivity") if isinstance(match, Mapping) else None
    levels = condition if isinstance(condition, list) else [condition]
    return bool(levels) and all(level == Sensitivity.HIGH for level in levels)


def _models_of(entry: JsonObject) -> list[str | None]:
    """Return the models that the entry of a backend declares."""
    return [entry.get("model"), *(entry.get("models") or ()), *(entry.get("families") or {}).values()]


def _backends_of(path: yaml_source.Path, route: JsonObject) -> Iterator[tuple[yaml_source.Path, object]]:
    """Yield the backends that a route names, each with its path."""
    for key in ("backend", "default"):
        if key in route:
            yield (*path, key), route[key]
    fallback = route.get("fallback")
    if isinstance(fallback, list):
        for index, name in enumerate(fallback):
            yield (*path, "fallback", index), name
    elif fallback:
        yield (*path, "fallback"), fallback
    verify = route.get("verify")
    if isinstance(verify, dict) and "escalate" in verify:
        yield (*path, "verify", "escalate"), verify["escalate"]

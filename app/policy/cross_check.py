"""What no value shows by itself: names that must exist, promises that must hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from app.backends import BACKEND_TYPES
from app.errors import redact
from app.policy import yaml_source
from app.policy.build import Resolve, verdict
from app.policy.fields import MOST_PROBLEMS, listed, nearest, shown
from app.routing.locality import is_cloud_model
from app.routing.names import AUTO, fold, spellings_of

_MOST_ALIAS = 100  # characters


class CrossCheck:
    """What no value shows by itself."""

    def __init__(self, source: yaml_source.Source, data: Mapping[str, Any], resolve: Resolve | None) -> None:
        self._source = source
        self._data = data
        self._resolve = resolve
        given = source.data.get("backends")
        self._names = dict.fromkeys(str(name) for name in given) if isinstance(given, dict) else {}
        self._unknown = 0  # names so far that no backend has
        self.warnings: list[str] = []

    def problems(self) -> list[str]:
        found = [*self._backends(), *self._routes(), *self._aliases(), *self._ab(), *self._savings()]
        return [self._source.problem(path, text) for path, text in found]

    def _backends(self) -> Iterable[tuple[yaml_source.Path, str]]:
        if not self._names and isinstance(self._source.data.get("backends"), dict):
            yield (
                ("backends",),
                "names no backend; add one, such as `local: {type: ollama}` (`flask init` writes a whole policy)",
            )
        for name, given in (self._data.get("backends") or {}).items():
            if name.lower() == "auto" or "/" in name or not name.isprintable() or not name.isascii() or len(name) > 64:
                yield (
                    ("backends", name),
                    "a backend's name is plain ASCII, at most 64 characters, without `/`, and not auto; rename it",
                )
            kind = BACKEND_TYPES.get(str(given.get("type")))
            if kind and kind.default_endpoint is None and not given.get("endpoint"):
                yield ("backends", name), f"a backend of type {kind.type} needs an `endpoint`"
            has_model = given.get("model") or given.get("models") or given.get("families")
            if kind and kind.hosted and not has_model and not kind.default_models:
                yield ("backends", name), "needs a `model` (or `models`, or `families`)"

    def _known(self, path: yaml_source.Path, name: object) -> Iterable[tuple[yaml_source.Path, str]]:
        if isinstance(name, str) and name.strip() not in self._names:
            legal = f"there are: {listed(self._names)}" if self._names else "there is none: add it to `backends`"
            yield path, f"no backend is called {shown(repr(name))}{self._near(name, self._names)}; {legal}"

    def _near(self, name: str, known: Iterable[str]) -> str:
        """`nearest`, as long as it will be read."""
        self._unknown += 1
        return nearest(name, known) if self._unknown <= MOST_PROBLEMS else ""

    def _routes(self) -> Iterable[tuple[yaml_source.Path, str]]:
        routes = self._source.data.get("routes")
        if not isinstance(routes, list):
            return
        defaults = [index for index, route in enumerate(routes) if isinstance(route, dict) and "default" in route]
        if not defaults:
            yield ("routes",), "there is no default route; end with `- default: NAME`"
        for index in range(defaults[0] + 1 if defaults else len(routes), len(routes)):
            yield (
                ("routes", index),
                "comes after the default route, so nothing ever reaches it; move it up or remove it",
            )
        for index, route in enumerate(routes):
            if isinstance(route, dict):
                yield from self._route(("routes", index), route)

    def _route(self, path: yaml_source.Path, route: Mapping[str, Any]) -> Iterable[tuple[yaml_source.Path, str]]:
        private = _wants_private(route.get("match"))
        fallback = route.get("fallback")
        several = isinstance(fallback, list)
        named = [((*path, key), route[key]) for key in ("backend", "default") if key in route]
        fallbacks = enumerate(fallback) if isinstance(fallback, list) else [(0, fallback)] if fallback else []
        named += [((*path, "fallback", index) if several else (*path, "fallback"), name) for index, name in fallbacks]
        for where, name in named:
            yield from self._known(where, name)
            if private and isinstance(name, str):
                yield from self._must_be_local(where, name.strip())

    def _must_be_local(self, path: yaml_source.Path, name: str) -> Iterable[tuple[yaml_source.Path, str]]:
        given = (self._data.get("backends") or {}).get(name)
        if given is None or given.get("type") not in BACKEND_TYPES:
            return
        found = verdict(given, self._resolve)
        if found.local is False:
            yield path, f"a route for sensitivity high must stay local, and {name!r} does not: {found.reason}"
        elif found.local is None and found.reason:
            where = self._source.problem(path, f"{name!r} counts as not local for now: {found.reason}")
            self.warnings.append(redact(where))
        models = [given.get("model"), *(given.get("models") or ()), *(given.get("families") or {}).values()]
        cloud = [model for model in models if model and is_cloud_model(model)]
        if cloud and all(model is None or is_cloud_model(model) for model in models):
            yield path, f"a route for sensitivity high must stay local, and {name!r} only has cloud models ({cloud[0]})"

    def _aliases(self) -> Iterable[tuple[yaml_source.Path, str]]:
        """Aliases that hide another name, or that stand for nothing."""
        aliases: Mapping[str, str] = self._data.get("aliases") or {}
        backends = {fold(name) for name in self._names}
        folded = {fold(alias) for alias in aliases} - {AUTO, *backends}
        models = self._models()
        known = [AUTO, *self._names, *models.values()]
        for alias, to in aliases.items():
            path = ("aliases", alias)
            if fold(alias) not in folded:
                yield (
                    path,
                    "an alias must not be called auto, nor like a backend: that name has a meaning already; rename it",
                )
            elif len(alias) > _MOST_ALIAS or not alias.isprintable() or alias != alias.strip() or not alias:
                yield path, f"an alias is a name of 1 to {_MOST_ALIAS} printable characters; rename it"
            backend, _, model = to.partition("/")
            if fold(to) in folded:
                yield path, f"{shown(repr(to))} is an alias itself; write what that one stands for, or backend/model"
            elif fold(to) not in (AUTO, *backends, *models) and not (model and fold(backend) in backends):
                legal = self._near(to, known)
                way_out = "write auto, a backend, backend/model, or a model that a backend declares"
                yield path, f"{shown(repr(to))} is no name of this policy{legal}; {way_out}"

    def _models(self) -> Mapping[str, str]:
        """Every spelling of every declared model, without case -> the model."""
        known: dict[str, str] = {}
        for given in (self._data.get("backends") or {}).values():
            kind = BACKEND_TYPES.get(str(given.get("type")))
            named = [given.get("model"), *(given.get("models") or ()), *(given.get("families") or {}).values()]
            for model in filter(None, named if any(named) or kind is None else kind.default_models):
                for spelling in spellings_of(kind.type if kind else "", model):
                    known.setdefault(fold(spelling), model)
        return known

    def _ab(self) -> Iterable[tuple[yaml_source.Path, str]]:
        ab = self._source.data.get("ab")
        candidates = ab.get("candidates") if isinstance(ab, dict) else None
        for primary, candidate in candidates.items() if isinstance(candidates, dict) else ():
            path = ("ab", "candidates", str(primary))
            yield from self._known(path, str(primary))
            yield from self._known(path, candidate)
            if primary == candidate:
                yield path, "a backend cannot be its own candidate; name another one"

    def _savings(self) -> Iterable[tuple[yaml_source.Path, str]]:
        savings = self._source.data.get("savings")
        against = savings.get("against") if isinstance(savings, dict) else None
        path = ("savings", "against")
        yield from self._known(path, against)
        given = (self._data.get("backends") or {}).get(against) if isinstance(against, str) else None
        if given is not None and not given.get("price"):
            self.warnings.append(
                self._source.problem(path, f"{against!r} has no `price`: savings stay unknown until you give it one")
            )


def _wants_private(match: object) -> bool:
    """The route is for private requests alone."""
    wanted = match.get("sensitivity") if isinstance(match, Mapping) else None
    return wanted == "high" or (isinstance(wanted, list) and bool(wanted) and all(value == "high" for value in wanted))

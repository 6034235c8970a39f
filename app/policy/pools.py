"""Check the pools of a policy: their names, their members, and the weights of the members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from app.fields.values import name_list, quote
from app.policy import yaml_source
from app.routing.names import fold
from app.types import JsonObject

Problem = tuple[yaml_source.Path, str]


@dataclass(frozen=True, slots=True)
class PoolCheck:
    """Check pools whose values are legal one by one."""

    pools: Mapping[str, JsonObject]
    backends: Mapping[str, object]  # by name
    nearest: Callable[[str, Iterable[str]], str]  # returns the end of a message, or ""

    def problems(self) -> Iterator[Problem]:
        """Yield every problem with the path of its value."""
        backends = {fold(name) for name in self.backends}
        pools: set[str] = set()
        for name, pool in self.pools.items():
            path = ("pools", name)
            if fold(name) in backends | pools:
                kind = "a backend" if fold(name) in backends else "another pool"
                yield path, f"{quote(name)} is the name of {kind} already; rename the pool"
            pools.add(fold(name))
            members = pool.get("members")
            if members is not None:
                yield from self._members((*path, "members"), members)
                yield from self._weights((*path, "weights"), pool.get("weights") or {}, frozenset(members))

    def _members(self, path: yaml_source.Path, members: tuple[str, ...]) -> Iterator[Problem]:
        if not members:
            yield path, "a pool needs a member; name one or more backends"
        checked: set[str] = set()
        for index, member in enumerate(members):
            place = (*path, index)
            if member in checked:
                yield place, f"{quote(member)} is a member already; remove one of the two"
            elif member in self.pools and member not in self.backends:
                yield place, f"{quote(member)} is a pool, and a member must be a backend; name its members instead"
            elif member not in self.backends:
                legal = f"name one of {name_list(self.backends)}" if self.backends else "add one to `backends`"
                yield place, f"no backend is called {quote(member)}{self.nearest(member, self.backends)}; {legal}"
            checked.add(member)

    def _weights(
        self, path: yaml_source.Path, weights: Mapping[str, float], members: frozenset[str]
    ) -> Iterator[Problem]:
        for name in weights:
            if name not in members:
                near = self.nearest(name, sorted(members))
                yield (*path, name), f"{quote(name)} is no member of this pool{near}; remove it, or add a member"

"""Check `verify` of a route: the second opinion must be local, and another backend must be left for an escalation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from app.backends import BACKEND_TYPES
from app.fields.values import name_list, quote
from app.policy import yaml_source
from app.policy.build import Resolve, verdict
from app.routing.locality import is_cloud_model
from app.types import JsonObject

Problem = tuple[yaml_source.Path, str]


@dataclass(frozen=True, slots=True)
class VerifyCheck:
    """Check the `verify` of one route."""

    path: yaml_source.Path  # of the route
    route: JsonObject
    backends: Mapping[str, JsonObject]  # by name, the legal ones
    pools: Mapping[str, JsonObject]  # likewise
    resolve: Resolve | None

    @property
    def _verify(self) -> JsonObject:
        verify: JsonObject = self.route["verify"]
        return verify

    def problems(self) -> Iterator[Problem]:
        """Yield every problem with the path of its value, beside names that no backend has."""
        yield from self._second()
        yield from self._escalation()

    def names(self) -> Iterator[tuple[yaml_source.Path, object]]:
        """Yield the name that must be one of a backend or a pool."""
        name = self._second_name()
        if name is not None:
            yield (*self.path, "verify", "second"), name

    def warnings(self) -> Iterator[Problem]:
        """Yield what has no effect."""
        by = self._verify.get("by")
        words = [by] if isinstance(by, str) else by
        if not isinstance(words, list):
            return
        key = "second" if "second" in self._verify else "samples" if self._verify.get("samples", 1) != 1 else ""
        if not key and "agreement" in words:
            text = "`agreement` has no effect without `second: BACKEND` or `samples: 2`"
            yield (*self.path, "verify", "by"), text
        if key and "agreement" not in words:
            yield (*self.path, "verify", key), f"`{key}` has no effect without `agreement` in `by`"

    def _second_name(self) -> str | None:
        second = self._verify.get("second")
        return second.partition("/")[0].strip() if isinstance(second, str) else None

    def _second(self) -> Iterator[Problem]:
        """Yield why the second opinion is not local: it gets requests for which the operator must not have to pay."""
        path, name = (*self.path, "verify", "second"), self._second_name()
        if name is not None and name in self.pools and name not in self.backends:
            members = name_list(self.pools[name].get("members") or ())
            yield path, f"{quote(name)} is a pool, and a second opinion comes from one backend; name one of {members}"
        entry = self.backends.get(name or "")
        if entry is None or entry.get("type") not in BACKEND_TYPES:
            return
        judgement = verdict(entry, self.resolve)
        if judgement.local is False:
            yield path, f"a second opinion must be local, and {name!r} is not: {judgement.reason}"
        model = str(self._verify["second"]).partition("/")[2]
        if model and is_cloud_model(model):
            yield path, f"a second opinion must be local, and {quote(model)} runs in the cloud"

    def _escalation(self) -> Iterator[Problem]:
        path, fallback = (*self.path, "verify"), self.route.get("fallback")
        first = fallback[0] if isinstance(fallback, list) and fallback else fallback
        name = self._verify.get("escalate") or first
        if not name:
            yield path, "has no backend for an answer that does not hold; add `escalate: NAME`, or a `fallback`"
            return
        primary = self.route.get("backend") or self.route.get("default")
        if "escalate" in self._verify:
            path = (*path, "escalate")
        if isinstance(name, str) and isinstance(primary, str) and self._members(name) <= self._members(primary):
            yield path, f"{quote(name)} is asked first already; name another backend for an answer that does not hold"

    def _members(self, name: str) -> frozenset[str]:
        pool = self.pools.get(name) if name not in self.backends else None
        return frozenset(pool.get("members") or ()) if pool else frozenset((name.strip(),))

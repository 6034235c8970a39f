"""The policy: YAML text -> types.Policy, with every problem reported at once.

Flow: yaml_source.parse (text -> data with lines) -> schema (each value by itself) -> cross_check (names that must
exist, promises that must hold) -> build (one normal form).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from marshmallow import ValidationError

from app.errors import NoPolicy, PolicyError, excerpt
from app.policy import yaml_source
from app.policy.build import Resolve, build
from app.policy.cross_check import CrossCheck
from app.policy.fields import MOST_PROBLEMS
from app.policy.schema import PolicySchema
from app.policy.services import Services, make_services
from app.routing.detect import PatternError
from app.settings import Settings
from app.types import Policy

_MAX_BYTES = 200_000  # PyYAML reads that in under a second
_MAX_LINE = 700  # characters of one problem


@dataclass(frozen=True, slots=True)
class Loaded:
    policy: Policy
    warnings: tuple[str, ...]
    services: Services


def read(path: str) -> str:
    """The text of a policy file.  Raises PolicyError when there is none."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        if len(raw) > _MAX_BYTES:
            raise _too_large(path)
        return raw.decode("utf-8")
    except FileNotFoundError:
        raise NoPolicy(
            [f"{path}: no such file. `flask init` writes a first policy; LLR_POLICY names another"]
        ) from None
    except UnicodeDecodeError as error:
        raise PolicyError([f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8"]) from None
    except (OSError, ValueError) as error:  # a path can hold what no file system takes
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PolicyError([f"{path}: cannot be read: {reason}; name a file that can be read"]) from None


def _too_large(name: str) -> PolicyError:
    return PolicyError([f"{name}: larger than {_MAX_BYTES} bytes: this is no policy; name another file"])


def load(
    text: str,
    name: str,
    settings: Settings,
    resolve: Resolve | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Loaded:
    """The policy of `text` and its services; `name` is how problems call the file.  Raises PolicyError with every
    problem.

    `resolve` looks names up, so that more can be proven about what is local; without it nothing does I/O.  `environ`
    holds the keys of backends.
    """
    if len(text) > _MAX_BYTES:
        raise _too_large(name)
    try:
        return _load(yaml_source.parse(name, text), text, settings, resolve, environ)
    except PolicyError as error:
        raise PolicyError([excerpt(problem, most=_MAX_LINE) for problem in _few(error.problems)]) from None


def _load(
    source: yaml_source.Source, text: str, settings: Settings, resolve: Resolve | None, environ: Mapping[str, str]
) -> Loaded:
    name = source.name
    if source.data is None:
        raise PolicyError([f"{name}: is empty; it needs `backends` and `routes`"])
    if not isinstance(source.data, dict):
        raise PolicyError([f"{name}: must be a mapping with `backends` and `routes`"])
    problems = source.problems
    data: dict[str, Any] = {}
    try:
        data = PolicySchema().load(source.data)
    except ValidationError as error:
        problems += [source.problem(path, text) for path, text in _flat(error.messages)]
        data = error.valid_data if isinstance(error.valid_data, dict) else {}
    check = CrossCheck(source, data, resolve)
    problems += check.problems()
    if problems:
        raise PolicyError(sorted(problems, key=source.line))
    policy = build(data, settings, hashlib.sha256(text.encode()).hexdigest()[:12])
    try:
        services = make_services(policy, environ)
    except PatternError as error:
        raise PolicyError([source.problem(("sensitivity", "patterns"), str(error))]) from None
    return Loaded(policy, tuple(check.warnings), services)


def _few(problems: Sequence[str]) -> list[str]:
    unique = list(dict.fromkeys(problems))
    rest = len(unique) - MOST_PROBLEMS
    return unique if rest <= 0 else [*unique[:MOST_PROBLEMS], f"… and {rest} more problems"]


def _flat(messages: Any, path: yaml_source.Path = ()) -> Iterable[tuple[yaml_source.Path, str]]:
    """marshmallow's nested messages as (path, text); its own steps (`_schema`, `value`, `key`) are no part of it."""
    if isinstance(messages, Mapping):
        for step, inner in messages.items():
            own = step in ("_schema", "value", "key")
            yield from _flat(inner, path if own else (*path, step))
    elif isinstance(messages, (list, tuple)):
        for message in messages:
            yield from _flat(message, path)
    else:
        yield path, _WORDING.get(str(messages), str(messages))


_WORDING = {
    "Missing data for required field.": "is missing; add it (docs/policy.md says what it takes)",
    "Field may not be null.": "has no value; give one or remove the key",
    "Invalid input type.": "must be a mapping of keys to values",
    "Not a valid list.": "must be a list",
    "Not a valid mapping type.": "must be a mapping of keys to values",
}


def plain(rules: Policy) -> dict[str, Any]:
    """A policy as JSON can say it."""
    document: dict[str, Any] = _plain(rules)
    return document


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value

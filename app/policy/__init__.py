"""Load a policy: turn YAML text into `types.Policy`, and report all problems together.

The steps: `yaml_source.parse` reads the text and keeps the line of each value; the schema checks each value alone;
`cross_check` compares the values with each other; `build` makes the normal form.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from marshmallow import ValidationError

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.errors import NoPolicy, PolicyError
from app.fields.values import MOST_PROBLEMS
from app.policy import yaml_source
from app.policy.build import Resolve, build
from app.policy.cross_check import CrossCheck
from app.policy.schema import PolicySchema
from app.redaction import excerpt
from app.routing.detect import Detectors, PatternError
from app.settings import Settings
from app.types import JsonDict, Policy

_MAX_BYTES = 200_000  # PyYAML reads so many in less than a second
_MAX_LINE = 700  # characters of one problem


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy, and everything that a worker makes of it and that can fail: so a policy that passes the check cannot
    stop a worker.  Nothing is opened or started yet."""

    policy: Policy
    warnings: tuple[str, ...]
    detectors: Detectors
    backends: Mapping[str, Backend]


def read(path: str) -> str:
    """Return the text of a policy file.  Raises PolicyError when the file cannot be read."""
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
    except (OSError, ValueError) as error:  # ValueError: the path holds a NUL
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise PolicyError(
            [f"{path}: cannot be read: {reason}; name another file, or let the router's user read this one"]
        ) from None


def _too_large(name: str) -> PolicyError:
    return PolicyError([f"{name}: is larger than {_MAX_BYTES} bytes, so it is no policy; name another file"])


def load(
    text: str,
    name: str,
    settings: Settings,
    resolve: Resolve | None = None,
    environ: Mapping[str, str] = MappingProxyType({}),
) -> Loaded:
    """Return the policy of `text` and what is made of it.  Raises PolicyError with every problem.

    Messages call the file `name`.  `resolve` resolves host names, which proves more backends to be local or not;
    without it nothing does I/O.  `environ` holds the keys of the backends.
    """
    if len(text) > _MAX_BYTES:
        raise _too_large(name)
    try:
        return _load(yaml_source.parse(name, text), text, settings, resolve, environ)
    except PolicyError as error:
        raise PolicyError([excerpt(problem, most=_MAX_LINE) for problem in _first(error.problems)]) from None


def _load(
    source: yaml_source.Source, text: str, settings: Settings, resolve: Resolve | None, environ: Mapping[str, str]
) -> Loaded:
    name = source.name
    if source.data is None:
        raise PolicyError([f"{name}: is empty; it needs `backends` and `routes`"])
    if not isinstance(source.data, dict):
        raise PolicyError([f"{name}: must be a mapping with `backends` and `routes`"])
    problems = source.problems
    data: JsonDict = {}
    try:
        data = PolicySchema().load(source.data)
    except ValidationError as error:
        problems += [source.problem(path, text) for path, text in _flatten(error.messages)]
        data = error.valid_data if isinstance(error.valid_data, dict) else {}
    check = CrossCheck(source, data, resolve)
    problems += check.problems()
    if problems:
        raise PolicyError(sorted(problems, key=source.line))
    policy = build(data, settings, hashlib.sha256(text.encode()).hexdigest()[:12])
    try:
        detectors = Detectors(policy.sensitivity)
    except PatternError as error:
        raise PolicyError([source.problem(("sensitivity", "patterns"), str(error))]) from None
    backends = {name: BACKEND_TYPES[config.type](config, environ) for name, config in policy.backends.items()}
    return Loaded(policy, tuple(check.warnings), detectors, backends)


def _first(problems: Sequence[str]) -> list[str]:
    """Return the problems that a message prints, each once."""
    unique = list(dict.fromkeys(problems))
    rest = len(unique) - MOST_PROBLEMS
    return unique if rest <= 0 else [*unique[:MOST_PROBLEMS], f"… and {rest} more problems"]


def _flatten(messages: object, path: yaml_source.Path = ()) -> Iterable[tuple[yaml_source.Path, str]]:
    """Yield marshmallow's nested messages as (path, text), without its own steps `_schema`, `value` and `key`."""
    if isinstance(messages, Mapping):
        for step, inner in messages.items():
            is_own_step = step in ("_schema", "value", "key")
            yield from _flatten(inner, path if is_own_step else (*path, step))
    elif isinstance(messages, (list, tuple)):
        for message in messages:
            yield from _flatten(message, path)
    else:
        yield path, _MESSAGES.get(str(messages), str(messages))


_MESSAGES = {  # marshmallow's message -> ours
    "Missing data for required field.": "is missing; add it (docs/policy.md lists its values)",
    "Field may not be null.": "has no value; write one or remove the key",
    "Invalid input type.": "must be a mapping of keys to values",
    "Not a valid list.": "must be a list",
    "Not a valid mapping type.": "must be a mapping of keys to values",
}


def as_document(policy: Policy) -> dict[str, object]:
    """Return a policy as a JSON object."""
    return {field.name: _as_json(getattr(policy, field.name)) for field in dataclasses.fields(policy)}


def _as_json(value: object) -> object:
    if dataclasses.is_dataclass(value):
        return {field.name: _as_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _as_json(item) for key, item in value.items()}
    if isinstance(value, frozenset):
        return sorted(value)
    return [_as_json(item) for item in value] if isinstance(value, (list, tuple)) else value

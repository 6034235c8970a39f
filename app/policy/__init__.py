"""The policy: YAML text -> types.Policy, with every problem reported at once.

Flow: yaml_source.parse (text -> data with lines) -> schema (each value by itself) -> cross_check (names that must
exist, promises that must hold) -> build (one normal form).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marshmallow import ValidationError

from app.errors import NoPolicy, PolicyError, redact
from app.policy import yaml_source
from app.policy.build import Resolve, build
from app.policy.cross_check import CrossCheck
from app.policy.schema import PolicySchema
from app.settings import Settings
from app.types import Policy

_MAX_BYTES = 200_000  # PyYAML reads that in under a second
_MAX_PROBLEMS = 39


@dataclass(frozen=True, slots=True)
class Loaded:
    policy: Policy
    warnings: tuple[str, ...]


def read(path: str) -> str:
    """The text of a policy file.  Raises PolicyError when there is none."""
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise _too_large(path)
        return file.read_text("utf-8")
    except FileNotFoundError:
        raise NoPolicy(
            [f"{path}: no such file. `flask init` writes a first policy; LLR_POLICY names another"]
        ) from None
    except UnicodeDecodeError as error:
        raise PolicyError([f"{path}: not UTF-8 text (byte {error.start})"]) from None
    except OSError as error:
        raise PolicyError([f"{path}: cannot be read: {error.strerror}"]) from None


def _too_large(name: str) -> PolicyError:
    return PolicyError([f"{name}: larger than {_MAX_BYTES} bytes: this is no policy"])


def load(text: str, name: str, settings: Settings, resolve: Resolve | None = None) -> Loaded:
    """The policy of `text`; `name` is how problems call the file.  Raises PolicyError with every problem.

    `resolve` looks names up, so that more can be proven about what is local; without it nothing does I/O.
    """
    if len(text) > _MAX_BYTES:
        raise _too_large(name)
    try:
        return _load(yaml_source.parse(name, text), text, settings, resolve)
    except PolicyError as error:
        raise PolicyError(_few([redact(problem) for problem in error.problems])) from None


def _load(source: yaml_source.Source, text: str, settings: Settings, resolve: Resolve | None) -> Loaded:
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
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Loaded(build(data, settings, version), tuple(check.warnings))


def _few(problems: list[str]) -> list[str]:
    unique = list(dict.fromkeys(problems))
    rest = len(unique) - _MAX_PROBLEMS
    return unique if rest <= 0 else [*unique[:_MAX_PROBLEMS], f"… and {rest} more problems"]


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
    "Missing data for required field.": "is missing",
    "Field may not be null.": "has no value",
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

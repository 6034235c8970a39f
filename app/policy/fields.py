"""marshmallow fields and the strict schema base that the policy is made of.

Each field carries its help in `metadata`; docs/policy.md is generated from there.
"""

from __future__ import annotations

import abc
import difflib
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema
from urllib3.util import parse_url

from app.errors import excerpt
from app.types import Range

MOST_PROBLEMS = 39  # that are printed; what nobody reads need not be worked out
_MOST_NAMES = 100  # looked through for the nearest one
_MOST_LISTED = 20  # names that a message lists
_LONGEST_NAME = 64  # characters; comparing longer ones for likeness would take long and help nobody
_LONGEST_TEXT = 4000  # characters of a name, an address or a reason: they go along in errors and headers
_LARGEST = 1e12  # of any number: as ms 31 years, which sockets still take as a deadline; sums of it stay finite
_MOST_SHOWN = 60  # characters of a wrong value
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def nearest(value: str, known: Iterable[str]) -> str:
    """ " (did you mean x?)" or "", for the end of a message."""
    if len(value) > _LONGEST_NAME:
        return ""
    by_lower = {name.lower(): name for name in itertools.islice(known, _MOST_NAMES) if len(name) <= _LONGEST_NAME}
    lower = value.lower()
    near = difflib.get_close_matches(lower, list(by_lower), 1, 0.6)
    near = near or [name for name in by_lower if len(lower) > 2 and name.startswith(lower)]
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def listed(names: Iterable[str]) -> str:
    """`a, b, c`, for a message; of many or long names the beginning."""
    first = [shown(name) for name in itertools.islice(names, _MOST_LISTED + 1)]
    return ", ".join([*first[:_MOST_LISTED], "…"] if len(first) > _MOST_LISTED else first)


def shown(text: str) -> str:
    """Return the beginning of `text`, for a message."""
    return excerpt(text, most=_MOST_SHOWN)


def one_of(value: object, known: Iterable[str]) -> str:
    """`value` when it is one of `known`.  Raises ValidationError with the nearest legal value."""
    names = list(known)
    if not isinstance(value, str):
        raise ValidationError(f"must be one of {listed(names)}")
    if value not in names:
        raise ValidationError(f"{_short(value)} is not one of {listed(names)}{nearest(value, names)}")
    return value


def _short(value: object) -> str:
    return shown(repr(value))


class StrictSchema(Schema):
    """A mapping in which every unknown key is an error that names the nearest legal one."""

    class Meta:
        unknown = EXCLUDE  # reported below, together with all other problems

    error_messages = {"type": "must be a mapping of keys to values"}  # noqa: RUF012 - marshmallow's own convention

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _no_unknown_keys(self, data: Any, original: Any, **_: Any) -> None:  # noqa: ARG002
        if isinstance(original, Mapping):
            no_unknown_keys(original, [field.data_key or name for name, field in self.fields.items()])


def no_unknown_keys(value: Mapping[Any, Any], known: Iterable[str]) -> None:
    """Raises ValidationError with every key that is not known."""
    names = list(known)
    unknown = [str(key) for key in value if key not in names]
    near = {key: nearest(key, names) for key in unknown[:MOST_PROBLEMS]}
    if unknown:
        raise ValidationError(
            {key: [f"unknown key{near.get(key) or f'; remove it, or use one of {listed(names)}'}"] for key in unknown}
        )


class Checked(fields.Field[Any]):
    """A field that is one function: `check` returns the value in normal form or raises ValidationError."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **_: Any) -> Any:  # noqa: ARG002
        return self.check(value)

    @abc.abstractmethod
    def check(self, value: Any) -> Any: ...


class Text(Checked):
    """A non-empty string."""

    def check(self, value: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text (put it in quotes)")
        if not value.strip():
            raise ValidationError("must not be empty; give a text or remove the key")
        return _short_enough(value.strip())


class Number(Checked):
    """A finite number; no text, no true or false."""

    def __init__(self, low: float = 0, high: float = math.inf, *, above: bool = False, whole: bool = False, **kw: Any):
        """`above`: `low` itself is not allowed."""
        super().__init__(**kw)
        self.low, self.high, self.above, self.whole = low, high, above, whole

    def check(self, value: Any) -> float:
        return number(value, self.low, self.high, above=self.above, whole=self.whole)


def number(value: Any, low: float, high: float, *, above: bool = False, whole: bool = False) -> float:
    """A number between `low` and `high`.  Raises ValidationError."""
    legal = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool) and value != math.inf
    if legal and value > _LARGEST:
        high = min(high, _LARGEST)
    if not legal or not low <= value <= high or (above and value == low):
        kind = "a whole number" if whole else "a number"
        limits = f"above {low:.15g}" if above else f"of at least {low:.15g}"
        limits += f" and at most {high:.15g}" if high != math.inf else ""
        raise ValidationError(f"must be {kind} {limits}, not {_short(value)}")
    return int(value) if whole else value


class Flag(Checked):
    """true or false, nothing that only looks like it."""

    def check(self, value: Any) -> bool:
        if not isinstance(value, bool):
            raise ValidationError(f"must be true or false, not {_short(value)}")
        return value


class Choice(Checked):
    """One of some words."""

    def __init__(self, choices: Iterable[str], **kw: Any) -> None:
        super().__init__(**kw)
        self.choices = tuple(choices)

    def check(self, value: Any) -> str:
        return one_of(value, self.choices)


class Endpoint(Checked):
    """An http(s) address without credentials, query or fragment."""

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValidationError("must be an address such as http://localhost:11434")
        try:
            parts = urlsplit(value.strip())
            legal = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
            parse_url(value.strip())  # as the connections will
            (parts.hostname or "").encode("idna")
        except (ValueError, UnicodeError):
            legal = False
        if not legal or " " in value.strip():
            raise ValidationError("must be an http:// or https:// address such as http://localhost:11434")
        if parts.username or parts.password:
            raise ValidationError("must not hold credentials: name the key's variable in apiKeyEnv")
        if parts.query or parts.fragment:
            raise ValidationError("must not have a ?query or a #fragment")
        return _short_enough(value.strip())


class EnvName(Checked):
    """The name of an environment variable, or "" for a backend that wants no key."""

    def check(self, value: Any) -> str:
        if not isinstance(value, str) or (value and not _ENV_NAME.fullmatch(value)) or value.startswith("sk_"):
            raise ValidationError("must be the NAME of the variable that holds the key, such as OPENAI_API_KEY")
        return value


class NameList(Checked):
    """A name, or a list of names."""

    def check(self, value: Any) -> tuple[str, ...]:
        return tuple(_each(value, _name)) if isinstance(value, list) else (_name(value),)


class Windows(Checked):
    """Tokens, or a mapping of model to tokens; "*" stands for every other model."""

    def check(self, value: Any) -> dict[str, int]:
        if not isinstance(value, dict):
            return {"*": int(_tokens(value))}
        return {str(model): int(tokens) for model, tokens in _mapped(value, _tokens).items()}


class Names(Checked):
    """A mapping of name to name; `keys`, when given, are the legal keys."""

    def __init__(self, keys: Iterable[str] = (), **kw: Any) -> None:
        super().__init__(**kw)
        self.keys = tuple(keys)

    def check(self, value: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of name to name")
        if self.keys:
            no_unknown_keys(value, self.keys)
        return {str(key): item for key, item in _mapped(value, _name).items()}


class Condition(Checked):
    """What a tag must be: a word, a list of words, or {min, max} for a number."""

    def __init__(self, choices: Iterable[str] | None, high: float = math.inf, **kw: Any) -> None:
        """`choices` None = a number, at most `high`."""
        super().__init__(**kw)
        self.choices = tuple(choices) if choices is not None else None
        self.high = high

    def check(self, value: Any) -> frozenset[str] | Range:
        return self._range(value) if self.choices is None else self._words(value, self.choices)

    def _words(self, value: Any, choices: tuple[str, ...]) -> frozenset[str]:
        if not isinstance(value, list):
            return frozenset([one_of(value, choices)])
        if not value:
            raise ValidationError("must not be an empty list: it would match nothing; name a value or remove the key")
        return frozenset(_each(value, lambda item: one_of(item, choices)))

    def _range(self, value: Any) -> Range:
        if not isinstance(value, dict) or not value:
            raise ValidationError("must be {min: …, max: …}")
        no_unknown_keys(value, ("min", "max"))
        limits = _mapped(value, lambda item: number(item, 0, self.high))
        if limits.get("min", 0) > limits.get("max", math.inf):
            raise ValidationError("min is above max: it would match nothing; swap them")
        return Range(**limits)


def _name(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValidationError("must be a name (put it in quotes)")
    return _short_enough(value.strip())


def _short_enough(text: str) -> str:
    if len(text) > _LONGEST_TEXT:
        raise ValidationError(f"must not be longer than {_LONGEST_TEXT} characters; it has {len(text)}")
    return text


def _tokens(value: Any) -> float:
    return number(value, 1, 1e9, whole=True)


def _each(items: list[Any], read: Any) -> list[Any]:
    """`read` over a list; the problems of all items at once, each at its index."""
    return list(_mapped(dict(enumerate(items)), read).values())


def _mapped(items: Mapping[Any, Any], read: Any) -> dict[Any, Any]:
    out, problems = {}, {}
    for key, item in items.items():
        try:
            out[key] = read(item)
        except ValidationError as error:
            problems[key] = error.messages
    if problems:
        raise ValidationError(problems)
    return out

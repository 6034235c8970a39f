"""marshmallow fields and the strict schema base of the policy.

Each field carries its help in `metadata`; `app/policy/docs.py` writes docs/policy.md from it.
"""

from __future__ import annotations

import abc
import difflib
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema
from urllib3.util import parse_url

from app.errors import excerpt
from app.types import Range

MOST_PROBLEMS = 39  # lines that a message prints; the checks may stop after so many
_MOST_NAMES = 100  # that are compared to find the nearest one
_MOST_LISTED = 20  # names that a message lists
_LONGEST_NAME = 64  # characters of a name that is compared; longer ones take too long
_LONGEST_TEXT = 4000  # characters of a name, an address or a reason: errors and headers repeat it
_LARGEST = 1e12  # of any number: 31 years in ms, which sockets accept as a deadline; sums of it stay finite
_MOST_SHOWN = 60  # characters of a wrong value
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

Value = TypeVar("Value")
Key = TypeVar("Key")


# --- words of messages --------------------------------------------------------------------------


def nearest(value: str, names: Iterable[str]) -> str:
    """Return " (did you mean x?)" for the end of a message, or "" when no name is near."""
    if len(value) > _LONGEST_NAME:
        return ""
    by_lower = {name.lower(): name for name in itertools.islice(names, _MOST_NAMES) if len(name) <= _LONGEST_NAME}
    lower = value.lower()
    near = difflib.get_close_matches(lower, list(by_lower), 1, 0.6)
    near = near or [name for name in by_lower if len(lower) > 2 and name.startswith(lower)]
    return f" (did you mean {by_lower[near[0]]}?)" if near else ""


def name_list(names: Iterable[str]) -> str:
    """Return `a, b, c` for a message; a long list and long names are cut."""
    first = [shorten(name) for name in itertools.islice(names, _MOST_LISTED + 1)]
    return ", ".join([*first[:_MOST_LISTED], "…"] if len(first) > _MOST_LISTED else first)


def shorten(text: str) -> str:
    """Return the beginning of `text` for a message."""
    return excerpt(text, most=_MOST_SHOWN)


def quote(value: object) -> str:
    """Return a wrong value as a message shows it."""
    return shorten(repr(value))


# --- checks of values ---------------------------------------------------------------------------


def check_keys(mapping: Mapping[object, object], legal: Iterable[str]) -> None:
    """Raise ValidationError with every key that is not legal."""
    names = list(legal)
    unknown = [str(key) for key in mapping if key not in names]
    near = {key: nearest(key, names) for key in unknown[:MOST_PROBLEMS]}
    if unknown:
        remedy = f"; remove it, or use one of {name_list(names)}"
        raise ValidationError({key: [f"unknown key{near.get(key) or remedy}"] for key in unknown})


def check_choice(value: object, choices: Iterable[str]) -> str:
    """Return `value` when it is one of `choices`.  Raises ValidationError with the nearest legal value."""
    names = list(choices)
    if not isinstance(value, str):
        raise ValidationError(f"must be one of {name_list(names)}")
    if value not in names:
        raise ValidationError(f"{quote(value)} is not one of {name_list(names)}{nearest(value, names)}")
    return value


def check_number(value: object, low: float, high: float, *, above: bool = False, whole: bool = False) -> float:
    """Return a number between `low` and `high`; with `above`, `low` itself is not legal.  Raises ValidationError."""
    is_number = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if isinstance(value, (int, float)) and is_number and value != math.inf:
        high = min(high, _LARGEST) if value > _LARGEST else high
        if low <= value <= high and not (above and value == low):
            return int(value) if whole else value
    kind = "a whole number" if whole else "a number"
    limits = f"above {low:.15g}" if above else f"of at least {low:.15g}"
    limits += f" and at most {high:.15g}" if high != math.inf else ""
    raise ValidationError(f"must be {kind} {limits}, not {quote(value)}")


def check_tokens(value: object) -> int:
    """Return a number of tokens.  Raises ValidationError."""
    return int(check_number(value, 1, 1e9, whole=True))


def check_name(value: object) -> str:
    """Return a name without spaces around it.  Raises ValidationError."""
    if not isinstance(value, str) or not value.strip():
        raise ValidationError("must be a name (put it in quotes)")
    return check_length(value.strip())


def check_length(text: str) -> str:
    """Return `text` when it is not too long.  Raises ValidationError."""
    if len(text) > _LONGEST_TEXT:
        raise ValidationError(f"must not be longer than {_LONGEST_TEXT} characters; it has {len(text)}")
    return text


def check_items(items: list[object], check: Callable[[object], Value]) -> list[Value]:
    """Check every item of a list.  Raises ValidationError with the problems of all items, each at its index."""
    return list(check_values(dict(enumerate(items)), check).values())


def check_values(mapping: Mapping[Key, object], check: Callable[[object], Value]) -> dict[Key, Value]:
    """Check every value of a mapping.  Raises ValidationError with the problems of all values, each at its key."""
    values: dict[Key, Value] = {}
    problems: dict[Key, object] = {}
    for key, value in mapping.items():
        try:
            values[key] = check(value)
        except ValidationError as error:
            problems[key] = error.messages
    if problems:
        raise ValidationError(problems)
    return values


# --- the schema and its fields ------------------------------------------------------------------


class StrictSchema(Schema):
    """A mapping in which every unknown key is an error.  The error names the nearest legal key."""

    class Meta:
        unknown = EXCLUDE  # `_check_keys` reports them together with all other problems

    error_messages = {"type": "must be a mapping of keys to values"}  # noqa: RUF012 - marshmallow's own convention

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check_keys(self, data: object, original: object, **_: object) -> None:  # noqa: ARG002
        if isinstance(original, Mapping):
            check_keys(original, [field.data_key or name for name, field in self.fields.items()])


class Options(TypedDict, total=False):
    """The keyword arguments that every field passes on to marshmallow."""

    required: bool
    load_default: object
    data_key: str
    metadata: Mapping[str, str]


class CheckedField(fields.Field[Value]):
    """A field with one method: `check` returns the value in its normal form, or raises ValidationError."""

    def _deserialize(self, value: object, attr: str | None, data: object, **_: object) -> Value:  # noqa: ARG002
        return self.check(value)

    @abc.abstractmethod
    def check(self, value: object) -> Value: ...


class Text(CheckedField[str]):
    """A string that is not empty."""

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text (put it in quotes)")
        if not value.strip():
            raise ValidationError("must not be empty; write a text or remove the key")
        return check_length(value.strip())


class Number(CheckedField[float]):
    """A finite number between `low` and `high`.  With `above`, `low` itself is not legal."""

    def __init__(
        self,
        low: float = 0,
        high: float = math.inf,
        *,
        above: bool = False,
        whole: bool = False,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(**options)
        self.low, self.high, self.above, self.whole = low, high, above, whole

    def check(self, value: object) -> float:
        return check_number(value, self.low, self.high, above=self.above, whole=self.whole)


class Flag(CheckedField[bool]):
    """The values true and false, and no others."""

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValidationError(f"must be true or false, not {quote(value)}")
        return value


class Choice(CheckedField[str]):
    """One of several words."""

    def __init__(self, choices: Iterable[str], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.choices = tuple(choices)

    def check(self, value: object) -> str:
        return check_choice(value, self.choices)


class Endpoint(CheckedField[str]):
    """An http(s) address without credentials, query or fragment."""

    def check(self, value: object) -> str:
        if not isinstance(value, str) or not value.isascii() or not value.isprintable():
            raise ValidationError("must be an address such as http://localhost:11434")
        try:
            parts = urlsplit(value.strip())
            is_legal = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
            parse_url(value.strip())  # the connections parse it with this function
            (parts.hostname or "").encode("idna")
        except (ValueError, UnicodeError):
            is_legal = False
        if not is_legal or " " in value.strip():
            raise ValidationError("must be an http:// or https:// address such as http://localhost:11434")
        if parts.username or parts.password:
            raise ValidationError("must not hold credentials: name the key's variable in apiKeyEnv")
        if parts.query or parts.fragment:
            raise ValidationError("must not have a ?query or a #fragment")
        return check_length(value.strip())


class EnvName(CheckedField[str]):
    """The name of an environment variable, or "" for a backend that needs no key."""

    def check(self, value: object) -> str:
        is_name = isinstance(value, str) and (not value or bool(_ENV_NAME.fullmatch(value)))
        if not isinstance(value, str) or not is_name or value.startswith("sk_"):
            raise ValidationError("must be the NAME of the variable that holds the key, such as OPENAI_API_KEY")
        return value


class NameList(CheckedField[tuple[str, ...]]):
    """One name, or a list of names."""

    def check(self, value: object) -> tuple[str, ...]:
        return tuple(check_items(value, check_name)) if isinstance(value, list) else (check_name(value),)


class Windows(CheckedField[dict[str, int]]):
    """A number of tokens, or a mapping of model to tokens; "*" stands for every other model."""

    def check(self, value: object) -> dict[str, int]:
        if not isinstance(value, dict):
            return {"*": check_tokens(value)}
        return {str(model): tokens for model, tokens in check_values(value, check_tokens).items()}


class Names(CheckedField[dict[str, str]]):
    """A mapping of name to name.  `keys` lists the legal keys; without it every name is legal."""

    def __init__(self, keys: Iterable[str] = (), **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.keys = tuple(keys)

    def check(self, value: object) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of name to name")
        if self.keys:
            check_keys(value, self.keys)
        return {str(key): item for key, item in check_values(value, check_name).items()}


class Condition(CheckedField[frozenset[str] | Range]):
    """A condition on a tag: a word, a list of words, or {min, max} for a number."""

    def __init__(self, choices: Iterable[str] | None, high: float = math.inf, **options: Unpack[Options]) -> None:
        """`choices` None means a number of at most `high`."""
        super().__init__(**options)
        self.choices = tuple(choices) if choices is not None else None
        self.high = high

    def check(self, value: object) -> frozenset[str] | Range:
        return self._range(value) if self.choices is None else self._words(value, self.choices)

    def _words(self, value: object, choices: tuple[str, ...]) -> frozenset[str]:
        if not isinstance(value, list):
            return frozenset([check_choice(value, choices)])
        if not value:
            raise ValidationError("must not be an empty list, which matches nothing; name a value or remove the key")
        return frozenset(check_items(value, lambda item: check_choice(item, choices)))

    def _range(self, value: object) -> Range:
        if not isinstance(value, dict) or not value:
            raise ValidationError("must be {min: …, max: …}")
        check_keys(value, ("min", "max"))
        limits = check_values(value, lambda item: check_number(item, 0, self.high))
        if limits.get("min", 0) > limits.get("max", math.inf):
            raise ValidationError("min is above max, which matches nothing; swap them")
        return Range(**limits)

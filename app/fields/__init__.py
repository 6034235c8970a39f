"""Define the marshmallow fields and the strict schema base of the policy.

Each field carries its help in `metadata`; `app/policy/docs.py` writes docs/policy.md from it.
"""

from __future__ import annotations

import abc
import math
import re
from collections.abc import Iterable, Mapping
from typing import TypedDict, TypeVar, Unpack
from urllib.parse import urlsplit

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validates_schema
from urllib3.util import parse_url

from app.fields.values import (
    check_choice,
    check_items,
    check_keys,
    check_length,
    check_limit,
    check_name,
    check_number,
    check_tokens,
    check_values,
    quote,
)
from app.types import Range

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_DURATION = re.compile(r"(\d{1,9})(s|m|h|)")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}
_LONGEST_S = 365 * 86_400

Value = TypeVar("Value")


class StrictSchema(Schema):
    """Refuse unknown keys in a mapping.  The error names the nearest legal key."""

    class Meta:
        unknown = EXCLUDE  # `_check_keys` reports them together with all other problems

    error_messages = {"type": "must be a mapping of keys to values"}  # noqa: RUF012 - marshmallow's own convention

    @validates_schema(pass_original=True, skip_on_field_errors=False)
    def _check_keys(self, data: object, original: object, **_: object) -> None:  # noqa: ARG002
        if isinstance(original, Mapping):
            check_keys(original, [field.data_key or name for name, field in self.fields.items()])


class Options(TypedDict, total=False):
    """Hold the keyword arguments that every field passes on to marshmallow."""

    required: bool
    load_default: object
    data_key: str
    metadata: Mapping[str, str]


class CheckedField(fields.Field[Value]):
    """Reduce a field to one method: `check` returns the value in its normal form, or raises ValidationError."""

    def _deserialize(self, value: object, attr: str | None, data: object, **_: object) -> Value:  # noqa: ARG002
        return self.check(value)

    @abc.abstractmethod
    def check(self, value: object) -> Value: ...


class Text(CheckedField[str]):
    """Accept a string that is not empty."""

    def check(self, value: object) -> str:
        if not isinstance(value, str):
            raise ValidationError("must be text (put it in quotes)")
        if not value.strip():
            raise ValidationError("must not be empty; write a text or remove the key")
        return check_length(value.strip())


class Number(CheckedField[float]):
    """Accept a finite number between `low` and `high`.  With `above`, `low` itself is not legal."""

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
    """Accept true and false, and nothing else."""

    def check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValidationError(f"must be true or false, not {quote(value)}")
        return value


class FlagOrAuto(CheckedField[bool | str]):
    """Accept true, false and auto."""

    def check(self, value: object) -> bool | str:
        if isinstance(value, bool) or value == "auto":
            return value
        raise ValidationError(f"must be true, false or auto, not {quote(value)}")


class Duration(CheckedField[str]):
    """Accept a number of seconds, or a number with a unit such as 30s, 10m or 2h; -1 means without end.

    The value is a duration in Go's form, in seconds: `600s`, `-1s`."""

    def check(self, value: object) -> str:
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match:
            seconds = int(match[1]) * _SECONDS[match[2]]
        elif isinstance(value, int) and not isinstance(value, bool):
            seconds = value
        else:
            raise ValidationError(f"must be a duration such as 30s, 10m or 2h, or -1, not {quote(value)}")
        return f"{int(check_number(seconds, -1, _LONGEST_S, whole=True))}s"


class Choice(CheckedField[str]):
    """Accept one of several words."""

    def __init__(self, choices: Iterable[str], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.choices = tuple(choices)

    def check(self, value: object) -> str:
        return check_choice(value, self.choices)


class Choices(CheckedField[frozenset[str]]):
    """Accept one of several words, or a list of them that is not empty."""

    def __init__(self, choices: Iterable[str], **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.choices = tuple(choices)

    def check(self, value: object) -> frozenset[str]:
        words = value if isinstance(value, list) else [value]
        if not words:
            raise ValidationError(f"must not be empty; name some of {', '.join(self.choices)}")
        return frozenset(check_items(words, lambda word: check_choice(word, self.choices)))


class Endpoint(CheckedField[str]):
    """Accept an http(s) address without credentials, query or fragment."""

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
    """Accept the name of an environment variable, or "" for a backend that needs no key."""

    def check(self, value: object) -> str:
        is_name = isinstance(value, str) and (not value or bool(_ENV_NAME.fullmatch(value)))
        if not isinstance(value, str) or not is_name or value.startswith("sk_"):
            raise ValidationError("must be the NAME of the variable that holds the key, such as OPENAI_API_KEY")
        return value


class NameList(CheckedField[tuple[str, ...]]):
    """Accept one name, or a list of names."""

    def check(self, value: object) -> tuple[str, ...]:
        return tuple(check_items(value, check_name)) if isinstance(value, list) else (check_name(value),)


class Windows(CheckedField[dict[str, int]]):
    """Accept a number of tokens, or a mapping of model to tokens; "*" stands for every other model."""

    def check(self, value: object) -> dict[str, int]:
        if not isinstance(value, dict):
            return {"*": check_tokens(value)}
        return {str(model): tokens for model, tokens in check_values(value, check_tokens).items()}


class Limits(CheckedField[dict[str, int]]):
    """Accept a number of calls, or a mapping of model to number; "*" stands for all other models together."""

    def check(self, value: object) -> dict[str, int]:
        if not isinstance(value, dict):
            return {"*": check_limit(value)}
        return {str(model): limit for model, limit in check_values(value, check_limit).items()}


class Weights(CheckedField[dict[str, float]]):
    """Accept a mapping of name to a number above 0."""

    def check(self, value: object) -> dict[str, float]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of name to number")
        return {
            str(name): weight
            for name, weight in check_values(value, lambda item: check_number(item, 0, math.inf, above=True)).items()
        }


class Names(CheckedField[dict[str, str]]):
    """Accept a mapping of name to name.  `keys` lists the legal keys; without it every name is legal."""

    def __init__(self, keys: Iterable[str] = (), **options: Unpack[Options]) -> None:
        super().__init__(**options)
        self.keys = tuple(keys)

    def check(self, value: object) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("must be a mapping of name to name")
        if self.keys:
            check_keys(value, self.keys)
        return {str(key): item for key, item in check_values(value, check_name).items()}


class FlagCondition(CheckedField[frozenset[str | bool]]):
    """Accept a condition on a tag that is true or false."""

    def check(self, value: object) -> frozenset[str | bool]:
        if not isinstance(value, bool):
            raise ValidationError(f"must be true or false, not {quote(value)}")
        return frozenset([value])


class Condition(CheckedField[frozenset[str | bool] | Range]):
    """Accept a condition on a tag: a word, a list of words, or {min, max} for a number."""

    def __init__(self, choices: Iterable[str] | None, high: float = math.inf, **options: Unpack[Options]) -> None:
        """`choices` None means a number of at most `high`."""
        super().__init__(**options)
        self.choices = tuple(choices) if choices is not None else None
        self.high = high

    def check(self, value: object) -> frozenset[str | bool] | Range:
        return self._range(value) if self.choices is None else self._words(value, self.choices)

    def _words(self, value: object, choices: tuple[str, ...]) -> frozenset[str | bool]:
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

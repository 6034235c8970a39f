"""Check single values of a policy, and write the messages about wrong ones."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from marshmallow import ValidationError

from app.redaction import excerpt

MOST_PROBLEMS = 39  # lines that a message prints; the checks may stop after so many
_MOST_NAMES = 100  # that are compared to find the nearest one
_MOST_LISTED = 20  # names that a message lists
_LONGEST_NAME = 64  # characters of a name that is compared; longer ones take too long
_LONGEST_TEXT = 4000  # characters of a name, an address or a reason: errors and headers repeat it
_LARGEST = 1e12  # of any number: 31 years in ms, which sockets accept as a deadline; sums of it stay finite
_MOST_SHOWN = 60  # characters of a wrong value

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


def check_limit(value: object) -> int:
    """Return a number of calls, 0 for no limit.  Raises ValidationError."""
    return int(check_number(value, 0, math.inf, whole=True))


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

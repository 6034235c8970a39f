"""Define the options that several commands have, and the types of their values."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class Span(NamedTuple):
    """Represent the time that a report covers, up to now."""

    text: str  # the value on the command line
    ms: int

    @property
    def hours(self) -> float:
        return self.ms / 3_600_000


class _SpanType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        if isinstance(value, Span):
            return value
        text = str(value).strip()
        match = re.fullmatch(r"(\d{1,6})([mhd])", text)
        if not match or not int(match[1]):
            self.fail(f"{value!r} is no time span; write 30m, 24h or 7d.", param, ctx)
        return Span(text, int(match[1]) * _UNITS_MS[match[2]])


def since_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Return the option --since of a report; its value is a Span."""
    help_ = "The time to report on, up to now: 30m, 24h, 7d …"
    return click.option("--since", type=_SpanType(), default=default, show_default=True, metavar="SPAN", help=help_)


class PositiveNumber(click.FloatRange):
    """Accept a number above 0 and at most `most`.  click's own range accepts `nan` too."""

    def __init__(self, most: float) -> None:
        super().__init__(0, most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number

"""What the commands share."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click
from flask import current_app

from app.cli.table import folded
from app.metrics.queries import Source
from app.metrics.store import Store
from app.runtime import Runtime
from app.storage import NoDatabase, StoreError
from app.words import utc

PROBLEM = "policy_error"  # extensions: why there is no runtime

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}

as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


class Span(NamedTuple):
    """How far a command looks back."""

    text: str  # as it was typed
    ms: int

    @property
    def hours(self) -> float:
        return self.ms / 3_600_000


class _SpanType(click.ParamType):  # type: ignore[type-arg]  # generic in newer versions only
    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Span:
        if isinstance(value, Span):
            return value
        text = value.strip()
        found = re.fullmatch(r"(\d{1,6})([mhd])", text)
        if not found or not int(found[1]):
            self.fail(f"{value!r} is no time span; write 30m, 24h or 7d.", param, ctx)
        return Span(text, int(found[1]) * _UNITS_MS[found[2]])


def since_option(default: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The option --since of a command: a Span."""
    help_ = "How far to look back: 30m, 24h, 7d …"
    return click.option("--since", type=_SpanType(), default=default, show_default=True, metavar="SPAN", help=help_)


class Above0(click.FloatRange):
    """Above 0, at most `most`; click's own range lets `nan` through."""

    def __init__(self, most: float) -> None:
        super().__init__(0, most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


def runtime() -> Runtime:
    """Return the runtime, its metrics opened for reading: a report makes and changes no database.

    Raises ClickException with every problem when the policy is not fit to serve."""
    if PROBLEM in current_app.extensions:
        raise click.ClickException(current_app.extensions[PROBLEM].message)
    rt: Runtime = current_app.extensions["runtime"]
    rt.store = store_to_read(rt.settings.db)
    return rt


def store_to_read(location: str) -> Store:
    """Return the metrics at LLR_DB for a report.  They are closed when the command ends."""
    store = Store(location, read_only=True)
    click.get_current_context().call_on_close(store.close)
    return store


def source_line(source: Source) -> str:
    """Return the first line of a report: the database, and since when it has rows."""
    since = "it holds no rows" if source.oldest_ms is None else f"rows since {utc(source.oldest_ms)}"
    return folded("", f"{source.database}: {since}", 0)


def no_rows(source: Source, begin_ms: int) -> str | None:
    """Return what a report says that has nothing to count; None when there are rows since `begin_ms`."""
    if source.oldest_ms is None or source.newest_ms is None:
        return f"no rows since {utc(begin_ms)}: {source.database} holds none yet"
    if source.newest_ms < begin_ms:
        ends = f"from {utc(source.oldest_ms)} to {utc(source.newest_ms)}"
        return f"no rows since {utc(begin_ms)}: those of {source.database} go {ends}; --since looks back further"
    return None


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def cells(row: dict[str, Any]) -> tuple[Any, ...]:
    """A row of a table, with yes and no for True and False."""
    return tuple(
        {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value for value in row.values()
    )


def percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def counted(number: int, word: str) -> str:
    """`1 call`, `2 calls`"""
    return f"{number} {word}{'' if number == 1 else 's'}"


def unreadable(error: StoreError) -> click.ClickException:
    """What a command says when the database cannot be used."""
    if isinstance(error, NoDatabase):
        return click.ClickException(str(error))
    return click.ClickException(f"{error}. `flask doctor` says how to mend it")

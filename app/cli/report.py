"""Open the database for a report, name it, and report its errors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from app.cli.table import folded
from app.metrics.queries import Source
from app.metrics.store import Store
from app.storage import NoDatabase, StoreError
from app.types import JsonObject
from app.words import utc


def store_to_read(location: str) -> Store:
    """Return the metrics at `location`, opened for reading; the end of the command closes them."""
    store = Store(location, read_only=True)
    click.get_current_context().call_on_close(store.close)
    return store


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turn an error of the database into an error of the command that says what to do."""
    try:
        yield
    except NoDatabase as error:
        raise click.ClickException(str(error)) from None
    except StoreError as error:
        raise click.ClickException(f"{error}. `flask doctor` prints the fix") from None


def source_line(source: Source) -> str:
    """Return the first line of a report: the database, and the time of its oldest row."""
    since = "it holds no rows" if source.oldest_ms is None else f"rows since {utc(source.oldest_ms)}"
    return folded("", f"{source.database}: {since}", 0)


def partial_sums(report: JsonObject) -> str:
    """Return the line of a report that leaves rows out, because the router has not summed them up yet; else ""."""
    if not (summed := report.get("summed")):
        return ""
    return (
        f"the numbers hold {summed['share']:.1%} of the calls, those since {summed['since']}: "
        "the router sums up the older ones in the background while it runs"
    )


def no_rows(source: Source, begin_ms: int) -> str | None:
    """Return the line of a report without rows, or None when the database has rows since `begin_ms`."""
    if source.oldest_ms is None or source.newest_ms is None:
        return f"no rows since {utc(begin_ms)}: {source.database} holds none yet"
    if source.newest_ms < begin_ms:
        span = f"from {utc(source.oldest_ms)} to {utc(source.newest_ms)}"
        return f"no rows since {utc(begin_ms)}: {source.database} has rows {span}; use a longer --since"
    return None

"""`flask metrics`: what was measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
from flask.cli import AppGroup

from app.background.observe import resolve
from app.cli.common import (
    Above0,
    Span,
    as_json,
    counted,
    no_rows,
    percent,
    print_json,
    runtime,
    since_option,
    source_line,
    unreadable,
)
from app.cli.table import folded, shortened, table, usd
from app.metrics.report import read_summary
from app.metrics.store import Store
from app.storage import StoreError, now_ms

metrics_group = AppGroup("metrics", help="What was measured.")


@metrics_group.command("summary")
@since_option("24h")
@as_json
def metrics_show(since: Span, as_json: bool) -> None:
    """Calls, success, latency, tokens and cost by backend and route.

    \b
    success         share of the calls that were answered, without those that
                    the client gave up
    fallb.          calls in place of a backend that failed or is cooling down
    p50, p95        half of the calls, and 95 of 100, took no longer
    tok in, out     tokens of prompts and of answers
    USD             - where a price or the tokens are unknown
    spilled         requests that another backend got, because the route's first
                    one was too slow or cooling down
    route pin       the client named a backend or a model
    """
    rt, now = runtime(), now_ms()
    begin_ms = now - since.ms
    try:
        source = rt.store.source()
        rt.look_up_names(resolve)
        summary, _ = read_summary(rt.store, rt.policy, rt.observations(), since.hours, now)
    except StoreError as error:
        raise unreadable(error) from None
    if as_json:
        print_json(summary)
        return
    if missing := no_rows(source, begin_ms):
        click.echo(missing)
        for line in _refusals(summary):
            click.echo(folded("", line, 0))
        return
    click.echo(f"{source_line(source)}\n")
    columns = ("fallbacks", "p50_latency", "p95_latency")
    titles = ("calls", "success", "fallb.", "p50 ms", "p95 ms", "tok in", "tok out", "USD")
    for key in ("backend", "route"):
        rows = [
            (
                *(entry[key], entry["calls"], percent(entry["success_rate"])),
                *(entry[column] for column in columns),
                *(*_tokens(entry), usd(entry["cost_usd"])),
            )
            for entry in summary[f"{key}s"]
        ]
        click.echo(table((key, *titles), rows) + "\n")
    click.echo("\n".join(folded("", line, 0) for line in _total(summary)))


def _tokens(entry: Mapping[str, Any]) -> tuple[str | None, ...]:
    """Tokens in and out; None where there are answers, and no backend told theirs."""
    numbers = entry["input_tokens"], entry["output_tokens"]
    unknown = entry["successes"] and not any(numbers)
    return tuple(None if unknown else shortened(number) for number in numbers)


def _total(summary: Mapping[str, Any]) -> Iterator[str]:
    total, savings = summary["total"], summary["savings"]
    shares = ((total["local_share"], "answered locally"), (total["spill_rate"], "spilled"))
    said = ", ".join(f"{share:.1%} {what}" for share, what in shares if share is not None)
    yield f"{total['requests']} requests in {summary['window_hours']:g} hours" + (f": {said}" if said else "")
    if savings:
        saved = "an unknown sum" if savings["saved_usd"] is None else f"{usd(savings['saved_usd'])} USD"
        unpriced = f" ({', '.join(savings['unpriced'])}: no price)" if savings["unpriced"] else ""
        yield f"saved {saved} against {savings['against']}{unpriced}"
    yield from _refusals(summary)
    if summed := summary.get("summed"):
        yield (
            f"the numbers hold {summed['share']:.1%} of the calls, those since {summed['since']}: "
            "the router sums up the older ones in the background while it runs"
        )
    if summary["rows_dropped"]:
        yield f"{summary['rows_dropped']} calls are missing: the database could not be written"


def _refusals(summary: Mapping[str, Any]) -> Iterator[str]:
    """Requests that were refused before any call are in no table: they went to no backend and no route."""
    if refusals := summary["refusals"]:
        codes = ", ".join(f"{number} {code}" for code, number in refusals.items())
        yield f"{counted(sum(refusals.values()), 'request')} refused before any call: {codes}"


@metrics_group.command("prune")
@click.option("--days", type=Above0(36500), metavar="DAYS", help="Default: LLR_RETENTION_DAYS, else 30.")
@as_json
def metrics_prune(days: float | None, as_json: bool) -> None:
    """Delete rows older than so many days, in small steps.  Totals of /metrics stay."""
    rt = runtime()
    days = days or rt.settings.retention_days
    before = now_ms() - int(days * 86_400_000)
    gone, store = 0, Store(rt.settings.db)
    try:
        rt.store.source()  # there is something to delete from: a command makes no database
        while step := store.prune(before):
            gone += step
            if sys.stderr.isatty():
                click.echo(f"\r{gone} rows", nl=False, err=True)
        source = rt.store.source()
    except StoreError as error:
        raise unreadable(error) from None
    finally:
        store.close()
    if sys.stderr.isatty():
        click.echo("\r", nl=False, err=True)
    if as_json:
        print_json({**source.document(), "deleted": gone, "before_ms": before})
    else:
        click.echo(source_line(source))
        click.echo(f"deleted {counted(gone, 'row')} older than {days:g} day{'' if days == 1 else 's'}")

"""`flask metrics`: print the measurements, and delete old ones."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click
from flask.cli import AppGroup

from app.beliefs.local import resolve
from app.cli.common import counted, get_services, percent, print_json
from app.cli.options import PositiveNumber, Span, as_json, since_option
from app.cli.report import database_errors, no_rows, partial_sums, source_line
from app.cli.table import folded, shortened, table, usd
from app.metrics.report import read_summary
from app.metrics.servers import is_described
from app.metrics.store import Store
from app.services import WORKER_STALE_MS
from app.storage import now_ms
from app.types import JsonObject
from app.words import duration

metrics_group = AppGroup("metrics", help="Print or delete the measurements.")


@metrics_group.command("summary")
@since_option("24h")
@as_json
def metrics_show(since: Span, as_json: bool) -> None:
    """Print calls, success, latency, tokens and cost by backend and by route.

    \b
    success         share of the calls that succeeded; calls that the client
                    cancelled do not count
    fallb.          calls in place of a backend that failed, or whose circuit is
                    open
    p50, p95        50 % and 95 % of the calls took at most this time
    tok in, out     tokens of prompts and of replies
    USD             - when a price or the tokens are unknown
    spilled         requests that went to another backend, because the first
                    backend of the route was too slow, or had a long queue or an
                    open circuit
    route pin       the client named a backend or a model
    model now       the models that the servers have while the router runs, and
                    the expected time of a call: wait for a place, load, rest
    """
    services, now = get_services(), now_ms()
    begin_ms = now - since.ms
    with database_errors():
        source = services.store.source()
        services.beliefs.local.refresh(resolve)
        workers = services.store.workers(now, WORKER_STALE_MS)
        observations = services.beliefs.observations()
        summary, _ = read_summary(services.store, services.policy, observations, workers, since.hours, now)
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
    if models := list(_models(summary)):
        click.echo(table(_MODEL_TITLES, models) + "\n")
    click.echo("\n".join(folded("", line, 0) for line in _total(summary)))


_MODEL_TITLES = ("model now", "loaded", "window", "loads", "evicted", "wait ms", "load ms", "warm ms")


def _models(summary: JsonObject) -> Iterator[tuple[object, ...]]:
    """Yield the models that the running workers report, with the parts of the expected time."""
    for server in summary["servers"]:
        for row in filter(is_described, server["models"]):
            expected = row["expected"]
            yield (
                f"{server['backend']}/{row['model']}",
                {True: "yes", False: "no", None: None}[row["loaded"]],
                *(row["window"], row["loads"], row["evictions"]),
                *(expected.get(f"{name}_ms") for name in ("wait", "load", "warm")),
            )


def _tokens(entry: JsonObject) -> tuple[str | None, ...]:
    """Return the tokens in and out; None when calls succeeded but no backend reported tokens."""
    numbers = entry["input_tokens"], entry["output_tokens"]
    unknown = entry["successes"] and not any(numbers)
    return tuple(None if unknown else shortened(number) for number in numbers)


def _total(summary: JsonObject) -> Iterator[str]:
    total, savings = summary["total"], summary["savings"]
    shares = ((total["local_share"], "answered locally"), (total["spill_rate"], "spilled"))
    text = ", ".join(f"{share:.1%} {name}" for share, name in shares if share is not None)
    yield f"{total['requests']} requests in {summary['window_hours']:g} hours" + (f": {text}" if text else "")
    for number, median, what in (
        (total["waits"], total["p50_wait"], "a place"),
        (total["load_waits"], total["p50_load"], "a load"),
    ):
        if number:
            yield f"{counted(number, 'call')} waited for {what}, in the median {duration(median)}"
    if total["escalated"]:
        yield f"{counted(total['escalated'], 'request')} escalated: `flask verify report` has the reasons"
    if savings:
        saved = "an unknown amount" if savings["saved_usd"] is None else f"{usd(savings['saved_usd'])} USD"
        unpriced = f" ({', '.join(savings['unpriced'])}: no price)" if savings["unpriced"] else ""
        yield f"saved {saved} against {savings['against']}{unpriced}"
    yield from _refusals(summary)
    if partial := partial_sums(summary):
        yield partial
    if summary["rows_dropped"]:
        yield f"{summary['rows_dropped']} calls are missing: the router could not write the database"


def _refusals(summary: JsonObject) -> Iterator[str]:
    """Yield the refused requests.  They are in no table, because they went to no backend and no route."""
    if refusals := summary["refusals"]:
        codes = ", ".join(f"{number} {code}" for code, number in refusals.items())
        yield f"{counted(sum(refusals.values()), 'request')} refused before any call: {codes}"


@metrics_group.command("prune")
@click.option("--days", type=PositiveNumber(36500), metavar="DAYS", help="Default: LLR_RETENTION_DAYS, else 30.")
@as_json
def metrics_prune(days: float | None, as_json: bool) -> None:
    """Delete rows that are older than DAYS, in small steps.  The totals of /metrics stay."""
    services = get_services()
    days = days or services.settings.retention_days
    before = now_ms() - int(days * 86_400_000)
    deleted = 0
    with database_errors(), contextlib.closing(Store(services.settings.db)) as store:
        services.store.source()  # raises when there is no database, because a command makes none
        while store.catch_up():
            pass  # only rows that are in the totals are deleted
        while step := store.prune(before):
            deleted += step
            if sys.stderr.isatty():
                click.echo(f"\r{deleted} rows", nl=False, err=True)
        source = services.store.source()
    if sys.stderr.isatty():
        click.echo("\r", nl=False, err=True)
    if as_json:
        print_json({**source.document(), "deleted": deleted, "before_ms": before})
    else:
        click.echo(source_line(source))
        click.echo(f"deleted {counted(deleted, 'row')} older than {days:g} day{'' if days == 1 else 's'}")

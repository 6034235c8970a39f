"""`flask metrics` and `flask ab`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

import click
from flask.cli import AppGroup

from app.background.observe import resolve
from app.cli.common import Above0, as_json, print_json, runtime
from app.cli.table import shortened, table
from app.metrics.summary import ab_report, metrics_summary, overview
from app.storage import StoreError, now_ms

hours_option = click.option("--hours", type=Above0(8760), default=24.0, show_default=True)

metrics_group = AppGroup("metrics", help="What was measured.")


@metrics_group.command("summary")
@hours_option
@as_json
def metrics_show(hours: float, as_json: bool) -> None:
    """Calls, success, latency, tokens and cost by backend and route."""
    rt = runtime()
    try:
        rt.look_up_names(resolve)
        tallies = rt.store.tallies(now_ms() - int(hours * 3_600_000))
        extra = overview(tallies, rt.policy, rt.observations())
        summary = metrics_summary(tallies, hours, {**extra, "rows_dropped": rt.store.dropped()})
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json(summary)
        return
    columns = ("fallbacks", "p50_latency", "p95_latency")
    titles = ("calls", "success", "fallb.", "p50 ms", "p95 ms", "in", "out", "USD")
    for key in ("backend", "route"):
        rows = [
            (
                *(entry[key], entry["calls"], _percent(entry["success_rate"])),
                *(entry[column] for column in columns),
                *(*_tokens(entry), _usd(entry["cost_usd"])),
            )
            for entry in summary[f"{key}s"]
        ]
        click.echo(table((key, *titles), rows) + "\n")
    click.echo("\n".join(_total(summary)))


def _tokens(entry: Mapping[str, Any]) -> tuple[str, str]:
    return shortened(entry["input_tokens"]), shortened(entry["output_tokens"])


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


def _usd(cost: float | None) -> str | None:
    return None if cost is None else shortened(round(cost, 4 if cost < 10 else 2))


def _total(summary: Mapping[str, Any]) -> Iterator[str]:
    total, savings = summary["total"], summary["savings"]
    shares = ((total["local_share"], "answered locally"), (total["spill_rate"], "spilled"))
    said = ", ".join(f"{share:.1%} {what}" for share, what in shares if share is not None)
    yield f"{total['requests']} requests in {summary['window_hours']:g} hours" + (f": {said}" if said else "")
    if savings:
        saved = "an unknown sum" if savings["saved_usd"] is None else f"{savings['saved_usd']:.2f} USD"
        unpriced = f" ({', '.join(savings['unpriced'])}: no price)" if savings["unpriced"] else ""
        yield f"saved {saved} against {savings['against']}{unpriced}"
    if summary["rows_dropped"]:
        yield f"{summary['rows_dropped']} calls are missing: the database could not be written"


@metrics_group.command("prune")
@click.option("--days", type=Above0(36500), help="Default: LLR_RETENTION_DAYS.")
@as_json
def metrics_prune(days: float | None, as_json: bool) -> None:
    """Delete rows older than so many days, in small steps."""
    rt = runtime()
    before = now_ms() - int((days or rt.settings.retention_days) * 86_400_000)
    gone = 0
    try:
        while step := rt.store.prune(before):
            gone += step
            if sys.stderr.isatty():
                click.echo(f"\r{gone} rows", nl=False, err=True)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if sys.stderr.isatty():
        click.echo("\r", nl=False, err=True)
    if as_json:
        print_json({"deleted": gone, "before_ms": before})
    else:
        click.echo(f"deleted {gone} rows")


ab_group = AppGroup("ab", help="The A/B trial.")


@ab_group.command("report")
@hours_option
@as_json
def ab_show(hours: float, as_json: bool) -> None:
    """Each primary beside its candidate, with a recommendation."""
    rt = runtime()
    try:
        report = ab_report(rt.store.tallies(now_ms() - int(hours * 3_600_000)), rt.policy.ab, hours)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json(report)
        return
    columns = (
        "primary", "candidate", "primaryAvgLatency", "candidateAvgLatency", "primaryP95Latency", "candidateP95Latency",
        "candidateSamples", "recommendation",
    )  # fmt: skip
    titles = ("primary", "candidate", "avg ms", "cand.", "p95 ms", "cand.", "samples", "recommendation")
    click.echo(table(titles, [tuple(pair[column] for column in columns) for pair in report["pairs"]]))

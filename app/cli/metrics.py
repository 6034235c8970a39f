"""`flask metrics` and `flask ab`."""

from __future__ import annotations

import click
from flask.cli import AppGroup

from app.background.observe import resolve
from app.cli.common import Above0, as_json, print_json, runtime
from app.cli.table import table
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
    columns = (
        "calls",
        "success_rate",
        "fallbacks",
        "p50_latency",
        "p95_latency",
        "input_tokens",
        "output_tokens",
        "cost_usd",
    )
    titles = ("calls", "success", "fallb.", "p50 ms", "p95 ms", "in", "out", "USD")
    for key in ("backend", "route"):
        rows = [(entry[key], *(entry[column] for column in columns)) for entry in summary[f"{key}s"]]
        click.echo(table((key, *titles), rows) + "\n")


@metrics_group.command("prune")
@click.option("--days", type=Above0(36500), help="Default: LLR_RETENTION_DAYS.")
def metrics_prune(days: float | None) -> None:
    """Delete rows older than so many days, in small steps."""
    rt = runtime()
    before = now_ms() - int((days or rt.settings.retention_days) * 86_400_000)
    gone = 0
    try:
        while step := rt.store.prune(before):
            gone += step
            click.echo(f"\r{gone} rows", nl=False, err=True)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"\rdeleted {gone} rows")


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
    titles = ("primary", "candidate", "avg ms", "avg ms", "p95 ms", "p95 ms", "samples", "recommendation")
    click.echo(table(titles, [tuple(pair[column] for column in columns) for pair in report["pairs"]]))

"""`flask egress`: what left this machine."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from flask.cli import with_appcontext

from app.cli.common import as_json, print_json, runtime, span_ms
from app.cli.table import table
from app.metrics.summary import egress_report
from app.storage import StoreError, now_ms


@click.command()
@click.option("--since", default="24h", show_default=True, help="30m, 24h, 7d …")
@as_json
@with_appcontext
def egress(since: str, as_json: bool) -> None:
    """Every call to a backend that is not local: when, where to, how much, and why.  Never what was said."""
    store = runtime().store
    try:
        report = egress_report(store.egress(now_ms() - span_ms(since)))
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        print_json(report)
        return
    rows = []
    for call in report["calls"]:
        when = datetime.fromtimestamp(call["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
        rows.append((when, call["destination"], call["model"], call["route"], call["reason"], call["sent_bytes"]))
    click.echo(table(("UTC", "destination", "model", "route", "reason", "bytes"), rows))
    click.echo(f"\n{report['total']['calls']} calls, {report['total']['sent_bytes']} bytes sent")

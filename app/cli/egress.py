"""`flask egress`: what left this machine."""

from __future__ import annotations

from datetime import UTC, datetime

import click
from flask.cli import with_appcontext

from app.cli.common import (
    Span,
    as_json,
    counted,
    no_rows,
    print_json,
    runtime,
    since_option,
    source_line,
    unreadable,
)
from app.cli.table import table
from app.metrics.summary import Egress
from app.storage import StoreError, now_ms
from app.words import utc


@click.command()
@since_option("24h")
@as_json
@with_appcontext
def egress(since: Span, as_json: bool) -> None:
    """Every call to a backend that is not local: when, where to, how much, and why.  Never what was said.

    \b
    The column `reason`:
      route         the route names this backend first
      pin           the client named it as its model
      spill, fit    the route's first backend was too slow, or its window too small
      fallback      the backend before it failed
      cooling       the route's first backend was cooling down after failures
      shadow        mirrored for the A/B trial
      continuation  the conversation is kept there
    """
    store, report, begin_ms = runtime().store, Egress(), now_ms() - since.ms
    try:
        source = store.source()
        calls = [call for page in store.egress(begin_ms) for call in report.calls(page)]
    except StoreError as error:
        raise unreadable(error) from None
    if as_json:
        print_json({**source.document(), **report.totals(), "calls": calls})
        return
    if missing := no_rows(source, begin_ms):
        click.echo(missing)
        return
    click.echo(source_line(source))
    if not calls:
        click.echo(f"no call since {utc(begin_ms)} went to a backend that is not local")
        return
    rows = []
    for call in calls:
        when = datetime.fromtimestamp(call["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
        rows.append((when, call["destination"], call["model"], call["route"], call["reason"], call["sent_bytes"]))
    click.echo(table(("UTC", "destination", "model", "route", "reason", "bytes"), rows))
    click.echo()
    totals = report.totals()
    sums_by_name = totals["destinations"]
    if len(sums_by_name) > 1:
        sums_by_name = {**sums_by_name, "in all": totals["total"]}
    for name, sums in sums_by_name.items():
        click.echo(f"{name}: {counted(sums['calls'], 'call')}, {counted(sums['sent_bytes'], 'byte')} sent")

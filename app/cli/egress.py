"""`flask egress`: what left this machine."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime

import click
from flask import current_app

from app.cli.table import table
from app.metrics.summary import egress_report
from app.storage import StoreError, now_ms

_UNITS_MS = {"m": 60_000, "h": 3_600_000, "d": 86_400_000}


def span_ms(text: str) -> int:
    """Milliseconds of `30m`, `24h` or `7d`.  Raises BadParameter."""
    found = re.fullmatch(r"(\d{1,6})([mhd])", text.strip())
    if not found or not int(found[1]):
        raise click.BadParameter(f"{text!r} is no time span; write 30m, 24h or 7d")
    return int(found[1]) * _UNITS_MS[found[2]]


@click.command()
@click.option("--since", default="24h", show_default=True, help="30m, 24h, 7d …")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def egress(since: str, as_json: bool) -> None:
    """Every call to a backend that is not local: when, where to, how much, and why.  Never what was said."""
    store = current_app.extensions["runtime"].store
    try:
        report = egress_report(store.egress(now_ms() - span_ms(since)))
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(report, indent=2))
        return
    rows = []
    for call in report["calls"]:
        when = datetime.fromtimestamp(call["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
        rows.append((when, call["destination"], call["model"], call["route"], call["reason"], call["sent_bytes"]))
    click.echo(table(("UTC", "destination", "model", "route", "reason", "bytes"), rows))
    click.echo(f"\n{report['total']['calls']} calls, {report['total']['sent_bytes']} bytes sent")

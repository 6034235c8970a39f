"""`flask egress`: what left this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

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
from app.metrics.egress import Ledger
from app.storage import StoreError, now_ms
from app.words import utc

_LATEST = 20  # calls that are listed without --all or --json: as many as a screen shows


@click.command()
@since_option("24h")
@click.option("--all", "every", is_flag=True, help=f"List every call, not only the latest {_LATEST}.")
@as_json
@with_appcontext
def egress(since: Span, every: bool, as_json: bool) -> None:
    """Sums and calls to backends that are not local: when, where to, how much, and why.  Never what was said.

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
    store, ledger, begin_ms = runtime().store, Ledger(), now_ms() - since.ms
    calls: deque[dict[str, Any]] = deque(maxlen=None if every or as_json else _LATEST)
    try:
        source = store.source()
        for page in store.egress(begin_ms):
            calls.extend(ledger.entries(page))
    except StoreError as error:
        raise unreadable(error) from None
    if as_json:
        print_json({**source.document(), **ledger.totals(), "calls": list(calls)})
        return
    if missing := no_rows(source, begin_ms):
        click.echo(missing)
        return
    click.echo(source_line(source))
    if not calls:
        click.echo(f"no call since {utc(begin_ms)} went to a backend that is not local")
        return
    click.echo("\n".join((*_sums(ledger.totals()), "", *_list(calls, ledger.totals()["total"]["calls"]))))


def _sums(totals: Mapping[str, Any]) -> Iterator[str]:
    for title, group in (("by destination", totals["destinations"]), ("by reason", totals["reasons"])):
        yield title
        largest = sorted(group.items(), key=lambda one: -one[1]["sent_bytes"])
        for name, sums in (*largest, *([("in all", totals["total"])] if len(group) > 1 else [])):
            yield f"  {name}: {counted(sums['calls'], 'call')}, {counted(sums['sent_bytes'], 'byte')} sent"


def _list(calls: Sequence[Mapping[str, Any]], total: int) -> Iterator[str]:
    if left_out := total - len(calls):
        yield f"the latest {len(calls)} calls; {left_out} earlier ones are left out (--all lists them)"
    rows = []
    for call in calls:
        when = datetime.fromtimestamp(call["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
        rows.append((when, call["destination"], call["model"], call["route"], call["reason"], call["sent_bytes"]))
    yield table(("UTC", "destination", "model", "route", "reason", "bytes"), rows)

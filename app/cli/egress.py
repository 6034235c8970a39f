"""`flask egress`: list the calls that left this machine."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import click
from flask.cli import with_appcontext

from app.cli.common import counted, get_services, print_json
from app.cli.options import Span, as_json, since_option
from app.cli.report import database_errors, no_rows, source_line
from app.cli.table import table
from app.metrics.egress import Ledger
from app.storage import now_ms
from app.types import JsonDict, JsonObject
from app.words import utc

_LATEST = 20  # calls that are listed without --all and --json: a screen shows so many


@click.command()
@since_option("24h")
@click.option("--all", "every", is_flag=True, help=f"List every call, not only the latest {_LATEST}.")
@as_json
@with_appcontext
def egress(since: Span, every: bool, as_json: bool) -> None:
    """List the calls that left this machine.

    Prints the time, the destination, the size and the reason of calls to backends that are not local, and no text of
    a prompt.

    \b
    The column `reason`:
      route         it is the first backend of the route
      pin           the client named it as its model
      spill, fit    the first backend of the route was too slow, or its context
                    window was too small
      queue         the queue of the route's first backend was too long
      capability    the model of the route's first backend lacks tools or vision
      fallback      an earlier backend failed
      cooling       the circuit of the route's first backend was open
      escalated     an earlier answer did not hold
      shadow        it is a shadow call of the A/B trial
      continuation  the backend keeps the conversation
    """
    store, ledger, begin_ms = get_services().store, Ledger(), now_ms() - since.ms
    calls: deque[JsonDict] = deque(maxlen=None if every or as_json else _LATEST)
    with database_errors():
        source = store.source()
        for page in store.egress(begin_ms):
            calls.extend(ledger.entries(page))
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


def _sums(totals: JsonObject) -> Iterator[str]:
    for title, group in (("by destination", totals["destinations"]), ("by reason", totals["reasons"])):
        yield title
        largest = sorted(group.items(), key=lambda one: -one[1]["sent_bytes"])
        for name, sums in (*largest, *([("in all", totals["total"])] if len(group) > 1 else [])):
            yield f"  {name}: {counted(sums['calls'], 'call')}, {counted(sums['sent_bytes'], 'byte')} sent"


def _list(calls: Sequence[JsonObject], total: int) -> Iterator[str]:
    if earlier := total - len(calls):
        yield f"the latest {len(calls)} calls; --all lists {earlier} earlier ones too"
    rows = []
    for call in calls:
        time = datetime.fromtimestamp(call["ts"] / 1000, UTC).strftime("%m-%d %H:%M:%S")
        rows.append((time, call["destination"], call["model"], call["route"], call["reason"], call["sent_bytes"]))
    yield table(("UTC", "destination", "model", "route", "reason", "bytes"), rows)

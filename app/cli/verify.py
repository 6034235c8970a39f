"""`flask verify`: report how answers were judged."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask.cli import AppGroup

from app.cli.common import counted, get_services, percent, print_json
from app.cli.options import Span, as_json, since_option
from app.cli.report import database_errors, no_rows, partial_sums, source_line
from app.cli.table import folded, usd
from app.cli.tune import verify_tune
from app.metrics.judged import judged_report
from app.storage import now_ms
from app.types import JsonObject
from app.words import duration, utc

verify_group = AppGroup("verify", help="Report on judged answers, and find the doubt to write.")
verify_group.add_command(verify_tune)

_INDENT = 19


@verify_group.command("report")
@since_option("7d")
@as_json
def verify_report(since: Span, as_json: bool) -> None:
    """Print how many answers were kept and escalated, the added time, and the money saved, by route.

    \b
    asked first      requests whose first answer came from the cheap model and was
                     held until it was judged
    kept             the answer was sent
    escalated        the answer was not sent, and the stronger target was asked;
                     with the part of the judgement that decided
    released         the answer was sent before it was judged, because it could
                     be held no longer
    observed         the answer was sent as it came: the request was private, or
                     the daily share of the route was used up
    saved            the cost of the answers that were sent at the stronger
                     target, minus the cost of all first answers and second
                     opinions; unknown while a price is missing
    """
    services, begin_ms = get_services(), now_ms() - since.ms
    with database_errors():
        source = services.store.source()
        window = services.store.window(begin_ms)
    report = judged_report(window.aggregates, services.policy)
    if as_json:
        print_json({**source.document(), "since": utc(begin_ms), **window.summed.document(), **report})
        return
    click.echo(no_rows(source, begin_ms) or source_line(source))
    click.echo("\n".join(_lines(report, utc(begin_ms))))
    if partial := partial_sums(window.summed.document()):
        click.echo(folded("", partial, 0))


def _lines(report: JsonObject, since: str) -> Iterator[str]:
    routes = report["routes"]
    if not routes:
        yield folded("", f"no route has judged answers since {since}, and none has `verify` (docs/cookbook.md)", 0)
        return
    yield folded("", f"answers judged since {since}", 0)
    for name, row in (*((row["route"], row) for row in routes), *((("all", report["total"]),) if routes[1:] else ())):
        yield f"\n{name}"
        yield from (folded(f"  {title}", text, _INDENT) for title, text in _entries(row))


def _entries(row: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield the lines of a route: title and text."""
    first, limit = row["asked_first"], row.get("daily_share")
    yield "asked first", f"{first} of {counted(row['requests'], 'request')}"
    yield "kept", _share(row["kept"], first)
    reasons = ", ".join(f"{number} {reason}" for reason, number in row["reasons"].items())
    at_most = "" if limit is None else f"; at most {limit:.0%} of the requests of a day"
    yield "escalated", _share(row["escalated"], first) + (f": {reasons}" if reasons else "") + at_most
    yield "released", _share(row["released"], first)
    yield "observed", str(row["observed"])
    if row["avg_added_ms"] is not None:
        yield "added time", f"{duration(row['avg_added_ms'])} on average, {duration(row['p95_added_ms'])} at p95"
    cost = "an unknown cost" if row["second_opinion_usd"] is None else f"{usd(row['second_opinion_usd'])} USD"
    yield "second opinions", f"{row['second_opinions']}" + (f", {cost}" if row["second_opinions"] else "")
    yield "saved", _saved(row)


def _share(number: int, total: int) -> str:
    return f"{number} ({percent(number / total)})" if total else str(number)


def _saved(row: JsonObject) -> str:
    against = f" against {row['against']}" if row.get("against") else ""
    if row["unpriced"]:
        return f"an unknown amount{against}: no price for {', '.join(row['unpriced'])}"
    if row["saved_usd"] is None:
        return "an unknown amount: the policy no longer has `verify` for all of these requests"
    missing = row["sent"] - row["counted"]
    return f"{usd(row['saved_usd'])} USD{against}" + (
        f"; {counted(missing, 'answer')} without known tokens not counted" if missing else ""
    )

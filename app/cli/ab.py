"""`flask ab`: report on the A/B trial."""

from __future__ import annotations

from collections.abc import Iterator

import click
from flask.cli import AppGroup

from app.cli.common import counted, get_services, percent, print_json
from app.cli.options import Span, as_json, since_option
from app.cli.report import database_errors, no_rows, source_line
from app.cli.table import folded, table
from app.metrics.summary import ab_report
from app.metrics.trial import ENOUGH_SAMPLES, INSUFFICIENT
from app.storage import now_ms
from app.types import JsonObject

ab_group = AppGroup("ab", help="Report on the A/B trial.")

_TITLES = ("", "backend", "success", "avg ms", "p95 ms", "empty", "cut", "refused")
_COLUMNS = ("SuccessRate", "AvgLatency", "P95Latency", "EmptyShare", "CutShare", "RefusedShare")


@ab_group.command("report")
@since_option("24h")
@as_json
def ab_show(since: Span, as_json: bool) -> None:
    """Compare each primary with its candidate on the same requests.

    \b
    success             share of the calls that succeeded
    avg, p95            whole calls, of requests on which both succeeded
    empty, cut          replies without text, and replies that reached the token
                        limit
    refused             replies that a content filter stopped, or that are marked
                        as a refusal
    doubt               the probability that an answer is wrong, on average
    agreement           how far the two answers to one request say the same,
                        0 to 1

    \b
    promote             nothing is against the candidate; its answers are no
                        worse, and it is faster or cheaper
    hold                a reason against the candidate follows
    faster, slower      the candidate's calls on average
    quality no worse    the candidate's mean doubt is at most 0.02 higher
    quality undecided   the bounds of the difference are too far apart
    quality not judged  no pair of answers was judged
    insufficient-data   the candidate got fewer than 20 requests
    """
    services, begin_ms = get_services(), now_ms() - since.ms
    with database_errors():
        source = services.store.source()
        report = ab_report(services.store.pairs(begin_ms), services.policy.ab, since.hours, services.policy.echoes)
    if as_json:
        print_json({**source.document(), **report})
        return
    click.echo(no_rows(source, begin_ms) or source_line(source))
    click.echo("\n".join(_lines(report)))


def _lines(report: JsonObject) -> Iterator[str]:
    """Yield two rows for each pair, because one line is too short for both backends."""
    if not report["pairs"]:
        yield "no trial: the policy names no `ab.candidates` (docs/cookbook.md has an example)"
        return
    if not report["enabled"]:
        yield "the trial is off: `ab.enabled` is false in the policy\n"
    for pair in report["pairs"]:
        yield table(_TITLES, [_side(pair, side) for side in ("primary", "candidate")])
        samples = counted(pair["candidateSamples"], "request")
        yield f"the candidate got {samples}; both backends succeeded on {pair['pairs']}"
        if pair["lengthRatio"] is not None:
            yield f"the candidate's replies are {pair['lengthRatio']:g} times as long"
        yield from _quality(pair["quality"])
        yield f"recommendation: {pair['recommendation']}{_missing_samples(pair)}"
        for reason in pair["reasons"]:
            yield folded("-", reason, 2)


def _quality(quality: JsonObject) -> Iterator[str]:
    """Yield what the doubts of the judged answers say."""
    if not quality["n"]:
        return
    requests = counted(quality["n"], "request")
    agreement = "" if quality["agreement"] is None else f", agreement {quality['agreement']:.2f}"
    yield f"judged on {requests}: doubt {quality['doubt']:.2f}, primary {quality['primaryDoubt']:.2f}{agreement}"
    low, high = quality["difference"]
    yield f"difference of the doubts: {low:+.3f} to {high:+.3f}; at most {quality['margin']:+g} is no worse"


def _side(pair: JsonObject, side: str) -> tuple[object, ...]:
    success, average, p95, *shares = (pair[f"{side}{column}"] for column in _COLUMNS)
    return (side, pair[side], percent(success), average, p95, *map(percent, shares))


def _missing_samples(pair: JsonObject) -> str:
    missing = ENOUGH_SAMPLES - pair["candidateSamples"]
    if pair["recommendation"] != INSUFFICIENT or missing <= 0:
        return ""
    return f", {counted(missing, 'more sample')} needed"

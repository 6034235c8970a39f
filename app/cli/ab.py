"""`flask ab`: the A/B trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import click
from flask.cli import AppGroup

from app.cli.common import (
    Span,
    as_json,
    counted,
    no_rows,
    percent,
    print_json,
    runtime,
    since_option,
    source_line,
    unreadable,
)
from app.cli.table import folded, table
from app.metrics.summary import ab_report
from app.metrics.trial import ENOUGH_SAMPLES, INSUFFICIENT
from app.storage import StoreError, now_ms

ab_group = AppGroup("ab", help="The A/B trial.")

_TITLES = ("", "backend", "answered", "avg ms", "p95 ms", "empty", "cut", "refused")
_COLUMNS = ("SuccessRate", "AvgLatency", "P95Latency", "EmptyShare", "CutShare", "RefusedShare")


@ab_group.command("report")
@since_option("24h")
@as_json
def ab_show(since: Span, as_json: bool) -> None:
    """Compare each primary with its candidate, on the requests that were mirrored.

    \b
    answered           share of the mirrored requests that got an answer
    avg, p95           whole calls, of requests that both answered
    empty, cut         answers without text, and ended by the token limit
    refused            stopped by a content filter, or marked as a refusal

    \b
    faster             on average, and not slower at p95
    slower             on average
    quality not judged  no report says which answers are better
    hold               something speaks against the candidate; it is named
    insufficient-data  fewer than 20 requests were mirrored
    """
    rt, begin_ms = runtime(), now_ms() - since.ms
    try:
        source = rt.store.source()
        report = ab_report(rt.store.pairs(begin_ms), rt.policy.ab, since.hours, rt.policy.echoes)
    except StoreError as error:
        raise unreadable(error) from None
    if as_json:
        print_json({**source.document(), **report})
        return
    click.echo(no_rows(source, begin_ms) or source_line(source))
    click.echo("\n".join(_trial(report)))


def _trial(report: Mapping[str, Any]) -> Iterator[str]:
    """Two rows a pair, because a line has no room for both."""
    if not report["pairs"]:
        yield "no trial: the policy names no `ab.candidates` (docs/cookbook.md has an example)"
        return
    if not report["enabled"]:
        yield "the trial is off: `ab.enabled` is false in the policy, so nothing is mirrored now\n"
    for pair in report["pairs"]:
        yield table(_TITLES, [_side(pair, side) for side in ("primary", "candidate")])
        yield f"{counted(pair['candidateSamples'], 'request')} mirrored, {pair['pairs']} answered by both"
        if pair["lengthRatio"] is not None:
            yield f"length of the answers: candidate {pair['lengthRatio']:g} times the primary"
        yield f"recommendation: {pair['recommendation']}{_missing(pair)}"
        for reason in pair["reasons"]:
            yield folded("-", reason, 2)


def _side(pair: Mapping[str, Any], side: str) -> tuple[Any, ...]:
    answered, average, p95, *shares = (pair[f"{side}{column}"] for column in _COLUMNS)
    return (side, pair[side], percent(answered), average, p95, *map(percent, shares))


def _missing(pair: Mapping[str, Any]) -> str:
    short = pair["recommendation"] == INSUFFICIENT and ENOUGH_SAMPLES - pair["candidateSamples"]
    return f", {counted(short, 'more sample')} needed" if short and short > 0 else ""

"""`flask policy replay`: what another policy would have made of past requests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

import click

from app import settings
from app.background.observe import Locality
from app.cli.common import (
    Span,
    as_json,
    counted,
    no_rows,
    print_json,
    since_option,
    source_line,
    store_to_read,
    unreadable,
)
from app.cli.table import folded, table, usd, wrapped
from app.errors import PolicyError
from app.metrics.replay import Change, Replay, Verdict
from app.metrics.store import Store
from app.policy.check import check, resolver
from app.storage import StoreError, now_ms
from app.words import utc

_RESOLVE_S = 1.0
_MEANING = {
    "elsewhere": "another backend or model first",
    "order": "the same first, other fallbacks behind it",
    "rule": "the same backends by another route",
    "refused": "no backend of this policy may or can take it",
}


@click.command("replay")
@click.argument("file")
@since_option("7d")
@click.option("--list", "listed", is_flag=True, help="Also a line for each request that changes.")
@as_json
def policy_replay(file: str, since: Span, listed: bool, as_json: bool) -> None:
    """Decide past requests again, by the policy FILE (- reads standard input): what would go elsewhere, and what would
    that cost?  Reads the metrics; calls nothing.

    Texts are not kept, so which requests are private stays as it was: new detectors cannot be tried on them."""
    try:
        policy = check(file).policy
        store = store_to_read(settings.load(os.environ).db)
    except PolicyError as error:
        raise click.ClickException(f"the policy is not fit to serve\n{error.message}") from None
    locality = Locality(policy.backends)
    resolve = resolver(_RESOLVE_S)
    locality.refresh(lambda host: list(resolve(host)))
    replay = Replay(policy, locality.local)
    begin_ms = now_ms() - since.ms
    try:
        source = store.source()
        for verdict in _verdicts(store, begin_ms, replay):
            if listed and verdict.change != Change.UNCHANGED:
                click.echo(_line(verdict), err=as_json)
    except StoreError as error:
        raise unreadable(error) from None
    report = {**source.document(), "policy": policy.version, "since": utc(begin_ms), **replay.report()}
    if as_json:
        print_json(report)
    else:
        click.echo(no_rows(source, begin_ms) or source_line(source))
        click.echo("\n".join(_text(report)))


def _verdicts(store: Store, begin_ms: int, replay: Replay) -> Iterator[Verdict]:
    """Page by page; a long read says how far it is."""
    told = False
    for share, rows in store.live_calls(begin_ms):
        yield from replay.take(rows)
        if share < 1 or told:
            click.echo(f"\rread {share:4.0%}", nl=False, err=True)
            told = True
    yield from replay.finish()
    if told:
        click.echo(err=True)


def _line(verdict: Verdict) -> str:
    _, route, target, route_now, target_now = verdict.group
    first = verdict.past.first
    when = utc(first.ts)
    line = f"{when}  {first.request_id}  {verdict.change}  {route} {target} -> {route_now} {target_now}"
    return wrapped(line, 2)


def _text(report: Mapping[str, Any]) -> Iterator[str]:
    total = report["requests"]
    again = f"{counted(total, 'request')} since {report['since']}, decided again by policy {report['policy']}"
    yield folded("", again, 0)
    if report["decided_under"]:
        under = ", ".join(f"{version} ({count})" for version, count in report["decided_under"].items())
        yield folded("", f"decided then by {under}", 0)
    if report["not_replayed"]:
        more = f"{report['not_replayed']} more cannot be replayed: what they were decided by was not kept"
        yield folded("", more, 0)
    if not total:
        yield "nothing to decide again; --since looks back further"
        return
    yield f"\n{'unchanged':10} {report['unchanged']:8}  {report['unchanged'] / total:7.2%}"
    for change, meaning in _MEANING.items():
        if report[change]:
            yield f"{change:10} {report[change]:8}  {report[change] / total:7.2%}  {meaning}"
    if not report["changed"]:
        return
    rows = [row for entry in report["changes"] for row in _then_and_now(entry)]
    yield "\n" + table(("requests", "", "route", "target", "USD", "ms"), rows) + "\n"
    yield from _effects(report)


def _then_and_now(entry: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Two rows a change, because a line has no room for both."""
    for when, requests in (("then", entry["requests"]), ("now", "")):
        cost, latency = entry["cost_usd"][when], entry["latency_ms"][when]
        yield requests, when, entry[f"route_{when}"], entry[f"target_{when}"], usd(cost), latency


def _effects(report: Mapping[str, Any]) -> Iterator[str]:
    cost, latency, privacy, moved = (report[name] for name in ("cost_usd", "latency_ms", "privacy", "elsewhere"))
    spent = ", ".join(
        f"{when} {_number(cost[when], '.4f')} USD (known for {cost[f'{when}_known']} of {moved})"
        for when in ("then", "now")
    )
    took = (
        f"then {_number(latency['then'], '.0f')} ms, now {_number(latency['now'], '.0f')} ms on average "
        f"(known for {latency['known']} of {moved})"
    )
    kept = (
        f"{privacy['leaves']} would leave for a backend that is not local, {privacy['comes_home']} would come home; "
        f"{privacy['private_refused']} private ones would be refused"
    )
    for title, text in (("cost", spent), ("latency", took), ("privacy", kept)):
        yield folded(title, text, 9)


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else f"{value:{form}}"

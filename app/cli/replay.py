"""`flask policy replay`: decide past requests again by another policy, and print the difference."""

from __future__ import annotations

import os
from collections.abc import Iterator

import click

from app import settings
from app.beliefs.local import LocalBackends
from app.cli.common import counted, print_json
from app.cli.options import Span, as_json, since_option
from app.cli.report import database_errors, no_rows, source_line, store_to_read
from app.cli.table import folded, table, usd, wrapped
from app.errors import PolicyError
from app.metrics.replay import Change, Replay, Verdict
from app.metrics.store import Store
from app.policy.check import RESOLVE_S, check, resolver
from app.storage import now_ms
from app.types import JsonObject
from app.words import utc

_MEANING = {
    "elsewhere": "another backend or model is first",
    "order": "the first one is the same, the fallbacks differ",
    "rule": "the backends are the same, the route differs",
    "refused": "no backend of this policy can take it",
}


@click.command("replay")
@click.argument("file")
@since_option("7d")
@click.option("--list", "every", is_flag=True, help="Print a line for each request that changes, too.")
@as_json
def policy_replay(file: str, since: Span, every: bool, as_json: bool) -> None:
    """Decide past requests again by the policy FILE (- reads standard input), and print where they would go and what
    that would cost.  Reads the metrics; calls no backend.

    The router keeps no text of prompts.  So private requests stay private, and new detectors cannot be tried."""
    try:
        policy = check(file).policy
        store = store_to_read(settings.load(os.environ).db)
    except PolicyError as error:
        raise click.ClickException(f"the policy has problems\n{error.message}") from None
    local = LocalBackends(policy.backends)
    resolve = resolver(RESOLVE_S)
    local.refresh(lambda host: list(resolve(host)))
    replay = Replay(policy, local.names)
    begin_ms = now_ms() - since.ms
    with database_errors():
        source = store.source()
        for verdict in _verdicts(store, begin_ms, replay):
            if every and verdict.change != Change.UNCHANGED:
                click.echo(_line(verdict), err=as_json)
    report = {**source.document(), "policy": policy.version, "since": utc(begin_ms), **replay.report()}
    if as_json:
        print_json(report)
    else:
        click.echo(no_rows(source, begin_ms) or source_line(source))
        click.echo("\n".join(_lines(report)))


def _verdicts(store: Store, begin_ms: int, replay: Replay) -> Iterator[Verdict]:
    """Yield the verdicts, page by page, and show the progress of a long read."""
    has_progress = False
    for share, rows in store.live_calls(begin_ms):
        yield from replay.take(rows)
        if share < 1 or has_progress:
            click.echo(f"\rread {share:4.0%}", nl=False, err=True)
            has_progress = True
    yield from replay.finish()
    if has_progress:
        click.echo(err=True)


def _line(verdict: Verdict) -> str:
    _, route, target, route_now, target_now = verdict.group
    first = verdict.past.first
    line = f"{utc(first.ts)}  {first.request_id}  {verdict.change}  {route} {target} -> {route_now} {target_now}"
    return wrapped(line, 2)


def _lines(report: JsonObject) -> Iterator[str]:
    total = report["requests"]
    again = f"{counted(total, 'request')} since {report['since']}, decided again by policy {report['policy']}"
    yield folded("", again, 0)
    if report["decided_under"]:
        versions = ", ".join(f"{version} ({count})" for version, count in report["decided_under"].items())
        yield folded("", f"first decided by {versions}", 0)
    if report["not_replayed"]:
        more = f"{report['not_replayed']} more cannot be replayed, because their rows lack the data"
        yield folded("", more, 0)
    if not total:
        yield "there is no request to decide again; use a longer --since"
        return
    yield f"\n{'unchanged':10} {report['unchanged']:8}  {report['unchanged'] / total:7.2%}"
    for change, meaning in _MEANING.items():
        if report[change]:
            yield f"{change:10} {report[change]:8}  {report[change] / total:7.2%}  {meaning}"
    yield from _judged(report["verify"])
    if not report["changed"]:
        return
    rows = [row for entry in report["changes"] for row in _then_and_now(entry)]
    yield "\n" + table(("requests", "", "route", "target", "USD", "ms"), rows) + "\n"
    yield from _effects(report)


_UNKNOWN = {
    "other_target": "another model is asked first, and its answer is not known",
    "no_doubt": "the answer was not judged then, so it has no doubt",
    "other_parts": "the stored doubt has a second opinion, by which this policy does not judge",
}


def _judged(judged: JsonObject) -> Iterator[str]:
    """Yield the answers that were judged then, or would be judged now; nothing when there are none."""
    if not judged["requests"]:
        return
    then, now, cost = judged["then"], judged["now"], judged["cost_usd"]
    rows = [(name.replace("_", " "), then.get(name, 0), number) for name, number in now.items()]
    yield "\n" + table(("answers judged", "then", "now"), [row for row in rows if row[1] or row[2]])
    for reason, number in judged["unknown"].items():
        if number:
            yield folded("unknown", f"{number}: {_UNKNOWN[reason]}", 9)
    if judged["without_opinion"]:
        yield folded(
            "doubt",
            f"{judged['without_opinion']} were judged without a second opinion; whether one would change the result is "
            "not known",
            9,
        )
    costs = ", ".join(f"{time} {_number(cost[time], '.4f')} USD" for time in ("then", "now"))
    yield folded("cost", f"{costs} (known for {cost['known']} of {judged['requests']})", 9)


def _then_and_now(entry: JsonObject) -> Iterator[tuple[object, ...]]:
    """Yield two rows for each change, because one line is too short for both."""
    for time, requests in (("then", entry["requests"]), ("now", "")):
        cost, latency = entry["cost_usd"][time], entry["latency_ms"][time]
        yield requests, time, entry[f"route_{time}"], entry[f"target_{time}"], usd(cost), latency


def _effects(report: JsonObject) -> Iterator[str]:
    cost, latency, privacy, moved = (report[name] for name in ("cost_usd", "latency_ms", "privacy", "elsewhere"))
    costs = ", ".join(
        f"{time} {_number(cost[time], '.4f')} USD (known for {cost[f'{time}_known']} of {moved})"
        for time in ("then", "now")
    )
    times = (
        f"then {_number(latency['then'], '.0f')} ms, now {_number(latency['now'], '.0f')} ms on average "
        f"(known for {latency['known']} of {moved})"
    )
    moves = (
        f"{privacy['leaves']} would leave for a backend that is not local, {privacy['comes_home']} would become local; "
        f"{privacy['private_refused']} private requests would be refused"
    )
    for title, text in (("cost", costs), ("latency", times), ("privacy", moves)):
        yield folded(title, text, 9)


def _number(value: float | None, form: str) -> str:
    return "?" if value is None else f"{value:{form}}"

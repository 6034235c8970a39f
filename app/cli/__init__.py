"""The command line: `flask init | policy | route | backends | metrics | ab`."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
from flask import Flask, current_app
from flask.cli import AppGroup

from app import pipeline, policy, settings
from app.background.observe import resolve
from app.cli import first_policy
from app.cli.table import table
from app.errors import BackendError, PolicyError, RouterError
from app.metrics.summary import ab_report, metrics_summary
from app.policy.check import check
from app.policy.docs import reference
from app.routing.explain import explanation
from app.runtime import Runtime
from app.storage import StoreError, now_ms
from app.types import ChatRequest
from app.wire import chat

PROBLEM = "policy_error"  # extensions: why there is no runtime


def register(app: Flask) -> None:
    for command in (init, policy_group, route_group, backends_group, metrics_group, ab_group):
        app.cli.add_command(command)


def _runtime() -> Runtime:
    """Raises ClickException with every problem when the policy is not fit to serve."""
    if PROBLEM in current_app.extensions:
        raise click.ClickException(current_app.extensions[PROBLEM].message)
    rt: Runtime = current_app.extensions["runtime"]
    return rt


def _print(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


as_json = click.option("--json", "as_json", is_flag=True, help="As JSON.")


class _Above0(click.FloatRange):
    """Above 0, at most `most`; click's own range lets `nan` through."""

    def __init__(self, most: float) -> None:
        super().__init__(0, most, min_open=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if number != number:
            self.fail(f"{value!r} is not a number.", param, ctx)
        return number


hours_option = click.option("--hours", type=_Above0(8760), default=24.0, show_default=True)


@click.command()
def init() -> None:
    """Write a first policy.yaml for what is there.  Never overwrites one."""
    try:
        file = Path(settings.load(os.environ).policy)
    except PolicyError as error:
        raise click.ClickException(error.message) from None
    if file.exists():
        raise click.ClickException(f"{file} is there already; it was not touched. Delete it first to start afresh.")
    found = first_policy.look_around(os.environ)
    click.echo(found.note)
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(first_policy.write(found))
    except OSError as error:
        raise click.ClickException(f"{file} cannot be written: {error.strerror}") from None
    click.echo(f"wrote {file}")


policy_group = AppGroup("policy", help="Check, show and document the policy.")


@policy_group.command("check", with_appcontext=False)
@click.argument("file", required=False)
def policy_check(file: str | None) -> None:
    """Is FILE (default: LLR_POLICY; - reads standard input) fit to serve?"""
    try:
        loaded = check(file)
    except PolicyError as error:
        raise click.ClickException(f"the policy is not fit to serve\n{error.message}") from None
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    count = f"{len(loaded.policy.backends)} backends, {len(loaded.policy.routes)} routes"
    click.echo(f"ok: {count}, version {loaded.policy.version}")


@policy_group.command("show")
@as_json
def policy_show(as_json: bool) -> None:
    """The policy as the router understands it, defaults filled in."""
    rules = _runtime().policy
    if as_json:
        _print(policy.plain(rules))
        return
    click.echo(f"version {rules.version}\n")
    rows = [
        (
            name,
            config.type,
            config.endpoint,
            " ".join(dict.fromkeys((*config.models, *config.families.values()))) or "-",
        )
        for name, config in rules.backends.items()
    ]
    click.echo(table(("backend", "type", "endpoint", "models"), rows))
    click.echo()
    steps = [(route.label, " > ".join((route.backend, *route.fallbacks)), route.reason) for route in rules.routes]
    click.echo(table(("route", "targets", "reason"), steps))


@policy_group.command("docs", with_appcontext=False)
def policy_docs() -> None:
    """The reference of every policy key, as docs/policy.md holds it."""
    click.echo(reference(), nl=False)


route_group = AppGroup("route", help="See where a prompt would go.")


@route_group.command("explain")
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True)
@click.option("--sensitivity", type=click.Choice(("normal", "high")), default="normal", show_default=True)
@as_json
def route_explain(prompt: str, model: str, sensitivity: str, as_json: bool) -> None:
    """Tags, route, targets and reasons for PROMPT.  Nothing is called."""
    rt = _runtime()
    rt.look_up_names(resolve)
    body = chat.parse(json.dumps({"messages": [{"role": "user", "content": prompt}]}).encode())
    request = ChatRequest(
        request_id="cli", surface="cli", body=body, model=model.strip(), stream=False, sensitivity=sensitivity
    )
    try:
        found = explanation(*pipeline.plan(request, rt))
    except RouterError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        _print(found)
        return
    click.echo("  ".join(f"{name}={value}" for name, value in found["classification"].items() if _is_plain(value)))
    click.echo(f"route    {found['route']}")
    click.echo("targets  " + ", then ".join(f"{target['backend']}/{target['model']}" for target in found["targets"]))
    for step in found["trace"]:
        click.echo(f"  {step['stage']:8} {step['outcome']}")


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float))


backends_group = AppGroup("backends", help="The upstreams of the policy.")


@backends_group.command("list")
@as_json
def backends_list(as_json: bool) -> None:
    """Backends, whether they are local, and whether their key is set."""
    rt = _runtime()
    rt.look_up_names(resolve)
    local = rt.observations().local
    rows = []
    for name, config in rt.policy.backends.items():
        key = "none needed" if not config.api_key_env else "set" if os.environ.get(config.api_key_env) else "NOT SET"
        entry = {"backend": name, "type": config.type, "endpoint": config.endpoint, "local": name in local, "key": key}
        rows.append(entry)
    if as_json:
        _print(rows)
    else:
        click.echo(table(("backend", "type", "endpoint", "local", "key"), [_cells(row) for row in rows]))


@backends_group.command("probe")
@as_json
def backends_probe(as_json: bool) -> None:
    """Ask every backend for its models.  Exit status 1 when one does not answer."""
    rows, failed = [], False
    for name, upstream in _runtime().upstreams.items():
        started = time.monotonic()
        try:
            answer = f"{len(upstream.backend.discover())} models"
            ok = True
        except BackendError as error:
            answer, ok, failed = error.told(), False, True
        ms = round((time.monotonic() - started) * 1000)
        rows.append({"backend": name, "ok": ok, "ms": ms, "answer": answer})
    if as_json:
        _print(rows)
    else:
        click.echo(table(("backend", "ok", "ms", "answer"), [_cells(row) for row in rows]))
    if failed:
        raise SystemExit(1)


def _cells(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(
        {True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value for value in row.values()
    )


metrics_group = AppGroup("metrics", help="What was measured.")


@metrics_group.command("summary")
@hours_option
@as_json
def metrics_show(hours: float, as_json: bool) -> None:
    """Calls, success, latency, tokens and cost by backend and route."""
    rt = _runtime()
    try:
        tallies = rt.store.tallies(now_ms() - int(hours * 3_600_000))
        summary = metrics_summary(tallies, hours, {"rows_dropped": rt.store.dropped()})
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        _print(summary)
        return
    columns = (
        "calls",
        "success_rate",
        "fallbacks",
        "p50_latency",
        "p95_latency",
        "input_tokens",
        "output_tokens",
        "cost_usd",
    )
    titles = ("calls", "success", "fallb.", "p50 ms", "p95 ms", "in", "out", "USD")
    for key in ("backend", "route"):
        rows = [(entry[key], *(entry[column] for column in columns)) for entry in summary[f"{key}s"]]
        click.echo(table((key, *titles), rows) + "\n")


@metrics_group.command("prune")
@click.option("--days", type=_Above0(36500), help="Default: LLR_RETENTION_DAYS.")
def metrics_prune(days: float | None) -> None:
    """Delete rows older than so many days, in small steps."""
    rt = _runtime()
    before = now_ms() - int((days or rt.settings.retention_days) * 86_400_000)
    gone = 0
    try:
        while step := rt.store.prune(before):
            gone += step
            click.echo(f"\r{gone} rows", nl=False, err=True)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"\rdeleted {gone} rows")


ab_group = AppGroup("ab", help="The A/B trial.")


@ab_group.command("report")
@hours_option
@as_json
def ab_show(hours: float, as_json: bool) -> None:
    """Each primary beside its candidate, with a recommendation."""
    rt = _runtime()
    try:
        report = ab_report(rt.store.tallies(now_ms() - int(hours * 3_600_000)), rt.policy.ab, hours)
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        _print(report)
        return
    columns = (
        "primary", "candidate", "primaryAvgLatency", "candidateAvgLatency", "primaryP95Latency", "candidateP95Latency",
        "candidateSamples", "recommendation",
    )  # fmt: skip
    titles = ("primary", "candidate", "avg ms", "avg ms", "p95 ms", "p95 ms", "samples", "recommendation")
    click.echo(table(titles, [tuple(pair[column] for column in columns) for pair in report["pairs"]]))

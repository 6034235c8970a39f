"""`flask policy`."""

from __future__ import annotations

from dataclasses import replace

import click
from flask.cli import AppGroup

from app import policy
from app.background.observe import resolve
from app.cli.common import as_json, counted, print_json, runtime
from app.cli.replay import policy_replay
from app.cli.table import table
from app.errors import PolicyError
from app.policy.check import check
from app.policy.docs import keys, reference
from app.routing.locality import host_name, judge_config
from app.types import BackendConfig

policy_group = AppGroup("policy", help="Check, show and document the policy; try another on past requests.")
policy_group.add_command(policy_replay)


@policy_group.command("check", with_appcontext=False)
@click.argument("file", required=False)
@as_json
def policy_check(file: str | None, as_json: bool) -> None:
    """Is FILE (default: LLR_POLICY; - reads standard input) fit to serve?"""
    try:
        loaded = check(file)
    except PolicyError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems, "warnings": []})
            raise SystemExit(1) from None
        raise click.ClickException(f"the policy is not fit to serve\n{error.message}") from None
    if as_json:
        print_json({"ok": True, "problems": [], "warnings": loaded.warnings, "version": loaded.policy.version})
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    rules = loaded.policy
    found = f"{counted(len(rules.backends), 'backend')}, {counted(len(rules.routes), 'route')}"
    click.echo(f"ok: {found}, policy version {rules.version}")


@policy_group.command("show")
@as_json
def policy_show(as_json: bool) -> None:
    """The policy as the router understands it, defaults filled in."""
    rules = runtime().policy
    if as_json:
        print_json(
            policy.as_document(replace(rules, backends={name: _judged(one) for name, one in rules.backends.items()}))
        )
        return
    click.echo(f"policy version {rules.version}\n")
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


def _judged(config: BackendConfig) -> BackendConfig:
    """The backend with what its name resolves to taken into account."""
    addresses = resolve(host_name(config.endpoint)) if config.local is None else ()
    return replace(config, local=judge_config(config, addresses).local)


@policy_group.command("docs", with_appcontext=False)
@as_json
def policy_docs(as_json: bool) -> None:
    """The reference of every policy key, as docs/policy.md holds it."""
    if as_json:
        print_json(keys())
    else:
        click.echo(reference(), nl=False)

"""`flask policy`: check, show, document and replay policies."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import click
from flask.cli import AppGroup

from app import policy
from app.beliefs.local import resolve
from app.cli.common import counted, get_services, print_json
from app.cli.options import as_json
from app.cli.replay import policy_replay
from app.cli.table import table
from app.errors import PolicyError
from app.policy.check import check
from app.policy.docs import keys, reference
from app.routing.locality import host_name, judge_config
from app.types import BackendConfig, Pool

policy_group = AppGroup("policy", help="Check, show, document and replay policies.")
policy_group.add_command(policy_replay)


@policy_group.command("check", with_appcontext=False)
@click.argument("file", required=False)
@as_json
def policy_check(file: str | None, as_json: bool) -> None:
    """Check the policy FILE (default: LLR_POLICY; - reads standard input), and print every problem."""
    try:
        loaded = check(file)
    except PolicyError as error:
        if as_json:
            print_json({"ok": False, "problems": error.problems, "warnings": []})
            raise SystemExit(1) from None
        raise click.ClickException(f"the policy has problems\n{error.message}") from None
    if as_json:
        print_json({"ok": True, "problems": [], "warnings": loaded.warnings, "version": loaded.policy.version})
        return
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    rules = loaded.policy
    pools = f", {counted(len(rules.pools), 'pool')}" if rules.pools else ""
    size = f"{counted(len(rules.backends), 'backend')}{pools}, {counted(len(rules.routes), 'route')}"
    click.echo(f"ok: {size}, policy version {rules.version}")


@policy_group.command("show")
@as_json
def policy_show(as_json: bool) -> None:
    """Print the policy as the router uses it, with all defaults."""
    rules = get_services().policy
    if as_json:
        print_json(
            policy.as_document(
                replace(rules, backends={name: _with_locality(config) for name, config in rules.backends.items()})
            )
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
    if rules.pools:
        members = [(name, " ".join(_with_weights(pool))) for name, pool in rules.pools.items()]
        click.echo(table(("pool", "members"), members))
        click.echo()
    steps = [(route.label, " > ".join((route.backend, *route.fallbacks)), route.reason) for route in rules.routes]
    click.echo(table(("route", "targets", "reason"), steps))


def _with_weights(pool: Pool) -> Iterator[str]:
    for member in pool.members:
        yield f"{member} ({pool.weight(member):g})" if pool.weights else member


def _with_locality(config: BackendConfig) -> BackendConfig:
    """Return a backend with its locality, for which its host name is resolved."""
    addresses = resolve(host_name(config.endpoint)) if config.local is None else ()
    return replace(config, local=judge_config(config, addresses).local)


@policy_group.command("docs", with_appcontext=False)
@as_json
def policy_docs(as_json: bool) -> None:
    """Print the reference of every policy key; docs/policy.md is this text."""
    if as_json:
        print_json(keys())
    else:
        click.echo(reference(), nl=False)

"""`flask init`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from app import settings
from app.cli import first_policy
from app.errors import PolicyError


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

"""`flask init`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from app import settings
from app.cli import surroundings
from app.cli.common import as_json, print_json
from app.cli.first_policy import decided, write
from app.cli.table import folded
from app.errors import PolicyError

_NO_MODEL = """\
`echo` is no model: it repeats your words.
Next step: install Ollama, `ollama pull llama3.2`, delete that file, run this again."""


@click.command()
@as_json
def init(as_json: bool) -> None:
    """Write a first policy.yaml for what is there.  Never overwrites one."""
    try:
        file = Path(settings.load(os.environ).policy)
    except PolicyError as error:
        raise click.ClickException(error.message) from None
    if file.exists():
        raise click.ClickException(f"{file} is there already; it was not touched. Delete it first to start afresh.")
    found = surroundings.look_around(os.environ, surroundings.LOCAL_SERVERS)
    if not as_json:
        click.echo("\n".join(found.notes))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(write(found))
    except OSError as error:
        fix = "make this folder writable" if file.parent.is_dir() else f"make the folder {file.parent}"
        raise click.ClickException(
            f"{file} cannot be written: {error.strerror}. Name another file in LLR_POLICY, or {fix}"
        ) from None
    if as_json:
        print_json({"wrote": str(file), "found": found.notes, "backends": _names(found), "decided": decided(found)})
    else:
        names = _names(found)
        click.echo(f"wrote {file} with the backend{'s' if len(names) > 1 else ''} {', '.join(names)}")
        for line in decided(found):
            click.echo(folded("  ", line, 2))
        if not (found.servers or found.hosted):
            click.echo(_NO_MODEL)


def _names(found: surroundings.Found) -> list[str]:
    return [server.backend for server in found.servers] + list(found.hosted) or ["echo"]

"""`flask init`: write a first policy."""

from __future__ import annotations

import os
from pathlib import Path

import click

from app import settings
from app.cli import surroundings
from app.cli.common import print_json
from app.cli.first_policy import backend_names, describe, write
from app.cli.options import as_json
from app.cli.table import folded
from app.errors import PolicyError

_NO_MODEL = """\
`echo` is no model: it repeats the prompt.
Next step: install Ollama, run `ollama pull llama3.2`, delete that file and run this again.
`make demo` runs the router with a small real model, which it installs itself (220 MB)."""


@click.command()
@as_json
def init(as_json: bool) -> None:
    """Write a first policy.yaml.

    Uses the model servers of this machine, and the API keys in the environment.  Never overwrites a file.
    """
    try:
        file = Path(settings.load(os.environ).policy)
    except PolicyError as error:
        raise click.ClickException(error.message) from None
    if file.exists():
        raise click.ClickException(f"{file} exists already and was not touched. Delete it first to write a new one.")
    here = surroundings.explore(os.environ, surroundings.LOCAL_SERVERS)
    if not as_json:
        click.echo("\n".join(here.notes))
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(write(here))
    except OSError as error:
        fix = "make this folder writable" if file.parent.is_dir() else f"create the folder {file.parent}"
        raise click.ClickException(
            f"{file} cannot be written: {error.strerror}. Name another file in LLR_POLICY, or {fix}"
        ) from None
    names = backend_names(here)
    if as_json:
        print_json({"wrote": str(file), "found": here.notes, "backends": names, "decided": describe(here)})
        return
    click.echo(f"wrote {file} with the backend{'s' if len(names) > 1 else ''} {', '.join(names)}")
    for line in describe(here):
        click.echo(folded("  ", line, 2))
    if not (here.servers or here.hosted):
        click.echo(_NO_MODEL)

"""`flask route`."""

from __future__ import annotations

import json

import click
from flask.cli import AppGroup

from app import pipeline
from app.background.observe import resolve
from app.cli.common import as_json, print_json, runtime
from app.errors import RouterError
from app.routing.explain import explanation
from app.types import ChatRequest
from app.wire import chat

route_group = AppGroup("route", help="See where a prompt would go.")


@route_group.command("explain")
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True)
@click.option("--sensitivity", type=click.Choice(("normal", "high")), default="normal", show_default=True)
@as_json
def route_explain(prompt: str, model: str, sensitivity: str, as_json: bool) -> None:
    """Tags, route, targets and reasons for PROMPT.  Nothing is called."""
    rt = runtime()
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
        print_json(found)
        return
    click.echo("  ".join(f"{name}={value}" for name, value in found["classification"].items() if _is_plain(value)))
    click.echo(f"route    {found['route']}")
    click.echo("targets  " + ", then ".join(f"{target['backend']}/{target['model']}" for target in found["targets"]))
    for step in found["trace"]:
        click.echo(f"  {step['stage']:8} {step['outcome']}")


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float))

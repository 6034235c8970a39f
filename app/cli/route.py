"""`flask route`: explain a prompt, and tag many of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import click
from flask import current_app
from flask.cli import AppGroup

from app import pipeline
from app.beliefs.local import resolve
from app.cli.common import PROBLEM, get_services, print_json
from app.cli.options import as_json
from app.cli.table import folded
from app.dry_run import dry_run
from app.errors import NoPolicy, RequestError, RouterError
from app.routing.classify import classify
from app.routing.detect import Detectors
from app.routing.explain import describe_calls, explanation
from app.types import SENSITIVITIES, ChatRequest, Cuts, JsonObject, Sensitivity, SensitivityRules
from app.wire.chat import request as chat
from app.wire.json_body import read_object

route_group = AppGroup("route", help="Explain where prompts would go.")


@route_group.command("explain")
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True, help="The model that the client names.")
@click.option(
    "--sensitivity",
    type=click.Choice(SENSITIVITIES),
    default=Sensitivity.NORMAL.value,
    show_default=True,
    help="The value of X-LLR-Sensitivity; high means private.",
)
@as_json
def route_explain(prompt: str, model: str, sensitivity: str, as_json: bool) -> None:
    """Print the tags, the route and the targets of PROMPT, with the reasons, and the calls that the router would make.

    Calls no backend.  The expected times are those of the latest calls.
    """
    services = get_services()
    services.beliefs.local.refresh(resolve)
    if services.store.exists():
        services.beliefs.read_calls(services.store, services.metrics_thread)
    try:
        request = _request(chat.of_text(prompt), model=chat.model_name(model), sensitivity=Sensitivity(sensitivity))
        document = explanation(*dry_run(request, services))
    except RouterError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        print_json(document)
        return
    for name, text in _lines(document):
        click.echo(folded(name, text, 12))
    for step in document["trace"]:
        click.echo(folded(f"  {step['stage']}", step["outcome"], 12))
    for title, lines in describe_calls(document):
        for number, line in enumerate(lines):
            click.echo(folded("" if number else title, line, 12))


def _request(body: chat.ChatBody, model: str = "auto", sensitivity: Sensitivity = Sensitivity.NORMAL) -> ChatRequest:
    return ChatRequest(request_id="cli", surface="cli", body=body, model=model, stream=False, sensitivity=sensitivity)


def _lines(document: JsonObject) -> Iterator[tuple[str, str]]:
    """Yield an explanation as titles and texts."""
    tags, evidence = document["classification"], document["evidence"]
    own_lines = ("task", "confidence", "complexity", "difficulty")
    yield "task", f"{tags['task']}, confidence {tags['confidence']:.2f}, runner-up {evidence['runner_up']}"
    turns = document["conversation"]
    if turns["turns"] > 1:
        alone = f"{turns['alone']['task']} {turns['alone']['probability']:.2f}"
        yield "", f"by turn {turns['turn']} of {turns['turns']}; turn {turns['turns']} alone: {alone}"
    yield "", _points(evidence["task"])
    yield "complexity", f"{tags['complexity']}, difficulty {tags['difficulty']:.2f}"
    yield "", _points(evidence["difficulty"])
    yield "tags", "  ".join(f"{name}={value}" for name, value in tags.items() if name not in own_lines)
    if document["sensitivity_reason"]:
        yield "private", f"because of {document['sensitivity_reason']}"
    yield "route", document["route"]
    yield "targets", ", then ".join(f"{target['backend']}/{target['model']}" for target in document["targets"])


def _points(signs: Sequence[JsonObject]) -> str:
    """Return the evidence for a tag, the strongest first, then the evidence against it; weak signs are left out."""
    strong = [sign for sign in signs if abs(sign["points"]) >= 0.05]
    ordered = sorted(strong, key=lambda sign: sign["points"] < 0)
    return ", ".join(f"{sign['sign']} {sign['points']:+.1f}" for sign in ordered) or "no evidence"


@route_group.command("classify")
@click.option("--jsonl", "lines", type=click.File("rb"), required=True, help="The file, or - for standard input.")
@click.option("--json", "_", is_flag=True, help="Has no effect: the output is always JSON.")
def route_classify(lines: BinaryIO, _: bool) -> None:
    """Print each line of FILE, which is {"text": …} or a chat body, with all its tags.  Needs no policy, but uses the
    `complexity` and `sensitivity` of an existing one.  Bad lines are reported by number; the exit status is then 1."""
    cuts, detectors = _rules()
    has_bad_line = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            click.echo(_tagged(line, cuts, detectors))
        except RequestError as error:
            has_bad_line = True
            click.echo(f"line {number}: {error.message.replace('The request body', 'it')}", err=True)
    if has_bad_line:
        raise SystemExit(1)


def _rules() -> tuple[Cuts, Detectors]:
    if isinstance(current_app.extensions.get(PROBLEM), NoPolicy):
        return Cuts(), Detectors(SensitivityRules())
    services = get_services()
    return services.policy.complexity, services.detectors


def _tagged(line: bytes, cuts: Cuts, detectors: Detectors) -> bytes:
    """Return the line with its tags in front; the rest keeps its bytes.  Raises RequestError."""
    row = read_object(line)
    if "messages" in row.document:
        body = chat.parse(line)
    elif isinstance(row.document.get("text"), str):
        body = chat.of_text(row.document["text"])
    else:
        raise RequestError("it has neither `text` nor `messages`.")
    tags = classify(pipeline.detect(_request(body), detectors), cuts)
    members = {name: json.dumps(value) for name, value in dataclasses.asdict(tags).items()}
    return row.with_members(members).strip()

"""`flask route`: explain a prompt, and tag many of them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from app.routing.classify import judge
from app.routing.detect import Detectors
from app.routing.explain import describe_calls, explanation
from app.routing.sender import HEADERS
from app.types import SENSITIVITIES, ChatRequest, ConversationRules, Cuts, JsonObject, Sensitivity, SensitivityRules
from app.wire.chat import request as chat
from app.wire.json_body import read_object

route_group = AppGroup("route", help="Explain where prompts would go.")


@route_group.command("explain")
@click.argument("prompt", required=False)
@click.option("--body", type=click.File("rb"), help="A chat body with a whole conversation, or - for standard input.")
@click.option("--model", help="The model that the client names.  [default: that of the body, else auto]")
@click.option(
    "--sensitivity",
    type=click.Choice(SENSITIVITIES),
    default=Sensitivity.NORMAL.value,
    show_default=True,
    help="The value of X-LLR-Sensitivity; high means private.",
)
@as_json
def route_explain(
    prompt: str | None, body: BinaryIO | None, model: str | None, sensitivity: str, as_json: bool
) -> None:
    """Print the tags, the route and the targets of PROMPT, with the reasons, and the calls that the router would make.
    With --body, the prompt is a conversation, and the tags name the turns that they come from.

    Calls no backend.  The expected times are those of the latest calls.
    """
    if (prompt is None) == (body is None):
        raise click.UsageError("Give either PROMPT or --body FILE.")
    services = get_services()
    services.beliefs.local.refresh(resolve)
    if services.store.exists():
        services.beliefs.read_calls(services.store, services.metrics_thread)
    try:
        conversation = chat.of_text(prompt) if prompt is not None else chat.parse(body.read() if body else b"")
        named = chat.model_of(conversation.chat) or "auto" if model is None else chat.model_name(model)
        request = _request(conversation, model=named, sensitivity=Sensitivity(sensitivity))
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
    yield "tags", "  ".join(f"{name}={_as_in_policy(value)}" for name, value in tags.items() if name not in own_lines)
    if document["sensitivity_reason"]:
        yield "private", f"because of {document['sensitivity_reason']}"
    yield "route", document["route"]
    yield "targets", ", then ".join(f"{target['backend']}/{target['model']}" for target in document["targets"])


def _as_in_policy(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _points(signs: Sequence[JsonObject]) -> str:
    """Return the evidence for a tag, the strongest first, then the evidence against it; weak signs are left out."""
    strong = [sign for sign in signs if abs(sign["points"]) >= 0.05]
    ordered = sorted(strong, key=lambda sign: sign["points"] < 0)
    return ", ".join(f"{sign['sign']} {sign['points']:+.1f}" for sign in ordered) or "no evidence"


@route_group.command("classify")
@click.option("--jsonl", "lines", type=click.File("rb"), required=True, help="The file, or - for standard input.")
@click.option("--json", "_", is_flag=True, help="Has no effect: the output is always JSON.")
def route_classify(lines: BinaryIO, _: bool) -> None:
    """Print each line of FILE, which is {"text": …}, a chat body, or {"headers": {…}, "body": {…}}, with all its tags.
    Needs no policy, but uses the `complexity`, `conversations` and `sensitivity` of an existing one.  Bad lines are
    reported by number; the exit status is then 1."""
    cuts, rules, detectors = _rules()
    has_bad_line = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            click.echo(_tagged(line, cuts, rules, detectors))
        except RequestError as error:
            has_bad_line = True
            click.echo(f"line {number}: {error.message.replace('The request body', 'it')}", err=True)
    if has_bad_line:
        raise SystemExit(1)


def _rules() -> tuple[Cuts, ConversationRules, Detectors]:
    if isinstance(current_app.extensions.get(PROBLEM), NoPolicy):
        return Cuts(), ConversationRules(), Detectors(SensitivityRules())
    services = get_services()
    return services.policy.complexity, services.policy.conversations, services.detectors


def _tagged(line: bytes, cuts: Cuts, rules: ConversationRules, detectors: Detectors) -> bytes:
    """Return the line with its tags in front; the rest keeps its bytes.  Raises RequestError."""
    row = read_object(line)
    document = row.document
    if "messages" in document:
        body = chat.parse(line)
    elif isinstance(document.get("text"), str):
        body = chat.of_text(document["text"])
    elif isinstance(document.get("body"), Mapping):
        body = chat.parse(json.dumps(document["body"]).encode())
    else:
        raise RequestError("it has none of `text`, `messages` and `body`.")
    request = replace(_request(body), headers=_headers(document.get("headers")))
    tags = judge(pipeline.detect(request, detectors), cuts, rules).tags
    members = {name: json.dumps(value) for name, value in dataclasses.asdict(tags).items()}
    return row.with_members(members).strip()


def _headers(value: object) -> dict[str, str]:
    """Return the headers that tell the program of a client."""
    items = value.items() if isinstance(value, Mapping) else ()
    named = {str(name).lower(): text for name, text in items if isinstance(text, str)}
    return {name: named[name] for name in HEADERS if name in named}

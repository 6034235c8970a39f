"""`flask route`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import click
from flask import current_app
from flask.cli import AppGroup

from app import pipeline
from app.background.observe import resolve
from app.cli.common import PROBLEM, as_json, print_json, runtime
from app.cli.table import folded
from app.dry_run import dry_run
from app.errors import NoPolicy, RequestError, RouterError
from app.routing.classify import classify
from app.routing.detect import Detectors
from app.routing.explain import describe_calls, explanation
from app.types import SENSITIVITIES, ChatRequest, Cuts, Sensitivity, SensitivityRules
from app.wire.chat import request as chat
from app.wire.json_body import read_object

route_group = AppGroup("route", help="See where a prompt would go.")


@route_group.command("explain")
@click.argument("prompt")
@click.option("--model", default="auto", show_default=True, help="What the client names as its model.")
@click.option(
    "--sensitivity",
    type=click.Choice(SENSITIVITIES),
    default="normal",
    show_default=True,
    help="As X-LLR-Sensitivity: high stays local.",
)
@as_json
def route_explain(prompt: str, model: str, sensitivity: str, as_json: bool) -> None:
    """Tags, route, targets and reasons for PROMPT, and what would be sent where.  Nothing is called.

    Backends are expected to take as long as their latest calls did.
    """
    rt = runtime()
    rt.look_up_names(resolve)
    if rt.store.exists():
        rt.read_latencies()
    try:
        request = _request(chat.of_text(prompt), model=chat.model_name(model), sensitivity=Sensitivity(sensitivity))
        found = explanation(*dry_run(request, rt))
    except RouterError as error:
        raise click.ClickException(error.message) from None
    if as_json:
        print_json(found)
        return
    for name, text in _lines(found):
        click.echo(folded(name, text, 12))
    for step in found["trace"]:
        click.echo(folded(f"  {step['stage']}", step["outcome"], 12))
    for title, lines in describe_calls(found):
        for number, line in enumerate(lines):
            click.echo(folded("" if number else title, line, 12))


def _request(body: chat.ChatBody, model: str = "auto", sensitivity: Sensitivity = Sensitivity.NORMAL) -> ChatRequest:
    return ChatRequest(request_id="cli", surface="cli", body=body, model=model, stream=False, sensitivity=sensitivity)


def _lines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """An explanation as titles and texts."""
    tags, evidence = found["classification"], found["evidence"]
    judged = ("task", "confidence", "complexity", "difficulty")
    yield "task", f"{tags['task']}, confidence {tags['confidence']:.2f}, runner-up {evidence['runner_up']}"
    yield "", _points(evidence["task"])
    yield "complexity", f"{tags['complexity']}, difficulty {tags['difficulty']:.2f}"
    yield "", _points(evidence["difficulty"])
    yield "tags", "  ".join(f"{name}={value}" for name, value in tags.items() if name not in judged)
    if found["sensitivity_reason"]:
        yield "private", f"because of {found['sensitivity_reason']}"
    yield "route", found["route"]
    yield "targets", ", then ".join(f"{target['backend']}/{target['model']}" for target in found["targets"])


def _points(signs: Sequence[Mapping[str, Any]]) -> str:
    """What spoke for it, the loudest first, then what spoke against it; not what only whispered."""
    heard = [sign for sign in signs if abs(sign["points"]) >= 0.05]
    ordered = sorted(heard, key=lambda sign: sign["points"] < 0)
    return ", ".join(f"{sign['sign']} {sign['points']:+.1f}" for sign in ordered) or "nothing spoke"


@route_group.command("classify")
@click.option("--jsonl", "lines", type=click.File("rb"), required=True, help="FILE, or - for standard input.")
@click.option("--json", "_", is_flag=True, help="As JSON; it always is.")
def route_classify(lines: BinaryIO, _: bool) -> None:
    """Adds every tag to each line of FILE: {"text": …} or a chat body.  Needs no policy; uses the cuts and detectors of
    one that is there.  A bad line is reported with its number; the exit status is then 1."""
    cuts, detectors = _rules()
    bad = False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            click.echo(_tagged(line, cuts, detectors))
        except RequestError as error:
            bad = True
            click.echo(f"line {number}: {error.message.replace('The request body', 'it')}", err=True)
    if bad:
        raise SystemExit(1)


def _rules() -> tuple[Cuts, Detectors]:
    if isinstance(current_app.extensions.get(PROBLEM), NoPolicy):
        return Cuts(), Detectors(SensitivityRules())
    rt = runtime()
    return rt.policy.complexity, rt.detectors


def _tagged(line: bytes, cuts: Cuts, detectors: Detectors) -> bytes:
    """The line with its tags in front, else byte for byte.  Raises RequestError."""
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

"""The structure of an answer: what is a fault, and what the request asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from app.routing.answer.structure import structure

CASES = yaml.safe_load(Path(__file__).with_name("answers.yaml").read_text(encoding="utf-8"))
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "beds": {"type": "integer"}},
    "required": ["city"],
    "additionalProperties": False,
}


def ask(text: str, **members: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **members}


def wants(schema: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}


@pytest.mark.parametrize(
    "request_, answer, finish, fault",
    [
        (ask("Which hotel?", **wants(SCHEMA)), '{"city": "Oslo", "beds": 2}', "stop", None),
        (ask("Which hotel?", **wants(SCHEMA)), "Oslo, two beds", "stop", "json"),
        (ask("Which hotel?", **wants(SCHEMA)), '{"city": "Oslo", "beds": "two"}', "stop", "schema"),
        (ask("Which hotel?"), "", "stop", "empty"),
        (ask("Which hotel?"), "The Grand is on the", "length", "cut"),
        (ask("Which hotel?", max_tokens=5), "The Grand is on the", "length", None),
        (ask("Which hotel?"), "Sorry, I can't help you with that.", "stop", "refusal"),
        (ask("Which hotel?"), "The Grand. " * 80, "stop", "loop"),
    ],
)
def test_every_fault_has_its_name(request_: Any, answer: Any, finish: str, fault: str | None) -> None:
    assert structure(request_, answer, finish) == fault


# --- many answers ------------------------------------------------------------------------------


def request_of(case: dict[str, Any]) -> dict[str, Any]:
    """Return the chat body of a case in answers.yaml."""
    system = [{"role": "system", "content": case["system"]}] if "system" in case else []
    body: dict[str, Any] = {"model": "auto", "messages": [*system, {"role": "user", "content": case["ask"]}]}
    if "schema" in case:
        body |= wants(CASES["schemas"][case["schema"]])
    if "tools" in case:
        body["tools"] = [{"type": "function", "function": tool} for tool in CASES["tools"][case["tools"]]]
    return body | case.get("request", {})


def answer_of(case: dict[str, Any]) -> Any:
    """Return the answer of a case: a text or a message."""
    text = case.get("answer")
    if "lines" in case:
        line, count = case["lines"]
        text = "\n".join(line.replace("{n}", str(n)) for n in range(1, count + 1))
    elif text is not None:
        text = case.get("begin", "") + text * case.get("repeat", 1)
    if "calls" in case:
        calls = [
            {"id": f"c{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(case["calls"])
        ]
        return {"role": "assistant", "content": text, "tool_calls": calls}
    return {"role": "assistant", **case["message"]} if "message" in case else text


def fault_of(case: dict[str, Any]) -> str | None:
    return structure(request_of(case), answer_of(case), case.get("finish", "tool_calls" if "calls" in case else "stop"))


@pytest.mark.parametrize("case", CASES["answers"], ids=lambda case: f"{case.get('fault', 'good')}: {case['ask'][:30]}")
def test_the_fault_of_an_answer_is_found(case: dict[str, Any]) -> None:
    assert fault_of(case) == case.get("fault")

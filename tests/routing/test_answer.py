"""The structure of an answer: what is a fault, and what the request asks for."""

from __future__ import annotations

from typing import Any

import pytest

from app.routing.answer.structure import structure

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

"""The structure of an answer: what is a fault, and what the request asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.answer.reading import read_answer, read_question
from app.routing.answer.structure import structure
from tests.routing.test_classify import JSON

FAULTS = {None, "json", "schema", "tool", "empty", "cut", "refusal", "loop"}
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


def request_of(case: dict[str, Any], cases: dict[str, Any] = CASES) -> dict[str, Any]:
    """Return the chat body of a case in answers.yaml."""
    system = [{"role": "system", "content": case["system"]}] if "system" in case else []
    body: dict[str, Any] = {"model": "auto", "messages": [*system, {"role": "user", "content": case["ask"]}]}
    if "schema" in case:
        body |= wants(cases["schemas"][case["schema"]])
    if "tools" in case:
        body["tools"] = [{"type": "function", "function": tool} for tool in cases["tools"][case["tools"]]]
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


def fault_of(case: dict[str, Any], cases: dict[str, Any] = CASES) -> str | None:
    finish = case.get("finish", "tool_calls" if "calls" in case else "stop")
    return structure(request_of(case, cases), answer_of(case), finish)


@pytest.mark.parametrize("case", CASES["answers"], ids=lambda case: f"{case.get('fault', 'good')}: {case['ask'][:30]}")
def test_the_fault_of_an_answer_is_found(case: dict[str, Any]) -> None:
    assert fault_of(case) == case.get("fault")


@pytest.mark.parametrize("answer", CASES["refusals"])
@pytest.mark.parametrize(
    "question", ["What is the tallest mountain?", "Wie viel ist drei plus vier?", "Explain how rain forms"]
)
def test_a_refusal_is_found_in_every_language(question: str, answer: str) -> None:
    assert structure(ask(question), answer, "stop") == "refusal"


@pytest.mark.parametrize("question, answer", CASES["no_refusals"])
def test_an_answer_that_looks_like_a_refusal_is_none(question: str, answer: str) -> None:
    assert structure(ask(question), answer, "stop") is None


def test_a_set_that_was_written_last_is_judged_almost_as_well() -> None:
    cases = yaml.safe_load(Path(__file__).with_name("answers_third.yaml").read_text(encoding="utf-8"))
    broken = [case for case in cases["answers"] if "fault" in case]
    good = [case for case in cases["answers"] if "fault" not in case]
    assert (len(broken), len(good)) == (44, 28)
    assert sum(fault_of(case, cases) == case["fault"] for case in broken) >= 41
    assert not [case for case in good if fault_of(case, cases)]


# --- what a client, a model and a server may send ----------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(JSON, JSON, JSON)
def test_values_of_any_shape_are_read(request_: Any, answer: Any, finish: Any) -> None:
    assert structure(request_, answer, finish) in FAULTS
    body = {
        "messages": [{"role": "user", "content": request_}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": answer}}],
        "tool_choice": finish,
        "response_format": {"type": "json_schema", "json_schema": {"schema": request_}},
        "max_tokens": finish,
    }
    message = {"content": answer, "tool_calls": [{"function": {"name": "f", "arguments": request_}}], "refusal": finish}
    assert structure(body, message, finish) in FAULTS
    assert structure(body, {"content": answer}, "length") in FAULTS


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_texts_of_any_kind_are_read(ask_: str, answer: str) -> None:
    for finish in ("stop", "length", "tool_calls", None):
        assert structure(ask(ask_), answer, finish) in FAULTS
        assert structure(ask(ask_, **wants(SCHEMA)), answer, finish) in FAULTS


def nested(depth: int, name: str) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {name: value}
    return value


def chain(length: int, reference: str) -> dict[str, Any]:
    """Return a schema whose definitions each name the next one twice."""
    definitions: dict[str, Any] = {
        f"d{at}": {"$anchor": f"d{at}", "allOf": [{"$ref": f"{reference}d{at + 1}"}] * 2} for at in range(length)
    }
    definitions[f"d{length}"] = {"$anchor": f"d{length}", "type": "integer"}
    return {"$defs": definitions, "$ref": f"{reference}d0"}


@pytest.mark.parametrize(
    "schema",
    [
        chain(60, "#/$defs/"), chain(60, "#"), nested(5_000, "items"), nested(5_000, "properties"),
        {"$ref": "file:///etc/hostname"}, {"$ref": "http://127.0.0.1:9/x"}, {"$ref": "#/nowhere"}, {"$ref": "#"},
        {"pattern": "(a*)*b(?=c)"}, {"pattern": "("}, {"pattern": "(a{1,1000}){1,1000}"},
        {"patternProperties": {"(": {}}},
        {"type": 3}, {"required": "x"}, {"properties": []}, {"enum": "x"}, {"$schema": "https://example.org/draft-9"},
        True,
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_checked_is_no_fault(schema: Any) -> None:
    assert structure(ask("x", **wants(schema)), '{"a": "b"}', "stop") is None
    assert structure(ask("x", **wants(schema)), "b", "stop") == "json"


@pytest.mark.parametrize(
    "schema, good, broken",
    [
        (chain(8, "#/$defs/"), "1", '"x"'),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "string"}]}, '["a", 1]', "[1]"),
        ({"items": [{"type": "string"}], "additionalItems": False}, '["a"]', '["a", "b"]'),
        ({"type": "string", "pattern": "^a+$"}, '"aaa"', '"aab"'),
        ({"type": "string", "format": "date-time"}, '"2027-01-31T10:00:00"', '"31.1.2027 10:00"'),
        ({"type": "string", "format": "date-time"}, '"2027-01-31T10:00:00.5+02:00"', '"2027-13-31T10:00:00Z"'),
        ({"type": "string", "format": "time"}, '"10:00"', '"25:00"'),
        ({"type": "string", "format": "uri"}, '"https://köln.example/ä?b=c"', '"no address"'),
        ({"type": "string", "format": "email"}, '"a@example.org"', '"a at example.org"'),
        ({"type": "string", "format": "uuid"}, '"3f2b8a10-5c1d-4e6f-8a9b-0c1d2e3f4a5b"', '"3f2b8a10"'),
        ({"type": "string", "format": "colour"}, '"red"', "3"),
        ({"type": "integer"}, "3.0", "3.5"),
        ({"type": "number"}, "123456789012345678901234567890", '"1"'),
        ({"anyOf": [{"type": "string", "nullable": True}, {"type": "integer"}]}, "null", "[]"),
        (
            {"properties": {"nullable": {"type": "boolean"}}, "required": ["nullable"]},
            '{"nullable": true}',
            '{"nullable": 3}',
        ),
        ({"const": {"pattern": "(?=a)"}}, '{"pattern": "(?=a)"}', "{}"),
    ],
    ids=str,
)
def test_values_are_checked_against_schemas_of_every_draft(schema: Any, good: str, broken: str) -> None:
    assert structure(ask("x", **wants(schema)), good, "stop") is None
    assert structure(ask("x", **wants(schema)), broken, "stop") == "schema"


@pytest.mark.parametrize(
    "text, fault",
    [
        ("[" * 200_000, "json"), ('{"a":' * 200_000, "json"), ("[" * 5_000 + "]" * 5_000, "json"),
        ("\ud83d", "json"), ("1" * 5_000, "json"), ("\x00", "empty"),
    ],
    ids=lambda value: str(value)[:12].encode("ascii", "backslashreplace").decode(),
)  # fmt: skip
def test_odd_json_is_read(text: str, fault: str) -> None:
    assert structure(ask("x", **wants(SCHEMA)), text, "stop") == fault


def test_ten_thousand_calls_are_checked() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
    calls = [{"function": {"name": "f", "arguments": '{"city": "Oslo"}'}}] * 10_000
    assert structure(ask("x", tools=tools), {"tool_calls": calls}, "tool_calls") is None
    calls[-1] = {"function": {"name": "f", "arguments": "{}"}}
    assert structure(ask("x", tools=tools), {"tool_calls": calls}, "tool_calls") == "tool"


@pytest.mark.parametrize(
    "call",
    [
        {"name": "f", "arguments": '{"city": "Oslo"}'},
        {"type": "function", "function": {"name": "f", "arguments": {"city": "Oslo"}}},
        {"type": "custom", "custom": {"name": "free", "input": "no JSON"}},
    ],
)
def test_calls_of_every_form_are_read(call: Any) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
        {"type": "custom", "custom": {"name": "free"}},
    ]
    assert structure(ask("x", tools=tools), {"tool_calls": [call]}, "stop") is None
    assert structure(ask("x", tools=tools), {"tool_calls": call}, "stop") is None
    assert structure(ask("x", tools=tools[:0]), {"tool_calls": [call]}, "stop") == "tool"


def test_a_call_of_the_old_form_is_read() -> None:
    functions = [{"name": "f", "parameters": SCHEMA}]
    good = {"content": None, "function_call": {"name": "f", "arguments": '{"city": "Oslo"}'}}
    broken = {"content": None, "function_call": {"name": "f", "arguments": '{"town": "Oslo"}'}}
    assert structure(ask("x", functions=functions), good, "function_call") is None
    assert structure(ask("x", functions=functions), broken, "function_call") == "tool"


def test_without_a_request_only_the_answer_is_judged() -> None:
    call = {"function": {"name": "f", "arguments": "{}"}}
    assert structure(None, {"tool_calls": [call]}) is None
    assert structure(None, {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}) == "tool"
    assert structure(None, "Four.") is None
    assert structure(None, "") == "empty"
    assert structure(None, "I'm sorry, but I can't help with that.") == "refusal"


def test_the_latest_turns_and_the_system_prompt_make_the_question() -> None:
    turns = [{"role": "user", "content": [{"type": "text", "text": f"turn {n}"}]} for n in range(9)]
    question = read_question({"messages": [{"role": "developer", "content": "Be brief."}, *turns]})
    assert question.ask == "turn 6\nturn 7\nturn 8"
    assert question.system == "Be brief."
    chat = [
        {"role": "user", "content": "Write a letter that declines the offer"},
        {"role": "assistant", "content": "Dear …"},
        {"role": "user", "content": "shorter"},
    ]
    assert structure({"messages": chat}, "I'm sorry, I can't do that.", "stop") is None


@pytest.mark.parametrize(
    "whole, text",
    [
        ("<think>a</think>b", "b"), (" <thinking>a</thinking>\nb", "\nb"), ("a\n</think>\n\nb", "\n\nb"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b", "b"),
        ("The tag <think> begins it.\n</think> ends it.", "The tag <think> begins it.\n</think> ends it."),
        ("<b>a</b>", "<b>a</b>"),
    ],
)  # fmt: skip
def test_reasoning_is_no_part_of_an_answer(whole: str, text: str) -> None:
    assert read_answer(whole).text == text
    assert read_answer({"content": whole}).text == text

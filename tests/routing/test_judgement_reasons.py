"""The judgement of an answer: its structure first, then its doubt, and the part that decides."""

from __future__ import annotations

from typing import Any

import pytest

from app.routing.judgement import Exchange, can_change, judge
from app.types import Verification, Verified

QUESTION = "How many apples are left when 50 apples are shared by 8 children?"
PROSE = """\
The apple comes from the mountains of Central Asia, where its wild ancestor still grows. Traders carried it west along
the old roads, and gardeners in Greece and Rome learned to graft the best trees onto strong roots. Monks kept orchards
through the centuries that followed, and wrote down which kinds stayed firm until spring. Settlers took seeds across the
ocean; most of the young trees gave sour fruit that was good for cider alone. In the nineteenth century nurseries listed
thousands of named kinds, each with its own season, colour and use. Cold stores and long transport then favoured a few
that travel well. Today breeders look for trees that resist scab and late frost, and small growers bring back old kinds
because people like their taste. An orchard is also a home for birds, bees and hedgehogs, which is why many villages
plant new ones on common land and invite schools to help with the harvest in autumn.
"""
SURE, UNSURE = (-0.01,) * 8, (-4.0,) * 8


def exchange(text: str = "The answer is 42.", question: str = QUESTION, **fields: Any) -> Exchange:
    rules = Verification(**{"second": "twin", "doubt": 0.3, **fields.pop("rules", {})})
    chat = {"messages": [{"role": "user", "content": question}], **fields.pop("chat", {})}
    return Exchange(chat=chat, message=message(text), finish="stop", rules=rules, **fields)


def test_the_call_of_a_tool_needs_a_second_opinion():
    call = {"id": "1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    other = {"id": "1", "type": "function", "function": {"name": "weigh", "arguments": "{}"}}
    tools = [{"type": "function", "function": {"name": name}} for name in ("count", "weigh")]
    asked = Exchange(
        chat={"messages": [{"role": "user", "content": QUESTION}], "tools": tools},
        message={"role": "assistant", "content": None, "tool_calls": [call]},
        rules=Verification(second="twin"),
    )
    assert judge(asked).reason == ""
    assert judge(asked, asked.message).reason == ""
    assert judge(asked, {**asked.message, "tool_calls": [other]}).reason in ("agreement", "difficulty")


def message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    ("fields", "second", "reason"),
    [
        ({}, "The answer is 42.", ""),
        ({}, "The answer is 17.", "agreement"),
        ({}, None, ""),
        ({"text": ""}, "", "structure"),
        ({"text": "", "rules": {"by": frozenset({"agreement"}), "doubt": 1}}, "", ""),
        ({"text": "The ans", "is_whole": False}, None, "structure"),
        ({"text": "The ans", "is_whole": False, "rules": {"by": frozenset({"agreement"})}}, None, "structure"),
        ({"logprobs": UNSURE}, None, "confidence"),
        ({"logprobs": SURE}, None, ""),
        ({"logprobs": UNSURE, "rules": {"by": frozenset({"structure"})}}, None, ""),
        ({"difficulty": 1.0, "rules": {"doubt": 0.05}}, "The answer is 42.", "difficulty"),
        ({"difficulty": 1.0, "rules": {"doubt": 0.05}}, None, "difficulty"),
        ({"difficulty": 1.0, "rules": {"doubt": 0.05, "second": None}}, None, ""),
        ({"text": PROSE, "question": "Write about apples.", "rules": {"doubt": 0.01}}, None, ""),
        ({"text": PROSE, "question": "Write about apples.", "logprobs": UNSURE}, None, "confidence"),
    ],
)
def test_the_reason(fields, second, reason):
    ruling = judge(exchange(**fields), None if second is None else message(second))
    assert ruling.reason == reason


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ({}, True),
        ({"rules": {"doubt": 0.99}}, False),  # no opinion adds so much doubt
        ({"rules": {"doubt": 0.0}}, False),  # the answer is escalated in any case
        ({"rules": {"second": None}}, False),
        ({"rules": {"second": None, "samples": 2}, "is_sample": True}, True),
        ({"rules": {"by": frozenset({"structure", "confidence"})}}, False),
        ({"text": ""}, False),
        ({"text": PROSE, "question": "Write about apples."}, False),
    ],
)
def test_a_second_opinion_is_asked_for_only_when_it_can_change_the_verdict(fields, may):
    asked = exchange(**fields)
    assert can_change(asked, judge(asked)) is may


def test_the_verdict_has_what_the_record_needs():
    verdict = judge(exchange(), message("The answer is 17.")).verdict(Verified.ESCALATED, 120)
    assert (verdict.verified, verdict.verified_reason, verdict.agreement) == ("escalated", "agreement", 0)
    assert verdict.doubt is not None and 0.3 < verdict.doubt < 1
    assert (verdict.fault, verdict.held_ms) == (None, 120)
    verdict = judge(exchange("")).verdict(Verified.KEPT, 0)
    assert (verdict.fault, verdict.doubt, verdict.agreement) == ("empty", None, None)

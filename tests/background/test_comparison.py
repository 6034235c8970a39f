"""The judgement of two answers to one request: symmetric, and with the same evidence on both sides."""

from __future__ import annotations

from typing import Any

import pytest

from app.background.comparison import Comparison
from app.types import Verdict
from app.wire.answer import Answer

ASK = "How many legs do three spiders have? Answer with a number."
STORY = "Write a story about a lighthouse keeper who finds a letter."
LONG = "The keeper climbed the stairs every night, and every night the lamp was lit before the first ship came by. " * 8
OTHER = "A letter lay between the stones, wet with salt, and nobody had opened it for as long as the tower stood. " * 8
SURE, UNSURE = (-0.01,) * 20, (-3.0,) * 20
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object", "required": ["legs"]}}}


def answer(content: str | None, finish: str | None = "stop", logprobs: tuple[float, ...] = (), **more: Any) -> Answer:
    return Answer({"role": "assistant", "content": content, **more}, finish, logprobs)


def verdict(live: Answer, candidate: Answer, ask: str = ASK, **body: Any) -> Verdict:
    chat = {"messages": [{"role": "user", "content": ask}], **body}
    return Comparison(chat, live, candidate, 0.4).verdict()


PAIRS = {
    "the same": (answer("24"), answer("24")),
    "differ": (answer("24"), answer("3 x 8 = 26, so the answer is 26.")),
    "logprobs of both": (answer("24", logprobs=SURE), answer("26", logprobs=UNSURE)),
    "logprobs of one": (answer("24", logprobs=SURE), answer("26")),
    "empty": (answer("24"), answer("")),
    "cut": (answer("24"), answer("Three spiders have", "length")),
    "a call of an unknown tool": (
        answer("24"),
        answer(None, "tool_calls", tool_calls=[{"id": "1", "type": "function", "function": {"name": "legs"}}]),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_the_sides_are_treated_alike(name: str) -> None:
    live, candidate = PAIRS[name]
    one, two = verdict(live, candidate), verdict(candidate, live)
    assert (one.doubt, one.live_doubt, one.agreement) == (two.live_doubt, two.doubt, two.agreement)
    assert verdict(live, live).doubt == verdict(live, live).live_doubt


def test_agreement_lowers_the_doubt_of_both() -> None:
    same, differ = verdict(*PAIRS["the same"]), verdict(answer("24"), answer("26"))
    assert (same.agreement, differ.agreement) == (1, 0)
    assert same.doubt is not None and differ.doubt is not None and same.doubt < differ.doubt
    assert same.live_doubt is not None and differ.live_doubt is not None and same.live_doubt < differ.live_doubt


def test_log_probabilities_count_when_both_have_them() -> None:
    both = verdict(answer("24", logprobs=SURE), answer("24", logprobs=UNSURE))
    assert both.doubt is not None and both.live_doubt is not None and both.live_doubt < both.doubt
    assert verdict(answer("24", logprobs=SURE), answer("24")) == verdict(answer("24"), answer("24"))


def test_texts_that_cannot_be_compared_have_no_agreement() -> None:
    judged = verdict(answer(LONG), answer(OTHER), STORY)
    assert judged.agreement is None
    assert judged.doubt is not None and judged.live_doubt is not None


@pytest.mark.parametrize(
    "candidate, fault",
    [
        (answer(""), "empty"),
        (answer("Three spiders have", "length"), "cut"),
        (answer("Here it is."), "json"),
        (answer('{"arms": 24}'), "schema"),
        (answer('{"legs": 24}'), None),
    ],
    ids=str,
)
def test_an_answer_with_a_fault_is_certainly_wrong(candidate: Answer, fault: str | None) -> None:
    good = answer('{"legs": 24}')
    judged = verdict(good, candidate, response_format=SCHEMA)
    assert judged.fault == fault
    assert (judged.doubt == 1) is (fault is not None)
    assert judged.live_doubt is not None and judged.live_doubt < 1
    assert verdict(candidate, good, response_format=SCHEMA).fault is None, "the fault of the row's own answer"

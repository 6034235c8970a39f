"""The doubt of an answer: what raises and what lowers it, with any subset of the evidence, for input of any shape."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from app.routing import doubt as module
from app.routing.answer.agreement import Comparison
from app.routing.answer.comparable import comparable, may_compare
from app.routing.answer.confidence import confidence
from app.routing.doubt import assess, doubt
from tests.documents import ROOT

SUM = "What is 28 + 24? Answer with the number only."
CHOICE = "Which planet is the largest?\nA. Mars\nB. Jupiter\nC. Venus"
SURE, UNSURE = [-0.01] * 20, [-2.5] * 20
ODD: list[Any] = [
    None, "", " ", "\x00", "\ud800", 7, 1.5, True, [], {}, [None], [[]], {"content": None}, {"content": [1, None]},
    {"content": {"a": 1}}, {"tool_calls": [None]}, {"tool_calls": [{"function": {"name": 1, "arguments": 2}}]},
    {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, b"bytes", object(), "[" * 5_000, "{" * 5_000,
    '{"answer": ' * 400, "\\boxed{" * 900, "9" * 5_000, "1e999", "٣٤", "²", "1/0", "0/0", "-" * 3_000, "A. " * 2_000,
    "10^999999", "9^9^9^9", "NaN", "\\frac{1}{0}", "5.3.99999", "99:99", "(" * 4_000, "**" * 2_000, "```" * 1_000,
    "∞ - ∞",
]  # fmt: skip


# --- what raises and what lowers it -------------------------------------------------------------


def test_agreement_lowers_the_doubt_and_disagreement_raises_it() -> None:
    alone = doubt(SUM, "52")
    assert doubt(SUM, "52", second="The answer is 52.") < alone < doubt(SUM, "52", second="54")


def test_a_sample_of_the_same_model_counts_less() -> None:
    alone = doubt(SUM, "52")
    for second in ("52", "54"):
        other, sample = (abs(doubt(SUM, "52", second=second, sampled=flag) - alone) for flag in (False, True))
        assert sample < other


def test_several_opinions_count_more_than_one() -> None:
    for second in ("52", "54"):
        alone = doubt(SUM, "52")
        one, three = (abs(doubt(SUM, "52", second=[second] * count) - alone) for count in (1, 3))
        assert one < three
    assert doubt(SUM, "52", second=["52", "54"]) < doubt(SUM, "52", second=["54", "54"])


def test_two_out_of_two_agree_by_chance() -> None:
    free = "How many eggs are left? Answer with the number only."
    closed = "Is it A or B?\nA. 4\nB. 5"
    gain = doubt(free, "4") - doubt(free, "4", second="4"), doubt(closed, "A") - doubt(closed, "A", second="A")
    assert gain[0] > gain[1] > 0


def test_probabilities_of_the_tokens() -> None:
    assert doubt(SUM, "52", logprobs=SURE) < doubt(SUM, "52", logprobs=UNSURE)
    few_bad = [*([-0.01] * 15), *([-4.0] * 5)]
    assert doubt(SUM, "52", logprobs=SURE) < doubt(SUM, "52", logprobs=few_bad)


@pytest.mark.parametrize(
    ("question", "good", "bad"),
    [
        (CHOICE, "Jupiter is by far the largest planet. The answer is (B).", "There are many planets and all of them"),
        (SUM, "28 + 24 = 52", "28 + 24 = 62"),
        (SUM, "The sum is 52.", "I am not sure, but it might be 52, maybe."),
        ("Which is larger, 9.9 or 9.11?", "9.9 > 9.11, so 9.9.", "9.11 > 9.9, so 9.11."),
        (SUM, "28 and 24 make 52.", "28 and 24 make 52. " + "Then we add 28 and 24 once more. " * 90),
    ],
)
def test_signs_in_the_answer(question: str, good: str, bad: str) -> None:
    assert doubt(question, good) < doubt(question, bad)


def test_an_answer_that_was_cut_is_doubtful() -> None:
    assert doubt(SUM, "28 and 24 make", finish="length") > doubt(SUM, "28 and 24 make", finish="stop")


def test_a_fault_of_the_structure_is_a_great_doubt() -> None:
    wants_json = {"messages": [{"role": "user", "content": SUM}], "response_format": {"type": "json_object"}}
    assert doubt(SUM, "52", second="52", request=wants_json) >= module.FAULTY
    assert doubt(SUM, '{"sum": 52}', second='{"sum": 52}', request=wants_json) < 0.5
    assert doubt(SUM, "") >= module.FAULTY


def test_difficulty() -> None:
    assert doubt(SUM, "52", difficulty=0.1) < doubt(SUM, "52", difficulty=0.9)
    assert assess(SUM, "52").difficulty == module.difficulty_text(SUM)


def test_the_question_may_come_with_the_request() -> None:
    request = {"messages": [{"role": "user", "content": CHOICE}]}
    assert doubt("", "B", request=request, second="Jupiter") == doubt(CHOICE, "B", second="Jupiter")


def test_messages_are_read_like_texts() -> None:
    message = {"role": "assistant", "content": [{"type": "text", "text": "52"}]}
    assert doubt(SUM, message, second={"content": "54"}) == doubt(SUM, "52", second="54")


def test_tool_calls_are_compared_by_value() -> None:
    def call(arguments: object, name: str = "weather") -> dict[str, Any]:
        return {"content": None, "tool_calls": [{"id": "x", "function": {"name": name, "arguments": arguments}}]}

    rome = call('{"city": "Rome", "days": 2}')
    same = [call('{"days":2.0,"city":"Rome"}'), call({"city": "Rome", "days": 2})]
    other = [call('{"city": "Paris", "days": 2}'), call('{"city": "Rome"}'), call("{}", "time"), call("{"), "Rome"]
    assert all(assess("Weather?", rome, second=second).agreement == 1 for second in same)
    assert all((assess("Weather?", rome, second=second).agreement or 0) < 0.5 for second in other)


def test_the_parts_are_there() -> None:
    parts = assess(SUM, "52", second=["52", "54"], logprobs=SURE)
    assert parts.agreement == 0.5
    assert parts.confidence == pytest.approx(math.exp(-0.01))
    assert set(parts.points) == {"answer", "agreement", "confidence"}
    nothing = assess(SUM, "52")
    assert (nothing.agreement, nothing.confidence) == (None, None)


# --- weights -------------------------------------------------------------------------------------


def test_no_weight_is_against_its_sign() -> None:
    weights = module.WEIGHTS
    assert set(weights["answer"]) == {"bias", *module.NAMES}
    assert all(weights["answer"][name] >= 0 for name in module.NAMES)
    assert weights["confidence"]["mean"] >= 0 and weights["confidence"]["low"] >= 0
    for kind in ("opinion", "sample"):
        own = weights[kind]
        assert own["wrong"] < own["right"]
        assert own["right and harder"] >= 0 and own["wrong and harder"] >= 0
        assert 0 <= own["several"] <= 1


@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("space", [0, 2, 3, 10])
@pytest.mark.parametrize("has_values", [False, True])
def test_more_agreement_never_adds_doubt(sampled: bool, space: int, has_values: bool) -> None:
    for alone in (-4.0, -1.0, 0.0, 1.0, 4.0):
        steps = [Comparison(step / 20, has_values) for step in range(21)]
        points = [module.agreement_points([step], space, alone, sampled) for step in steps]
        assert points == sorted(points, reverse=True)
        assert points[0] >= 0 >= points[-1]


def test_disagreement_on_an_easy_question_says_more() -> None:
    added = [module.agreement_points([Comparison(0.0)], 0, alone) for alone in (-2.0, 0.0, 2.0)]
    assert added == sorted(added, reverse=True)


def test_the_likeness_of_long_texts_says_little() -> None:
    question, text = "Explain photosynthesis.", "Plants use light to make sugar from water and carbon dioxide. " * 20
    other = "Light drives the conversion of water and CO2 into glucose and oxygen in green leaves. " * 15
    alone = doubt(question, text)
    assert abs(doubt(question, text, second=other) - alone) < 0.1
    assert doubt(question, text, second=text) <= doubt(question, text, second=other)


# --- input of any shape --------------------------------------------------------------------------


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
def test_odd_input_is_no_error(odd: Any) -> None:
    request = odd if isinstance(odd, dict) else {"messages": odd, "response_format": odd, "tools": odd}
    for question in (SUM, CHOICE, odd):
        for answer, second in ((odd, "52"), ("52", odd), (odd, odd), (odd, [odd, odd])):
            value = doubt(question, answer, second=second, logprobs=odd, request=request, finish=odd)
            assert 0 < value < 1
        assert comparable(question, odd, request) in (True, False)
        assert may_compare(question, request) in (True, False)


def test_odd_log_probabilities() -> None:
    assert confidence([]) is None
    assert confidence([None, "x", float("nan")]) is None
    for least in (-math.inf, -(10**400)):
        smallest = confidence([least, 0.5])
        assert smallest is not None and smallest.mean == -10.0
    assert confidence(-0.1 for _ in range(3)) is not None


@pytest.mark.parametrize(
    "text", ["The answer is (B). ", "28 + 24 = 52, ", '{"a": [1, 2]}', "word ", "Is it (A)? ", "\n"]
)
def test_a_long_answer_is_read_at_its_ends(text: str) -> None:
    long = text * (1_000_000 // len(text))
    assert 0 < doubt(CHOICE + long, long, second=long, logprobs=[-0.1] * 100_000) < 1


# --- comparable ----------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
PROSE = "The river begins in the hills and passes many towns on its way to the sea. " * 20


@pytest.mark.parametrize(
    ("question", "request_", "expected"),
    [
        (SUM, None, True),
        (CHOICE, None, True),
        ("Is the Nile longer than the Rhine?", None, True),
        ("When did the war end?", None, True),
        ("Who wrote Faust?", None, True),
        ("Wie viele Tage hat der Mai?", None, True),
        ("Classify as spam or ham: You won!", None, True),
        ("Extract the name as JSON: I am Anna.", None, True),
        ("Tell me about rivers.", {"response_format": {"type": "json_object"}}, True),
        ("Tell me about rivers.", {"tools": TOOLS}, True),
        ("Name it", {"max_tokens": 10}, True),
        ("Write a poem about the sea.", None, False),
        ("Explain how a combustion engine works.", None, False),
        ("Write a Python program that plays chess.", None, False),
        ("Summarise the following text: " + PROSE, None, False),
        ("Why is the sky blue?", None, False),
        ("Schreibe einen Brief an den Vermieter.", None, False),
    ],
)
def test_what_may_be_compared_is_told_by_the_request(question: str, request_: Any, expected: bool) -> None:
    assert may_compare(question, request_) is expected


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        (SUM, "52", True),
        (SUM, PROSE + "So the answer is 52.", True),
        (CHOICE, PROSE + "The answer is (B).", True),
        ("Who wrote Faust?", "Goethe", True),
        ("Return JSON.", '{"a": 1}', True),
        ("Weather?", {"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}, True),
        ("Give me the shell command.", "```sh\nls -la\n```", True),
        ("Tell me about the river.", PROSE, False),
        ("Write the function.", "```python\n" + "x = x + 1\n" * 60 + "```", False),
        ("Tell me about the river.", "", False),
    ],
)
def test_what_can_be_compared_is_told_by_the_answer(question: str, answer: Any, expected: bool) -> None:
    assert comparable(question, answer) is expected


def test_docs_show_the_weights_in_use() -> None:
    text = (ROOT / "docs" / "verify.md").read_text("utf-8")
    shown = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert shown == json.loads(Path(module.__file__).with_name("doubt_weights.json").read_text("utf-8"))

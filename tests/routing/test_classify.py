"""The classifier: a table of prompts, then the body's shapes, sizes and times."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing import model
from app.routing.classify import classify, classify_text, evidence
from app.types import COMPLEXITIES, FAMILIES, MODALITIES, TASKS, ChatRequest, Cuts, Dialect

CASES = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text(encoding="utf-8"))
HELD_OUT = yaml.safe_load((Path(__file__).parent / "held_out.yaml").read_text(encoding="utf-8"))
OWN = yaml.safe_load((Path(__file__).parent / "own_prompts.yaml").read_text(encoding="utf-8"))
HARD_PROOF = (
    "Prove that every continuous function on a compact metric space is uniformly continuous. Then give a rigorous "
    "counterexample when compactness is dropped, and derive the weakest condition on the space under which the theorem "
    "still holds. State every lemma that you use and prove each of them."
)
HARD_DESIGN = (
    "Design a distributed, multi-tenant job queue with exactly-once semantics across three regions: describe the "
    "consensus protocol, sharding, replication and what happens during a network partition."
)


@dataclass(frozen=True)
class FakeBody:
    chat: Any

    def encode(self, model: str, dialect: Dialect, *, stream: bool) -> bytes:  # noqa: ARG002
        raise AssertionError("the classifier never writes a body")


def request(chat: Any, sensitivity: str = "normal") -> ChatRequest:
    return ChatRequest(
        request_id="r", surface="chat", body=FakeBody(chat), model="auto", stream=False, sensitivity=sensitivity
    )


def chat(*messages: Any, **fields: Any) -> ChatRequest:
    """User and assistant by turns, the user first; dicts go in as they are."""
    roles = ("user", "assistant")
    turns = [m if isinstance(m, dict) else {"role": roles[i % 2], "content": m} for i, m in enumerate(messages)]
    return request({"messages": turns, **fields})


@pytest.mark.parametrize(("task", "text"), [(task, text) for task, texts in CASES.items() for text in texts])
def test_task(task: str, text: str) -> None:
    assert classify_text(text).task == task


def test_image_anywhere_makes_it_vision() -> None:
    for part in ({"type": "image_url", "image_url": {"url": "data:,x"}}, {"type": "input_image", "image_url": "x"}):
        tags = classify(chat([{"type": "text", "text": "what is this?"}, part], "a cat", "and its colour?"))
        assert (tags.task, tags.modality, tags.family) == ("vision", "image", "gemma")


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("write a python function to reverse a string", "qwen-coder"),
        ("Summarize this article: the council met", "llama"),
        ("Write a birthday poem for my grandmother", "llama"),
        ("What's the weather in Berlin tomorrow?", "any"),
        ("Classify this review as positive or negative: I loved it", "any"),
    ],
)
def test_family(text: str, family: str) -> None:
    assert classify_text(text).family == family


def test_sensitivity_is_taken_as_it_is() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert [classify(request(body, word)).sensitivity for word in ("normal", "high")] == ["normal", "high"]


@pytest.mark.parametrize("text", ["write a python function to reverse a string", "hi", "What is the capital of Peru?"])
def test_easy_is_low(text: str) -> None:
    assert classify_text(text).complexity == "low"


@pytest.mark.parametrize("text", [HARD_PROOF, HARD_DESIGN])
def test_short_but_hard_is_not_low(text: str) -> None:
    assert len(text) < 400
    assert classify_text(text).complexity != "low"


PYTHON = "write a python function to sort a list of dicts by key"
POEM = "Write a poem about autumn leaves for my mother"
WEATHER = "What's the weather in Rome today?"
ARTICLE = "Summarize this article: The council met on Monday and decided on the bridge."


@pytest.mark.parametrize(
    ("before", "now", "task"),
    [
        (PYTHON, "and in Rust?", "code"),
        (PYTHON, "shorter please", "code"),
        (PYTHON, "why?", "code"),
        (PYTHON, "it still fails", "code"),
        (POEM, "shorter please", "general"),
        (POEM, "why?", "general"),
        (WEATHER, "and tomorrow?", "web_search"),
        (ARTICLE, "in two sentences", "summarisation"),
        ("Classify as positive or negative: I love it", "and this one: what a waste", "classification"),
        (PYTHON, WEATHER, "web_search"),  # a new question is no follow-up
        (PYTHON, "thanks! now tell me a joke about cats", "general"),
        (POEM, "Summarize our conversation", "summarisation"),
        (POEM, "Now write a Python script that prints it", "code"),
    ],
)
def test_turns_before_are_heard(before: str, now: str, task: str) -> None:
    assert classify(chat(before, "...", now)).task == task


def test_a_follow_up_is_as_hard_as_what_it_follows() -> None:
    assert classify(chat("why?")).complexity == "low"
    assert classify(chat(HARD_PROOF, "...", "why?")).complexity != "low"


def test_a_short_system_prompt_may_hold_the_instruction() -> None:
    def task(system: str, text: str) -> str:
        return classify(chat({"role": "system", "content": system}, {"role": "user", "content": text})).task

    assert task("Classify the user's message as positive or negative.", "The food was cold.") == "classification"
    assert task("Summarize the text that the user sends.", "The council met on Monday.") == "summarisation"
    assert task("You are a helpful assistant.", "What is the capital of Peru?") == "general"


def test_harness_text_does_not_decide() -> None:
    reminder = "<system-reminder>\nRun pytest after python edits; git commit the code.\n</system-reminder>\n"
    assert classify_text(reminder + "Write a birthday poem for my grandmother").task == "general"
    turns = [{"role": "user", "content": "Write a birthday poem"}, {"role": "tool", "content": "Traceback: def f():"}]
    assert classify(chat(*turns)).task == "general"
    assert classify(chat("Write a birthday poem", "ok", reminder)).task == "general"


def test_pasted_text_does_not_decide() -> None:
    mail = "Hi, the python server crashed, the function returned null and the query failed. We fixed the bug. Tim"
    assert classify_text(f"Summarize this email:\n\n{mail}").task == "summarisation"
    assert classify_text(f"<document>\n{mail}\n</document>\nWrite a birthday poem").task == "general"
    tool = {"role": "tool", "content": "Sunny in Rome, latest news today"}
    assert classify(chat({"role": "user", "content": "Fix the failing test in parser.py"}, tool)).task == "code"


def test_code_fences_decide() -> None:
    assert classify_text("```\nfoo\n```\nwhat about this?").task == "code"


def test_tokens_count_everything() -> None:
    word = "word " * 80  # 400 characters
    assert classify(chat(word)).tokens == 104
    assert classify(chat(word, word, word)).tokens == 312
    tool = {"type": "function", "function": {"name": "f", "description": "x" * 4000}}
    assert 1100 < classify(chat(word, tools=[tool])).tokens < 1200
    assert classify(chat(word, instructions=word)).tokens == 204
    picture = [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}]
    assert classify(chat(picture)).tokens == 1004
    assert 90 <= classify_text("漢" * 100).tokens <= 120
    assert classify(chat(*["word " * 8000] * 21)).tokens > 200_000


@pytest.mark.parametrize("task", ["general", "code", "web_search", "summarisation", "classification"])
def test_own_prompts(task: str) -> None:
    wrong = [text for text in OWN[task] if classify_text(text).task != task]
    assert len(wrong) <= 5, wrong


@pytest.mark.parametrize("task", ["general", "code", "web_search", "summarisation", "classification"])
def test_languages_do_not_collapse(task: str) -> None:
    wrong = [text for text in OWN["languages"][task] if classify_text(text).task != task]
    assert len(wrong) <= 1, wrong


@pytest.mark.parametrize(
    ("kind", "task", "allowed"),
    [
        ("plain", "general", 7),
        ("plain", "code", 1),
        ("plain", "web_search", 0),
        ("plain", "summarisation", 0),
        ("plain", "classification", 0),
        ("kinds", "summarisation", 2),
        ("kinds", "classification", 1),
        ("kinds", "web_search", 1),
        ("kinds", "code", 0),
        ("kinds", "general", 0),
        *(("typos", task, 0) for task in OWN["typos"]),
        *(("more_languages", task, 0) for task in OWN["more_languages"]),
    ],
)
def test_own_prompts_of_more_kinds(kind: str, task: str, allowed: int) -> None:
    wrong = [text for text in OWN[kind][task] if classify_text(text).task != task]
    assert len(wrong) <= allowed, wrong


@pytest.mark.parametrize(
    ("kind", "task", "allowed"),
    [
        ("operations", "code", 4),
        ("codebase", "code", 6),
        ("everyday", "general", 1),
        ("live", "web_search", 3),
        ("timeless", "general", 2),
        ("plain", "general", 1),
        ("given", "summarisation", 2),
        ("given", "classification", 1),
        ("later", "code", 3),
        ("later", "web_search", 2),
        ("later", "general", 1),
        ("later", "summarisation", 1),
        ("later", "classification", 1),
        ("unseen", "code", 13),
        ("unseen", "web_search", 2),
        ("unseen", "general", 1),
        ("unseen", "summarisation", 3),
        ("unseen", "classification", 3),
    ],
)
def test_held_out_prompts(kind: str, task: str, allowed: int) -> None:
    wrong = [text for text in HELD_OUT[kind][task] if classify_text(text).task != task]
    assert len(wrong) <= allowed, wrong


def test_what_is_not_recognised_is_not_certain() -> None:
    """A policy that keeps code local lets prompts leave from a confidence of 0.9 on."""
    asked = [(text, task) for kind in HELD_OUT.values() for task in kind for text in kind[task]]
    wrong = [
        (text, task) for text, task in asked if (tags := classify_text(text)).task != task and tags.confidence >= 0.9
    ]
    assert len(wrong) <= 1, wrong
    assert [text for text, task in wrong if task == "code"] == []


def test_own_prompts_by_complexity() -> None:
    low = [text for text in OWN["hard"] if classify_text(text).complexity == "low"]
    assert len(low) <= 2, low
    assert [text for text in OWN["easy"] if classify_text(text).complexity != "low"] == []


def test_hard_prompts_stand_above_easy_and_plain_ones() -> None:
    hard = [classify_text(text).difficulty for text in OWN["hard"]]
    for kind in ("easy", "general", "web_search", "summarisation", "classification"):
        others = [classify_text(text).difficulty for text in OWN[kind]]
        above = sum(one > other for one in hard for other in others)
        assert above / (len(hard) * len(others)) >= 0.97, kind


def test_own_prompts_are_not_trained_on() -> None:
    training = Path(__file__).parents[2] / "training"
    seeds = {line for file in training.glob("*.txt") for line in file.read_text(encoding="utf-8").lower().splitlines()}
    own = [
        text
        for kind in (*OWN.values(), *HELD_OUT.values())
        for texts in (kind.values() if isinstance(kind, dict) else [kind])
        for text in texts
    ]
    assert {text.lower() for text in own}.isdisjoint(seeds)


def test_difficulty_and_cuts() -> None:
    easy, hard = classify_text("hi"), classify_text(HARD_PROOF)
    assert 0 <= easy.difficulty < 0.2 < 0.5 < hard.difficulty <= 1
    assert 0 < easy.confidence <= 1
    assert classify_text("hi", Cuts(medium=0.0, high=1.0)).complexity == "medium"
    assert classify_text("hi", Cuts(medium=0.0, high=0.0)).complexity == "high"
    assert classify(chat("hello", "word " * 8000, "hi")).complexity == "medium"  # size alone


def test_the_evidence_has_the_same_tags_and_their_reasons() -> None:
    request = chat("write a python function to reverse a string")
    reasons = evidence(request)
    assert reasons.tags == classify(request)
    assert reasons.runner_up == "general"
    assert reasons.task_signs[0].points > 0
    assert "tech" in {sign.feature for sign in reasons.task_signs}
    assert {"code", "size"} <= {sign.feature for sign in reasons.difficulty_signs}
    follow_up = evidence(chat(PYTHON, "...", "why?"))
    assert any(sign.feature.startswith("turn 1: ") for sign in follow_up.task_signs)
    assert evidence(chat([{"type": "image_url"}])).tags.task == "vision"


def test_unsure_is_visible() -> None:
    assert classify_text("hmm").confidence < 0.9 < classify_text("git rebase fails with a merge conflict").confidence


def test_the_artefact_is_small_and_loads_fast() -> None:
    path = Path(model.__file__).with_name("weights.json")
    text = path.read_text(encoding="utf-8")
    assert len(text) < 100_000

    def cost_ms() -> float:
        begin = time.perf_counter()
        model.Model(json.loads(path.read_text(encoding="utf-8")))
        return (time.perf_counter() - begin) * 1000

    assert min(cost_ms() for _ in range(5)) < 20


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "image_url", "x"]) | st.text(), inner, max_size=4
        )
    ),
    max_leaves=12,
)
MESSAGE = st.fixed_dictionaries({}, optional={"role": st.sampled_from(["user", "tool"]) | JSON, "content": JSON})


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries({"messages": st.lists(MESSAGE | JSON) | JSON}, optional={"tools": JSON, "instructions": JSON})
)
def test_never_raises(body: dict[str, Any]) -> None:
    tags = classify(request(body))
    assert tags.task in TASKS and tags.complexity in COMPLEXITIES
    assert tags.modality in MODALITIES and tags.family in FAMILIES and tags.tokens >= 0


BIG = 1_000_000
BIG_TEXTS = [
    "a" * BIG, " " * BIG, "<" * BIG, "<a_b>" * (BIG // 5), "</" * (BIG // 2), "word " * (BIG // 5), "a_" * (BIG // 2),
    "aA" * (BIG // 2), "漢" * BIG, "é" * BIG, "(" * BIG, "a(" * (BIG // 2), "```\n" * (BIG // 4), "\n- " * (BIG // 3),
    "a.b-c'" * (BIG // 6), "\U0001f600" * BIG, "<x_y></x_y>" * (BIG // 11), "\x00" * BIG, "1" * BIG,
]  # fmt: skip


@pytest.mark.parametrize("text", BIG_TEXTS, ids=[ascii(text[:6]) for text in BIG_TEXTS])
def test_a_megabyte_takes_under_ten_milliseconds(text: str) -> None:
    def cost_ms(body: ChatRequest) -> float:
        begin = time.thread_time()
        classify(body)
        return (time.thread_time() - begin) * 1000

    words = chat(text)
    parts = chat([{"type": "text", "text": text[i : i + 1000]} for i in range(0, BIG, 1000)])
    for body in (words, parts):
        assert min(cost_ms(body) for _ in range(5)) < 10


def test_long_conversations_are_fast() -> None:
    turns = json.loads(json.dumps(["some words in a turn " * 40] * 1000))
    body = chat(*turns)
    begin = time.thread_time()
    tags = classify(body)
    assert time.thread_time() - begin < 0.05
    assert tags.tokens > 200_000


def test_it_is_used_alone_without_any_package() -> None:
    """-S leaves site-packages out, -I the environment: nothing but the standard library is there."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from app.routing.classify import classify_text, difficulty_text\n"
        "print(classify_text('git rebase fails').task, 0 < difficulty_text('hi') < 1)"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout == "code True\n"

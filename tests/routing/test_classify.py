"""The classifier: a table of prompts, then the body's shapes, sizes and times."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.routing.classify import classify, classify_text
from app.types import COMPLEXITIES, FAMILIES, MODALITIES, TASKS, ChatRequest, Dialect

CASES = yaml.safe_load((Path(__file__).parent / "cases.yaml").read_text(encoding="utf-8"))
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


def test_follow_up_keeps_the_task() -> None:
    assert classify(chat("write a python function to sort a list", "def f(): ...", "shorter please")).task == "code"
    assert classify(chat("write a python function", "def f(): ...", "What's the weather in Rome today?")).task == (
        "web_search"
    )


def test_harness_text_does_not_decide() -> None:
    reminder = "<system-reminder>\nRun pytest after python edits; git commit the code.\n</system-reminder>\n"
    assert classify_text(reminder + "Write a birthday poem for my grandmother").task == "general"
    turns = [{"role": "user", "content": "Write a birthday poem"}, {"role": "tool", "content": "Traceback: def f():"}]
    assert classify(chat(*turns)).task == "general"
    assert classify(chat("Write a birthday poem", "ok", reminder)).task == "general"


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
        begin = time.perf_counter()
        classify(body)
        return (time.perf_counter() - begin) * 1000

    words = chat(text)
    parts = chat([{"type": "text", "text": text[i : i + 1000]} for i in range(0, BIG, 1000)])
    for body in (words, parts):
        assert min(cost_ms(body) for _ in range(5)) < 10


def test_long_conversations_are_fast() -> None:
    turns = json.loads(json.dumps(["some words in a turn " * 40] * 1000))
    body = chat(*turns)
    begin = time.perf_counter()
    tags = classify(body)
    assert time.perf_counter() - begin < 0.05
    assert tags.tokens > 200_000

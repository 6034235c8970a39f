"""Signs in words."""

from __future__ import annotations

import pytest

from app.routing.classify import evidence
from app.routing.explain import task_sign_in_words
from tests import build


@pytest.mark.parametrize(
    "feature, words",
    [
        ("tech", "tech words"),
        ("tech*", "several tech words"),
        ("<tech", "tech words at the start"),
        ("tech>", "tech words at the end"),
        ("1summary", "summary words first"),
        ("given+summary", "a given text and summary words"),
        ("event+now", "event and now words"),
        ("=fix", '"fix"'),
        ("=c++>", '"c++" at the end'),
        ("=what's the", '"what\'s the"'),
        ("#fence", "shape: fence"),
        ("turn before: <tech", "turn before: tech words at the start"),
        ("system: =c#", 'system: "c#"'),
        ("image part", "image part"),
    ],
)
def test_signs_task_sign_in_words(feature: str, words: str) -> None:
    assert task_sign_in_words(feature) == words


@pytest.mark.parametrize(
    "prompt, sign, words",
    [
        ("Fix this Python function", "tech", ("python",)),
        ("Fix this Python function", "codeverb", ("fix",)),
        ("Fix this Python function", "1tech", ("python",)),
        ("Why is the sky blue?", "#asks", ()),
        ("今天北京天气怎么样", "now", ("今天",)),
        ("Prove the theorem", "hard", ("prove", "theorem")),
        ("Prove the theorem", "size", ()),
        (
            "If a train leaves at 8, how long after 9 until it stops, then waits?",
            "steps",
            ("if", "after", "until", "then"),
        ),
        ("How many apples cost 3 dollars?", "mathematics", ("cost", "dollars", "how many")),
    ],
)
def test_signs_name_the_words_that_spoke(prompt: str, sign: str, words: tuple[str, ...]) -> None:
    signs = evidence(build.request(prompt))
    found = {one.feature: one.words for one in (*signs.task_signs, *signs.difficulty_signs)}
    assert found[sign] == words


def test_the_turn_before_is_named_with_its_own_words() -> None:
    turns = [("user", "write a python script"), ("assistant", "…"), ("user", "why?")]
    body = {"messages": [{"role": role, "content": text} for role, text in turns]}
    words = {sign.feature: sign.words for sign in evidence(build.request(body)).task_signs}
    assert words["turn 1: tech"] == ("python",)


def test_every_sign_of_a_prompt_has_words() -> None:
    for sign in evidence(build.request("Summarize this: (a) x (b) y\n- fix `f(x)`?")).task_signs:
        assert task_sign_in_words(sign.feature)

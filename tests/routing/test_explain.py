"""Signs in words."""

from __future__ import annotations

import pytest

from app.routing.classify import explain
from app.routing.explain import in_words
from tests import build


@pytest.mark.parametrize(
    "feature, words",
    [
        ("tech", "tech words"),
        ("tech*", "several tech words"),
        ("<tech", "tech words at the start"),
        ("tech>", "tech words at the end"),
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
def test_signs_in_words(feature: str, words: str) -> None:
    assert in_words(feature) == words


def test_every_sign_of_a_prompt_has_words() -> None:
    for sign in explain(build.request("Summarize this: (a) x (b) y\n- fix `f(x)`?")).task_signs:
        assert in_words(sign.feature)

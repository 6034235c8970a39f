"""docs/cookbook.md: every policy is fit to serve, and every prompt goes where its table says."""

from __future__ import annotations

import re
from typing import Any

import pytest

from app import policy
from app.background.observe import Locality
from app.pipeline import detect
from app.routing.classify import classify
from app.routing.decide import decide
from app.routing.detect import Detectors
from app.settings import Settings
from app.types import Observations
from tests import build
from tests.documents import Document

PAGE = Document.read("docs/cookbook.md")
SECTIONS = {
    text.partition("\n")[0]: Document(PAGE.path, text) for text in PAGE.text.split("\n## ")[1:] if "```yaml" in text
}
ROWS = [(title, *row) for title, section in SECTIONS.items() for row in section.rows("asked", "goes to")]
IMAGE = [
    {"type": "text", "text": "What is in this picture?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
]


def loaded(title: str) -> policy.Loaded:
    (block,) = SECTIONS[title].blocks("yaml")
    return policy.load(block.text, "cookbook.md", Settings(), lambda _: ["127.0.0.1"])


def test_there_are_ten_and_each_is_listed_on_top() -> None:
    assert len(SECTIONS) == 10
    head = PAGE.text.partition("\n## ")[0]
    assert re.findall(r"\[([^\]]+)\]\(#", head) == list(SECTIONS)


@pytest.mark.parametrize("title", SECTIONS)
def test_it_is_fit_to_serve(title: str) -> None:
    assert loaded(title).warnings == ()
    assert SECTIONS[title].rows("asked", "goes to")


@pytest.mark.parametrize("title, asked, goes_to", ROWS)
def test_a_prompt_goes_where_the_table_says(title: str, asked: str, goes_to: str) -> None:
    rules = loaded(title).policy
    locality = Locality(rules.backends)
    locality.refresh(lambda _: ["127.0.0.1"])
    body = {"messages": [{"role": "user", "content": _content(asked)}]}
    sensitivity = "high" if asked.endswith(", private") else "normal"
    request = detect(build.request(body, sensitivity=sensitivity), Detectors(rules.sensitivity))
    tags = classify(request, rules.complexity)
    decision = decide(request, tags, rules, Observations(local=locality.local))
    first = decision.targets[0]
    assert f"{first.backend} `{first.model}`" == goes_to, tags
    if sensitivity == "high" or "4111" in asked:
        assert decision.private and all(target.backend in locality.local for target in decision.targets)


def _content(asked: str) -> Any:
    text = asked.removesuffix(", private")
    if text.startswith('"'):
        return text.strip('"')
    return IMAGE if text == "an image" else "word " * int(text.split()[0])


def test_what_is_said_of_code_that_never_leaves_and_of_the_air_gap() -> None:
    rules = loaded("Code local, prose in the cloud").policy
    (code,) = [route for route in rules.routes if route.label == "task=code"]
    assert (code.backend, code.fallbacks) == ("coder", ())
    gapped = loaded("Air-gapped").policy
    assert all(config.local for config in gapped.backends.values())

"""The cache computes once for a text, holds no text, and drops the result that was used longest ago."""

from __future__ import annotations

import pytest

from app.routing import memo
from app.routing.classify import classify_text
from app.routing.memo import Memo


def test_it_works_once_for_a_text_and_keeps_none() -> None:
    asked: list[str] = []

    def work(text: str) -> int:
        asked.append(text)
        return len(text)

    length = Memo(work)
    assert [length("a secret"), length("a " + "secret"), length("")] == [8, 8, 0]
    assert asked == ["a secret", ""]
    assert "secret" not in repr(vars(length)).replace(repr(work), "")


def test_it_forgets_what_was_used_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memo, "MAX_TEXTS", 2)
    asked: list[str] = []
    same = Memo(lambda text: asked.append(text) or text)  # type: ignore[func-returns-value]
    for text in ("a", "b", "a", "c", "a", "b"):
        same(text)
    assert asked == ["a", "b", "c", "b"], "c took the place of b, not that of a"


def test_a_result_that_is_remembered_is_the_same() -> None:
    text = "Write a regex that matches an ISO date, and say why it works."
    assert classify_text(text) == classify_text(text)

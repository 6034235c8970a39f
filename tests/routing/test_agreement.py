"""Two answers agree when they say the same thing, in whatever form, and do not when they say another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from app.routing.answer.agreement import agreement

GROUPS = yaml.safe_load(Path(__file__).with_name("agreement.yaml").read_text("utf-8"))


def pairs() -> Iterator[tuple[str, str, str, bool]]:
    for group in GROUPS.values():
        for sign in "=!":
            for first, second in group[sign]:
                yield group["question"], first, second, sign == "="


ALL = list(pairs())


def test_the_table_is_large() -> None:
    assert len(ALL) >= 300
    assert sum(same for *_, same in ALL) >= 150


@pytest.mark.parametrize(("question", "first", "second", "same"), ALL)
def test_pairs(question: str, first: str, second: str, same: bool) -> None:
    for one, two in ((first, second), (second, first)):
        value = agreement(question, one, two)
        assert 0 <= value <= 1
        assert (value > 0.5) == same, value

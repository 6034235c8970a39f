"""Numbers as people read them."""

from __future__ import annotations

import pytest

from app.words import age, usd


@pytest.mark.parametrize(
    "value, words",
    [
        (0, "$0"),
        (0.0, "$0"),
        (1e-7, "$0.0000001"),
        (0.000025, "$0.000025"),
        (0.0031, "$0.0031"),
        (0.03, "$0.03"),
        (0.0999, "$0.1"),
        (0.1, "$0.10"),
        (1204.5, "$1,204.50"),
        (-0.003, "−$0.003"),
        (-12, "−$12.00"),
    ],
)
def test_dollars(value: float, words: str) -> None:
    assert usd(value) == words


@pytest.mark.parametrize(
    "ms, text",
    [(0, "now"), (999, "now"), (12_400, "12 s"), (300_000, "5 min"), (3 * 3_600_000, "3 h"), (2 * 86_400_000, "2 d")],
)
def test_an_age(ms: float, text: str) -> None:
    assert age(ms) == text

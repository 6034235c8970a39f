"""The one header that guards privacy, in every spelling."""

from __future__ import annotations

import pytest

from app.errors import RequestError
from app.web import headers


@pytest.mark.parametrize(
    "value, meant",
    [
        ("high", "high"),
        ("HIGH", "high"),
        (" \tHigh ", "high"),
        ("high,high", "high"),
        ("high, HIGH", "high"),
        ("normal", "normal"),
        ("Normal , normal", "normal"),
    ],
)
def test_plain_values(value: str, meant: str) -> None:
    assert headers.sensitivity({"HTTP_X_LLR_SENSITIVITY": value}) == meant


WRONG = ["", " ", ",", "hgih", "low", "high,normal", "normal,", "normal,high", '"high"', "high;q=1", "true", "1"]
NOT_ASCII = ["normal\xa0", "\xa0normal", "normal\x85", "norm\xe4l", "high\xa0", "\xff", "n\xf3rmal,normal"]


@pytest.mark.parametrize("value", [*WRONG, *NOT_ASCII, "normal\x1f"])
def test_what_is_not_plainly_one_of_them_is_refused(value: str) -> None:
    with pytest.raises(RequestError) as caught:
        headers.sensitivity({"HTTP_X_LLR_SENSITIVITY": value})
    assert (caught.value.status, caught.value.param) == (400, "X-LLR-Sensitivity")


@pytest.mark.parametrize("name", ["SENSITIVE", "SENSITIVITY_", "_SENSITIVITY", "PRIVATE", "SENSITIVTY", ""])
def test_names_like_it_are_refused(name: str) -> None:
    with pytest.raises(RequestError, match="did you mean X-LLR-Sensitivity"):
        headers.sensitivity({f"HTTP_X_LLR_{name}": "high"})


def test_absent_is_normal() -> None:
    assert headers.sensitivity({"HTTP_X_OTHER": "high"}) == "normal"

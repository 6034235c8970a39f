"""Bounds of a mean that hold after every sample."""

from __future__ import annotations

from random import Random

import pytest

from app.metrics.interval import interval


def test_nothing_is_known_without_samples() -> None:
    assert interval([]) == (-1, 1)


@pytest.mark.parametrize("value", [-1.0, -0.4, -0.123, 0.0, 0.007, 0.3, 0.999, 1.0])
def test_equal_values_are_in_bounds_that_close_on_them(value: float) -> None:
    widths = []
    for number in (1, 20, 200, 2000):
        low, high = interval([value] * number)
        assert -1 <= low <= value <= high <= 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.012


@pytest.mark.parametrize("values", [[-1, 1] * 50, [0.5, -0.5] * 50, [0.1, -0.1] * 50, [1, 0, 0, 0, -1] * 20], ids=str)
def test_the_order_and_the_sign_change_nothing(values: list[float]) -> None:
    low, high = interval(values)
    assert interval(values[::-1]) == (low, high)
    assert interval([-value for value in values]) == pytest.approx((-high, -low))
    assert low < 0 < high


def test_values_between_two_steps_make_the_bounds_wider_and_never_narrower() -> None:
    exact, between = interval([0.25, -0.25] * 100), interval([0.255, 0.245, -0.255, -0.245] * 50)
    assert between[0] <= exact[0] + 1e-3
    assert between[1] >= exact[1] - 1e-3


def test_the_mean_leaves_the_bounds_in_few_sequences() -> None:
    """At most 5 %, although they are read after each of the first samples."""
    outside = 0
    for seed in range(100):
        random = Random(seed)
        values = [1.0 if random.random() < 0.3 else -0.2 for _ in range(120)]  # the mean is 0.16
        outside += any(not low <= 0.16 <= high for low, high in (interval(values[:end]) for end in range(1, 120, 3)))
    assert outside <= 5

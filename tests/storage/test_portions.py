"""Rows are written in few different statements, because the connection keeps the last ones ready."""

from __future__ import annotations

import pytest

from app.storage import portions


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 511, 512, 1000, 1023])
def test_portions_are_powers_of_two_and_lose_nothing(count: int) -> None:
    items = list(range(count))
    cut = [list(some) for some in portions(items)]
    assert [item for some in cut for item in some] == items
    assert {len(some) for some in cut} <= {1, 2, 4, 8, 16, 32, 64, 128, 256}
    assert len(cut) <= 8 + count // 256

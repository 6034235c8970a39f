"""A record as a row: its parts are laid out as columns, and foreign values are cut to what a database takes."""

from __future__ import annotations

from typing import Any

import pytest

from app.metrics import rows
from app.storage.model import Metric
from app.types import Basis, Kind, Observations, Outcome, Reason, Target
from tests import build

TARGETS = (Target("a", "m"),)
BASIS = Basis(
    policy="abc", asked_model="m", output_tokens=7, observations=Observations(), measured=False, targets=TARGETS
)


def row(**fields: Any) -> dict[str, object]:
    return dict(zip(rows.COLUMNS, rows.flat(build.record(**fields)), strict=True))


def test_every_column_is_written_once() -> None:
    columns = {field.column_name for field in Metric._meta.sorted_fields} - {"id"}
    assert sorted(rows.COLUMNS) == sorted(columns)


@pytest.mark.parametrize(
    "fields, expected",
    [
        ({"backend": "gpu", "model": "m:1"}, {"backend": "gpu", "model": "m:1", "shadow": False, "ok": True}),
        ({"kind": Kind.SHADOW, "live_ts_ms": 5}, {"kind": "shadow", "shadow": True, "live_ts": 5}),
        ({"kind": Kind.STORED, "task": None, "complexity": None}, {"kind": "stored", "task": None, "tokens": None}),
        ({"outcome": Outcome.ERROR, "error": "timeout"}, {"ok": False, "outcome": "error", "error": "timeout"}),
        ({"ts_ms": 2**40, "input_tokens": 2**40}, {"ts": 2**40, "input_tokens": None}),
        ({"reason": Reason.FALLBACK, "fallback_for": "a"}, {"reason": "fallback", "fallback_for": "a"}),
        ({"tokens": 12, "difficulty": 0.5}, {"tokens": 12, "difficulty": 0.5}),
        ({"model": "x" * 500, "finish": "a\0b"}, {"model": "x" * 200, "finish": "a?b"}),
        ({"basis": BASIS}, {"policy": "abc", "asked_model": "m", "basis": '{"targets":["a/m"],"out":7}'}),
        ({}, {"policy": None, "asked_model": None, "basis": None}),
    ],
    ids=str,
)
def test_the_columns_of_a_record(fields: dict[str, Any], expected: dict[str, object]) -> None:
    found = row(**fields)
    assert {name: found[name] for name in expected} == expected


def test_states_are_stored_as_plain_text() -> None:
    states = (row(kind=Kind.PROBE, outcome=Outcome.CANCELLED, reason=Reason.SPILL)[name] for name in ("kind", "reason"))
    assert {type(state) for state in states} == {str}

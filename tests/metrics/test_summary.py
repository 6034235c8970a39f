"""What operators read: the summary, the A/B report, and which hours they are about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.metrics.aggregates import Aggregate, Key
from app.metrics.summary import by_backend, metrics_summary, unpriced, window_hours
from app.types import Kind


@pytest.mark.parametrize(
    "raw, hours",
    [
        (None, 24),
        ("", 24),
        ("24", 24),
        ("1", 1),
        ("0.5", 0.5),
        (" 6 ", 6),
        ("+3", 3),
        ("1e2", 100),
        ("8760", 8760),
        ("8761", 8760),
        ("1e300", 8760),
        ("0", 24),
        ("-0", 24),
        ("-1", 24),
        ("-1e300", 24),
        ("nan", 24),
        ("inf", 24),
        ("-inf", 24),
        ("1e999", 24),
        ("ten", 24),
        ("1h", 24),
        ("0x10", 24),
        ("1,5", 24),
        ("1;DROP TABLE metrics", 24),
        ("9" * 5000, 24),
    ],
)
def test_hours_are_taken_or_replaced(raw: str | None, hours: float) -> None:
    assert window_hours(raw) == hours


def aggregate(latencies: list[float], *, failed: int = 0, cancelled: int = 0, **fields: Any) -> Aggregate:
    """Calls that took so long; the first `failed` of them failed."""
    made = Aggregate(calls=len(latencies) + cancelled, successes=len(latencies) - failed, cancelled=cancelled, **fields)
    for latency in latencies:
        made.latency.add(latency)
    return made


def key(backend: str, model: str = "m", route: str = "default", kind: str = "live") -> Key:
    return Key(backend, model, route, kind)


def test_a_summary_as_it_is_read() -> None:
    local = aggregate([100, 200, 300, 1000], failed=1, cancelled=1, fallbacks=1, input_tokens=10, output_tokens=20)
    local.ttfb.add(55)
    local.wait.add(40)
    for load in (5000, 6000, 7000):
        local.load.add(load)
    priced = aggregate([50], priced=1, cost_usd=0.1234567)
    aggregates = {
        key("local"): local,
        key("cloud", "gpt", "task=code"): priced,
        key("cloud", "gpt", kind="shadow"): aggregate([5000] * 7),
        key("local", kind="probe"): aggregate([9000] * 3),
        key("idle", kind="shadow"): aggregate([1]),
    }
    summary = metrics_summary(aggregates, 24.0, {"rows_dropped": 3})
    of_local = {
        "calls": 5,
        "successes": 3,
        "success_rate": 0.75,
        "errors": 1,
        "cancelled": 1,
        "fallbacks": 1,
        "fallback_rate": 0.2,
        "spills": 0,
        "avg_latency": 400,
        "p50_latency": 200,
        "p95_latency": 1000,
        "p50_ttfb": 55,
        "p95_ttfb": 55,
        "waits": 1,
        "p50_wait": 40,
        "p95_wait": 40,
        "load_waits": 3,
        "p50_load": 6000,
        "p95_load": 7000,
        "input_tokens": 10,
        "output_tokens": 20,
        "cost_usd": None,
    }
    of_cloud = {
        "calls": 1,
        "successes": 1,
        "success_rate": 1.0,
        "errors": 0,
        "cancelled": 0,
        "fallbacks": 0,
        "fallback_rate": 0.0,
        "spills": 0,
        "avg_latency": 50,
        "p50_latency": 50,
        "p95_latency": 50,
        "p50_ttfb": None,
        "p95_ttfb": None,
        "waits": 0,
        "p50_wait": None,
        "p95_wait": None,
        "load_waits": 0,
        "p50_load": None,
        "p95_load": None,
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": 0.123457,
    }
    assert summary["window_hours"] == 24
    assert summary["rows_dropped"] == 3
    names = [entry["backend"] for entry in summary["backends"]]
    assert names == ["cloud", "idle", "local"]
    assert summary["backends"][0] == {"backend": "cloud", **of_cloud, "shadow_calls": 7, "second_opinions": 0}
    assert summary["backends"][2] == {"backend": "local", **of_local, "shadow_calls": 0, "second_opinions": 0}
    idle = summary["backends"][1]
    assert (idle["calls"], idle["success_rate"], idle["avg_latency"], idle["shadow_calls"]) == (0, None, None, 1)
    assert summary["routes"] == [
        {"route": "default", **of_local, "escalated": 0},
        {"route": "task=code", **of_cloud, "escalated": 0},
    ]
    assert summary["models"] == [
        {"backend": "cloud", "model": "gpt", **of_cloud},
        {"backend": "local", "model": "m", **of_local},
    ]
    assert json.loads(json.dumps(summary)) == summary


def test_a_summary_of_nothing() -> None:
    assert metrics_summary({}, 0.5, {}) == {"window_hours": 0.5, "backends": [], "routes": [], "models": []}


def test_rows_without_route_or_model_count_for_their_backend_alone() -> None:
    summary = metrics_summary({key("old", "", ""): aggregate([10])}, 1, {})
    assert [entry["calls"] for entry in summary["backends"]] == [1]
    assert (summary["routes"], summary["models"]) == ([], [])


def test_only_cancelled_calls_have_no_rate() -> None:
    (entry,) = metrics_summary({key("a"): aggregate([], cancelled=2)}, 1, {})["backends"]
    assert (entry["calls"], entry["success_rate"], entry["errors"], entry["avg_latency"]) == (2, None, 0, None)


def test_models_and_routes_of_a_backend_are_added_up() -> None:
    aggregates = {
        key("a", "m", "r"): aggregate([1, 2]),
        key("a", "n", "s"): aggregate([3]),
        key("a", kind="shadow"): aggregate([9]),
    }
    assert {name: found.calls for name, found in by_backend(aggregates, Kind.LIVE).items()} == {"a": 3}
    (entry,) = metrics_summary(aggregates, 1, {})["backends"]
    assert (entry["calls"], entry["avg_latency"]) == (3, 2)


# --- what is unknown ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made, cost",
    [
        (aggregate([1], failed=1), 0),
        (aggregate([1, 2], failed=1), None),
        (aggregate([], cancelled=1), None),
        (aggregate([1], failed=1, counted=1), None),
        (aggregate([1], priced=1, counted=1, cost_usd=0.5), 0.5),
        (aggregate([1, 2], priced=1, counted=1, cost_usd=0.5), 0.5),
        (aggregate([]), None),
    ],
    ids=["failed", "answered", "left", "failed, with tokens", "priced", "priced in part", "no call"],
)
def test_a_cost_is_unknown_only_where_something_may_have_been_charged(made: Aggregate, cost: float | None) -> None:
    (entry,) = metrics_summary({key("a"): made}, 1, {})["backends"]
    assert entry["cost_usd"] == cost


def test_no_price_is_said_of_backends_that_told_tokens() -> None:
    failed, told, priced = aggregate([1], failed=1), aggregate([1], counted=1), aggregate([1], counted=1, priced=1)
    assert unpriced({"b": told, "a": told, "failed": failed, "priced": priced}) == ["a", "b"]

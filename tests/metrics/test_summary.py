"""What operators read: the summary, the A/B report, and which hours they are about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.metrics.store import Key
from app.metrics.summary import ab_report, live_backends, metrics_summary, recommend, window_hours
from app.metrics.tally import Spread, Tally
from app.types import ABTest


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


def tally(latencies: list[float], *, failed: int = 0, cancelled: int = 0, **fields: Any) -> Tally:
    """Calls that took so long; the first `failed` of them failed."""
    made = Tally(calls=len(latencies) + cancelled, successes=len(latencies) - failed, cancelled=cancelled, **fields)
    for latency in latencies:
        made.latency.add(latency)
    return made


def key(backend: str, model: str = "m", route: str = "default", kind: str = "live") -> Key:
    return backend, model, route, kind


def test_a_summary_as_it_is_read() -> None:
    local = tally([100, 200, 300, 1000], failed=1, cancelled=1, fallbacks=1, input_tokens=10, output_tokens=20)
    local.ttfb.add(55)
    priced = tally([50], priced=1, cost_usd=0.1234567)
    tallies = {
        key("local"): local,
        key("cloud", "gpt", "task=code"): priced,
        key("cloud", "gpt", kind="shadow"): tally([5000] * 7),
        key("local", kind="probe"): tally([9000] * 3),
        key("idle", kind="shadow"): tally([1]),
    }
    summary = metrics_summary(tallies, 24.0, {"rows_dropped": 3})
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
        "input_tokens": 0,
        "output_tokens": 0,
        "cost_usd": 0.123457,
    }
    assert summary["window_hours"] == 24
    assert summary["rows_dropped"] == 3
    names = [entry["backend"] for entry in summary["backends"]]
    assert names == ["cloud", "idle", "local"]
    assert summary["backends"][0] == {"backend": "cloud", **of_cloud, "shadow_calls": 7}
    assert summary["backends"][2] == {"backend": "local", **of_local, "shadow_calls": 0}
    idle = summary["backends"][1]
    assert (idle["calls"], idle["success_rate"], idle["avg_latency"], idle["shadow_calls"]) == (0, None, None, 1)
    assert summary["routes"] == [{"route": "default", **of_local}, {"route": "task=code", **of_cloud}]
    assert summary["models"] == [
        {"backend": "cloud", "model": "gpt", **of_cloud},
        {"backend": "local", "model": "m", **of_local},
    ]
    assert json.loads(json.dumps(summary)) == summary


def test_a_summary_of_nothing() -> None:
    assert metrics_summary({}, 0.5, {}) == {"window_hours": 0.5, "backends": [], "routes": [], "models": []}


def test_rows_without_route_or_model_count_for_their_backend_alone() -> None:
    summary = metrics_summary({key("old", "", ""): tally([10])}, 1, {})
    assert [entry["calls"] for entry in summary["backends"]] == [1]
    assert (summary["routes"], summary["models"]) == ([], [])


def test_only_cancelled_calls_have_no_rate() -> None:
    (entry,) = metrics_summary({key("a"): tally([], cancelled=2)}, 1, {})["backends"]
    assert (entry["calls"], entry["success_rate"], entry["errors"], entry["avg_latency"]) == (2, None, 0, None)


def test_models_and_routes_of_a_backend_are_added_up() -> None:
    tallies = {key("a", "m", "r"): tally([1, 2]), key("a", "n", "s"): tally([3]), key("a", kind="shadow"): tally([9])}
    assert {name: found.calls for name, found in live_backends(tallies).items()} == {"a": 3}
    (entry,) = metrics_summary(tallies, 1, {})["backends"]
    assert (entry["calls"], entry["avg_latency"]) == (3, 2)


# --- A/B ----------------------------------------------------------------------------------------


def rough(made: Tally) -> Tally:
    """As it comes out of the database for a window of many calls."""
    made.latency = Spread.load(made.latency.dump())
    return made


STEADY = [100.0] * 40
RECOMMENDATIONS: dict[str, tuple[Tally, Tally, str]] = {
    "better in all": (tally(STEADY), tally([50.0] * 20), "promote"),
    "one sample too few": (tally(STEADY), tally([50.0] * 19), "insufficient-data"),
    "no samples": (tally(STEADY), tally([]), "insufficient-data"),
    "no live calls": (tally([]), tally([50.0] * 50), "insufficient-data"),
    "only cancelled live calls": (tally([], cancelled=9), tally([50.0] * 50), "insufficient-data"),
    "as fast, not faster": (tally(STEADY), tally([100.0] * 20), "hold"),
    "slower": (tally(STEADY), tally([101.0] * 20), "hold"),
    "faster but fails once": (tally(STEADY), tally([50.0] * 20, failed=1), "hold"),
    "fails as often": (tally(STEADY, failed=2), tally([50.0] * 20, failed=1), "promote"),
    "fails less often": (tally(STEADY, failed=4), tally([50.0] * 20, failed=1), "promote"),
    "faster on average, worse at the end": (tally(STEADY), tally([10.0] * 18 + [200.0] * 2), "hold"),
    "faster on average, as good at the end": (tally(STEADY), tally([10.0] * 18 + [100.0] * 2), "promote"),
    "better, from the sums": (rough(tally(STEADY)), rough(tally([50.0] * 20)), "promote"),
    "worse at the end, from the sums": (rough(tally(STEADY)), rough(tally([10.0] * 18 + [200.0] * 2)), "hold"),
    "cancelled live calls do not count as failures": (tally(STEADY, cancelled=40), tally([50.0] * 20), "promote"),
}


@pytest.mark.parametrize("name", RECOMMENDATIONS)
def test_a_recommendation(name: str) -> None:
    live, shadow, advice = RECOMMENDATIONS[name]
    assert recommend(live, shadow) == advice


def test_a_report_as_it_is_read() -> None:
    tallies = {
        key("local"): tally([100, 300], failed=1),
        key("local", route="task=code"): tally([200, 200]),
        key("local", kind="shadow"): tally([7] * 9),
        key("local", kind="probe"): tally([8] * 9),
        key("cloud", kind="shadow"): tally([40.04] * 20),
        key("cloud"): tally([9999]),
    }
    ab = ABTest(enabled=True, sample_rate=0.1, candidates={"local": "cloud", "cloud": "third"})
    assert ab_report(tallies, ab, 24.0) == {
        "enabled": True,
        "window_hours": 24,
        "pairs": [
            {
                "primary": "local",
                "candidate": "cloud",
                "primaryAvgLatency": 200,
                "candidateAvgLatency": 40,
                "primaryP95Latency": 300,
                "candidateP95Latency": 40,
                "primarySuccessRate": 0.75,
                "candidateSuccessRate": 1.0,
                "candidateSamples": 20,
                "recommendation": "promote",
            },
            {
                "primary": "cloud",
                "candidate": "third",
                "primaryAvgLatency": 9999,
                "candidateAvgLatency": None,
                "primaryP95Latency": 9999,
                "candidateP95Latency": None,
                "primarySuccessRate": 1.0,
                "candidateSuccessRate": None,
                "candidateSamples": 0,
                "recommendation": "insufficient-data",
            },
        ],
    }


def test_a_report_without_a_trial() -> None:
    assert ab_report({}, ABTest(), 0.5) == {"enabled": False, "window_hours": 0.5, "pairs": []}

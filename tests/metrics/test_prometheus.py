"""The text that Prometheus scrapes, read by its own parser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from app.metrics.prometheus import Snapshot, exposition
from app.metrics.servers import servers
from app.metrics.store import Store
from tests import build
from tests.metrics.judged_rows import OPINION, escalated, kept, later

NOW = 1_700_000_000_000
ROW = build.worker_report()["models"]["local"]["rows"][0]
WORKERS = {
    "a:1": {"in_flight": {"local": 2}, "waiting": {"local": 1}, "circuit_open": {"local": 1, "cloud": 0}, "queued": 3},
    "b:2": {
        "in_flight": {"local": 1, "cloud": 4},
        "circuit_open": {"local": 1},
        "queued": 4,
        "waiting": {"local": {"interactive": 1, "background": 5}},
        "models": {
            "local": {
                "asked_ms": NOW,
                "rows": [
                    ROW | {"window": 8192, "gpu_share": 0.5, "expires_ms": NOW + 240_000},
                    dict.fromkeys(ROW) | {"model": "n:1b", "loads": 0, "evictions": 0, "expected": {}},
                ],
            }
        },
    },
}


def parsed(snapshot: Snapshot) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Sample values by name and labels."""
    families = list(text_string_to_metric_families(exposition(snapshot).decode("utf-8")))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    assert all(family.documentation for family in families)
    found: dict[Any, float] = {}
    for family in families:
        for sample in family.samples:
            place = (sample.name, frozenset(sample.labels.items()))
            assert place not in found
            found[place] = sample.value
    return found


def of(found: dict[Any, float], name: str, **labels: str) -> float | None:
    return found.get((name, frozenset(labels.items())))


def snapshot(store: Store, since: int = 0) -> Snapshot:
    joined = servers(["local", "cloud"], list(WORKERS.values()), NOW)
    return Snapshot(store.totals(), store.window(since).aggregates, WORKERS, store.dropped(), servers=joined)


def test_the_numbers(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.db"))
    store.write(
        [
            build.record(ts_ms=NOW, latency_ms=100, input_tokens=5, output_tokens=7, cost_usd=0.5),
            build.record(ts_ms=NOW, latency_ms=300, outcome="error", error="timeout"),
            build.record(ts_ms=NOW, latency_ms=999, outcome="cancelled"),
            build.record(ts_ms=NOW, backend="cloud", latency_ms=50, ttfb_ms=20, fallback_for="local", route="pin"),
            build.record(ts_ms=NOW, backend="cloud", kind="shadow", latency_ms=7000),
            build.record(ts_ms=NOW, backend="cloud", kind="probe", latency_ms=7000),
            build.record(ts_ms=NOW - 10**9, latency_ms=900, wait_ms=100, load_ms=600),
            build.record(ts_ms=NOW, kind="probe", wait_ms=7000, load_ms=7000),
            build.record(ts_ms=NOW, latency_ms=200, wait_ms=40),
        ],
        2,
    )
    found = parsed(snapshot(store, NOW - 1000))
    for name, local, cloud in (
        ("llr_backend_calls_total", 5, 1),
        ("llr_backend_success_total", 3, 1),
        ("llr_backend_cancelled_total", 1, 0),
        ("llr_backend_fallback_total", 0, 1),
        ("llr_backend_input_tokens_total", 5, 0),
        ("llr_backend_output_tokens_total", 7, 0),
        ("llr_backend_cost_usd_total", 0.5, 0),
        ("llr_backend_latency_avg_ms", 200, 50),
        ("llr_backend_latency_p95_ms", 300, 50),
        ("llr_backend_latency_seconds_count", 4, 1),
        ("llr_backend_latency_seconds_sum", 1.5, 0.05),
        ("llr_backend_ttfb_seconds_count", 0, 1),
        ("llr_backend_ttfb_seconds_sum", 0, 0.02),
        ("llr_backend_wait_seconds_count", 2, 0),
        ("llr_backend_wait_seconds_sum", 0.14, 0),
        ("llr_backend_load_seconds_count", 1, 0),
        ("llr_backend_load_seconds_sum", 0.6, 0),
        ("llr_backend_wait_p50_ms", 40, None),
        ("llr_backend_load_p50_ms", None, None),
        ("llr_backend_shadow_calls_total", None, 1),
        ("llr_backend_in_flight", 3, 4),
        ("llr_backend_circuit_open", 2, 0),
    ):
        assert (of(found, name, backend="local"), of(found, name, backend="cloud")) == (local, cloud), name
    for lane, local in (("interactive", 2), ("agent", 0), ("background", 5)):
        assert of(found, "llr_backend_waiting", backend="local", lane=lane) == local
        assert of(found, "llr_backend_waiting", backend="cloud", lane=lane) == 0
    for name, first, second in (
        ("llr_model_loaded", 1, None),
        ("llr_model_window_tokens", 8192, None),
        ("llr_model_gpu_share", 0.5, None),
        ("llr_model_expires_seconds", 240, None),
        ("llr_model_warm_ms", 180, None),
        ("llr_model_load_ms", 0, None),
        ("llr_model_loads_total", 7, 0),
        ("llr_model_evictions_total", 6, 0),
    ):
        models = [of(found, name, backend="local", model=model) for model in ("llama3.1:8b", "n:1b")]
        assert models == [first, second], name
    assert of(found, "llr_route_calls_total", route="default") == 5
    assert of(found, "llr_route_calls_total", route="pin") == 1
    assert of(found, "llr_rows_queued") == 7
    assert of(found, "llr_workers") == 2
    assert of(found, "llr_rows_dropped_total") == 2
    store.close()


def test_judged_answers(tmp_path: Path) -> None:
    """By route, verdict and reason; the cost of second opinions is in the cost of their backend."""
    store = Store(str(tmp_path / "m.db"))
    store.write([*kept(1), *kept(2), *escalated(1), *escalated(1, "structure"), later(**OPINION, cost_usd=0.5)])
    found = parsed(snapshot(store))
    verdicts = {
        (dict(labels)["route"], dict(labels)["verdict"], dict(labels)["reason"]): value
        for (name, labels), value in found.items()
        if name == "llr_verified_total"
    }
    assert verdicts == {
        ("default", "kept", ""): 2,
        ("default", "escalated", "agreement"): 1,
        ("default", "escalated", "structure"): 1,
    }
    for name, small, peer, strong in (
        ("llr_backend_calls_total", 4, None, 2),
        ("llr_backend_success_total", 4, None, 2),
        ("llr_backend_verify_calls_total", None, 3, None),
        ("llr_backend_cost_usd_total", 0, 0.5, 0.0028),
    ):
        assert [of(found, name, backend=backend) for backend in ("small", "peer", "strong")] == [small, peer, strong]
    assert of(found, "llr_route_calls_total", route="default") == 6
    assert of(found, "llr_verified_held_seconds_count", route="default") == 4
    assert of(found, "llr_verified_held_seconds_sum", route="default") == 1.2
    store.close()


def test_the_buckets_of_a_histogram(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.db"))
    values = [1, 5, 6, 10, 25, 26, 100, 250, 251, 1000, 250_000, 250_001, 900_000]
    store.write([build.record(ts_ms=NOW, latency_ms=value) for value in values])
    buckets = {
        float(dict(labels)["le"]): value
        for (name, labels), value in parsed(snapshot(store)).items()
        if name == "llr_backend_latency_seconds_bucket"
    }
    assert list(buckets.values()) == sorted(buckets.values())
    assert buckets == {le: sum(value <= le * 1000 for value in values) for le in buckets}
    assert sorted(buckets)[:4] == [0.005, 0.01, 0.025, 0.05]
    assert max(buckets) == float("inf")
    store.close()


def test_totals_never_fall(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.db"))
    last: dict[Any, float] = {}
    for step in range(6):
        store.write([build.record(ts_ms=NOW + step * 600_000, backend=name, latency_ms=step + 1) for name in "ab"], 1)
        store.prune(NOW + (step - 1) * 600_000)
        found = parsed(snapshot(store, NOW + step * 600_000))
        rising = {
            place: value for place, value in found.items() if place[0].endswith(("_total", "_bucket", "_count", "_sum"))
        }
        assert set(last) <= set(rising)
        assert all(rising[place] >= value for place, value in last.items())
        last = rising
    assert of(last, "llr_backend_calls_total", backend="a") == 6
    store.close()


def test_nothing_yet() -> None:
    found = parsed(Snapshot({}, {}, {}, 0))
    assert found == {
        ("llr_rows_queued", frozenset()): 0,
        ("llr_rows_unsummed", frozenset()): 0,
        ("llr_workers", frozenset()): 0,
        ("llr_rows_dropped_total", frozenset()): 0,
    }


def test_any_name_can_be_a_label(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "m.db"))
    odd = 'a"b\\c {x="y"} \N{GREEK SMALL LETTER OMEGA}'
    store.write([build.record(ts_ms=NOW, backend=odd, route="task=code|vision,tokens=..4000")])
    found = parsed(snapshot(store))
    assert of(found, "llr_backend_calls_total", backend=odd) == 1
    assert of(found, "llr_route_calls_total", route="task=code|vision,tokens=..4000") == 1
    store.close()

"""Budgets and trials at work: a slow primary gives way, is measured, and wins its traffic back; A/B samples."""

from __future__ import annotations

from typing import Any

import pytest

from tests.e2e.server import wait_until
from tests.fakes import replies

pytestmark = pytest.mark.e2e


def test_a_slow_local_primary_gives_way_is_measured_and_comes_back(upstream, router):
    local, cloud = upstream(delay_s=0.3), upstream()
    policy = {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"], "p50Ms": 50},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "p50Ms": 20},
        },
        "routes": [{"default": "local", "fallback": "cloud", "latencyBudgetMs": 150}],
    }
    running = router(policy, workers=2, env={"OPENAI_API_KEY": "key-for-tests"})

    def answered_by() -> str:
        return running.chat().headers["X-LLR-Backend"]

    assert answered_by() == "local"  # expected to take 50 ms, until it is measured
    wait_until(lambda: answered_by() == "cloud", 20, "the slow primary to give way")
    spilled = running.chat()
    assert "X-LLR-Fallback-For" not in spilled.headers  # a spill is no fallback
    (probe, *_) = wait_until(
        lambda: [row for row in running.rows() if row["kind"] == "probe"], 10, "a mirrored request"
    )
    assert (probe["backend"], probe["shadow"], probe["outcome"]) == ("local", 1, "ok")
    live = {entry["backend"]: entry["calls"] for entry in running.get("/v1/metrics").json["backends"]}
    assert live["local"] < len(local.chats)  # mirrored calls are not among the live ones

    local.delay_s = 0
    wait_until(lambda: answered_by() == "local", 60, "the recovered primary to win its traffic back")


def test_a_sample_of_live_requests_is_mirrored_but_no_private_one(upstream, router):
    local, cloud = upstream(), upstream()
    policy = {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big"},
        },
        "routes": [{"default": "local"}],
        "ab": {"enabled": True, "sampleRate": 1, "candidates": {"local": "cloud"}},
    }
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
    running.chat("my canary", headers={"X-LLR-Sensitivity": "high"})
    local.script(replies.error(400, "no"))
    running.chat("refused")  # not a success: no sample
    for number in range(4):
        running.chat(f"buffered {number}")
    with running.stream("streamed", stream_options={"include_usage": True}) as stream:
        stream.read()
    running.post("/v1/responses", {"input": "a response"})
    wait_until(lambda: running.get("/v1/ab").json["pairs"][0]["candidateSamples"] == 6, 10, "six samples")
    assert all(b"canary" not in received.body and b"refused" not in received.body for received in cloud.chats)
    assert all(not received.json.get("stream") for received in cloud.chats)
    rows = [row for row in running.rows() if row["backend"] == "cloud"]
    assert {(row["kind"], row["shadow"], row["reason"]) for row in rows} == {("shadow", 1, "shadow")}
    report = running.get("/v1/ab").json
    assert report["enabled"] is True and report["pairs"][0]["recommendation"] == "insufficient-data"
    assert (report["pairs"][0]["pairs"], report["pairs"][0]["lengthRatio"]) == (6, 1)
    assert [entry["calls"] for entry in running.get("/v1/metrics").json["backends"]] == [0, 8]


@pytest.mark.parametrize("stream", [False, True])
def test_what_speaks_against_a_candidate_is_counted(upstream, router, stream: bool):
    """Twenty requests that both answered: the candidate is faster, because its answers are cut."""
    local, cloud = upstream(delay_s=0.05, text="a whole answer"), upstream()
    half = replies.completion("a whole")
    half["choices"][0]["finish_reason"] = "length"
    cloud.script(replies.reply(200, half), repeat=True)
    policy = {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big"},
        },
        "routes": [{"default": "local"}],
        "ab": {"enabled": True, "sampleRate": 1, "candidates": {"local": "cloud"}},
    }
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
    for _ in range(20):
        if stream:
            with running.stream("tell me") as events:
                events.read()
        else:
            running.chat("tell me")

    def pair() -> dict[str, Any]:
        found: dict[str, Any] = running.get("/v1/ab").json["pairs"][0]
        return found

    wait_until(lambda: pair()["candidateSamples"] == 20, 10, "twenty samples")
    found = pair()
    assert (found["pairs"], found["lengthRatio"]) == (20, 0.5)
    assert (found["primaryCutShare"], found["candidateCutShare"]) == (0, 1)
    assert found["candidateAvgLatency"] < found["primaryAvgLatency"]
    assert found["recommendation"] == "hold"
    assert found["reasons"] == [
        "the candidate gives more answers that are cut: 100.0% of the requests, the primary 0.0%"
    ]

"""The original program's behaviours hold, seen from outside."""

from __future__ import annotations

import sqlite3

import pytest

from tests.e2e.server import parse_events
from tests.fakes import replies

pytestmark = pytest.mark.e2e

CODE = "Write a python function that reverses a string"
PROSE = "Tell me a story about a lighthouse keeper"


def policy(local, cloud) -> dict:
    """The shape of the original's example policy."""
    return {
        "backends": {
            "local": {
                "type": "ollama",
                "endpoint": local.url,
                "families": {"qwen-coder": "qwen2.5-coder:7b", "gemma": "gemma3:12b", "llama": "llama4:16x17b"},
                "p50Ms": 1800,
            },
            "sarmalink": {"type": "sarmalink", "endpoint": f"{cloud.url}/v1", "p50Ms": 600},
        },
        "routes": [
            {"match": {"sensitivity": "high"}, "backend": "local", "reason": "never leaves the machine"},
            {"match": {"task": "code"}, "backend": "local", "fallback": "sarmalink", "latencyBudgetMs": 2500},
            {"default": "sarmalink", "fallback": "local"},
        ],
    }


@pytest.fixture
def house(upstream, router):
    local, cloud = upstream(), upstream()
    return local, cloud, router(policy(local, cloud), workers=1, env={"SARMALINK_API_KEY": "key-for-tests"})


def test_code_goes_to_the_local_coder_model(house):
    local, cloud, router = house
    answer = router.chat(CODE)
    assert (answer.status, answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Route"]) == (
        200,
        "local",
        "task=code",
    )
    assert local.chats[0].path == "/v1/chat/completions"
    assert local.chats[0].json["model"] == answer.headers["X-LLR-Model"] == "qwen2.5-coder:7b"
    assert local.chats[0].header("authorization") is None
    assert not cloud.chats


def test_the_rest_goes_by_the_default_route_with_the_backends_key(house):
    local, cloud, router = house
    answer = router.chat(PROSE, headers={"Authorization": "Bearer the-clients-own"})
    assert (answer.status, answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Route"]) == (
        200,
        "sarmalink",
        "default",
    )
    assert cloud.chats[0].path == "/v1/chat/completions"
    assert cloud.chats[0].json["model"] == "smart"
    assert cloud.chats[0].header("authorization") == "Bearer key-for-tests"
    assert not local.chats


@pytest.mark.parametrize("header", ["high", " HIGH ", "High"])
def test_a_sensitive_request_is_pinned_to_local(house, header):
    local, cloud, router = house
    answer = router.chat(PROSE, headers={"X-LLR-Sensitivity": header})
    assert (answer.status, answer.headers["X-LLR-Backend"]) == (200, "local")
    local.script(replies.error(503, "down"))
    answer = router.chat(PROSE, headers={"X-LLR-Sensitivity": header})
    assert answer.status == 502
    assert not cloud.chats


def test_a_failing_primary_falls_back_and_says_so(house):
    _, cloud, router = house
    cloud.script(replies.error(503, "overloaded"))
    answer = router.chat(PROSE)
    assert answer.status == 200
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Fallback-For"]) == ("local", "sarmalink")
    first, second = router.wait_request_rows(answer.headers["X-LLR-Request-Id"], 2)
    assert (first["backend"], first["ok"], first["error"], first["outcome"]) == ("sarmalink", 0, "http_503", "error")
    assert (second["backend"], second["ok"], second["fallback_for"]) == ("local", 1, "sarmalink")


def test_streams_end_with_done(house):
    _, cloud, router = house
    with router.stream(PROSE) as stream:
        body = stream.read()
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    assert body.endswith(b"data: [DONE]\n\n") and body.count(b"[DONE]") == 1
    assert cloud.chats[0].json["stream"] is True


def test_a_responses_envelope_has_output_text_and_usage(house):
    _, cloud, router = house
    cloud.script(replies.reply(200, replies.completion("forty-two", prompt_tokens=11)))
    document = router.post("/v1/responses", {"model": "auto", "instructions": "Be brief.", "input": PROSE}).json
    assert (document["object"], document["status"], document["output_text"]) == ("response", "completed", "forty-two")
    assert document["usage"]["input_tokens"] == 11
    assert cloud.chats[0].json["messages"][0] == {"role": "system", "content": "Be brief."}


def test_a_streamed_response_completes(house):
    _, _, router = house
    with router.stream(path="/v1/responses", json={"model": "auto", "input": PROSE, "stream": True}) as stream:
        body = stream.read()
    events = [event for event in parse_events(body) if isinstance(event, dict)]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert events[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("hours", "window"),
    [("", 24), ("x", 24), ("-1", 24), ("0", 24), ("nan", 24), ("inf", 24), ("2", 2), ("0.5", 0.5), ("99999", 8760)],
)
def test_hours_are_sanitised(house, hours, window):
    _, _, router = house
    assert router.get(f"/v1/metrics?hours={hours}").json["window_hours"] == window
    assert router.get(f"/v1/ab?hours={hours}").json["window_hours"] == window


def test_an_original_database_is_upgraded_in_place(upstream, router, tmp_path):
    folder = tmp_path / "house"
    folder.mkdir()
    database = folder / "metrics.db"
    with sqlite3.connect(database) as old:
        old.execute(
            "CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, ts INTEGER NOT NULL, backend TEXT NOT NULL, "
            "latency_ms INTEGER NOT NULL, ok INTEGER NOT NULL, error TEXT, fallback_for TEXT, "
            "shadow INTEGER NOT NULL DEFAULT 0)"
        )
        old.execute(
            "INSERT INTO metrics (ts, backend, latency_ms, ok, error) VALUES "
            "(unixepoch() * 1000, 'local', 100, 1, NULL), (unixepoch() * 1000, 'local', 300, 0, 'boom')"
        )
    old.close()
    local, cloud = upstream(), upstream()
    running = router(policy(local, cloud), workers=1, folder=folder, env={"LLR_DB": str(database)})
    running.chat(CODE)
    rows = running.wait_rows(3)
    assert [(row["latency_ms"], row["ok"], row["error"]) for row in rows[:2]] == [(100, 1, None), (300, 0, "boom")]
    backend = running.get("/v1/metrics").json["backends"][0]
    assert (backend["backend"], backend["calls"], backend["successes"]) == ("local", 3, 2)

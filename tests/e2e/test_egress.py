"""The egress ledger: what left, where to, why; never what was said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.server import ROOT, wait_until
from tests.e2e.test_streams import two
from tests.fakes import replies

pytestmark = pytest.mark.e2e


def test_every_call_beyond_the_local_backends_is_in_the_ledger(upstream, router):
    local, cloud = upstream(), upstream()
    policy = two(local, cloud)
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})
    running.chat("stays at home")
    local.script(replies.error(503, "down"))
    running.chat("falls back")
    pinned = running.chat("goes by name", model="cloud")
    cloud.script(replies.error(500, "no"))
    running.chat("fails there", model="cloud")
    running.wait_rows(5)

    report = running.get("/v1/egress").json
    where = cloud.url.removeprefix("http://")
    seen = [(call["destination"], call["route"], call["reason"], call["outcome"]) for call in report["calls"]]
    assert seen == [(where, "default", "fallback", "ok"), (where, "pin", "pin", "ok"), (where, "pin", "pin", "error")]
    assert report["calls"][1]["request_id"] == pinned.headers["X-LLR-Request-Id"]
    sent = [len(received.body) for received in cloud.chats]
    assert [call["sent_bytes"] for call in report["calls"]] == sent
    assert report["total"] == {"calls": 3, "sent_bytes": sum(sent)}
    assert "goes by name" not in json.dumps(report)

    command = [sys.executable, "-m", "flask", "egress", "--since", "1h", "--json"]
    env = running.environment() | {"LLR_PORT": "3030"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=True)
    assert json.loads(done.stdout)["total"] == report["total"]


def test_calls_of_every_kind_and_outcome_are_in_the_ledger(upstream, router):
    """Streams, Responses, mirrored and shifted requests, answers that broke, clients that left."""
    local, cloud = upstream(), upstream()
    policy = two(local, cloud) | {"ab": {"enabled": True, "sampleRate": 1.0, "candidates": {"local": "cloud"}}}
    policy["routes"].insert(
        0, {"match": {"task": "code"}, "backend": "local", "fallback": "cloud", "latencyBudgetMs": 1}
    )
    policy["backends"]["local"]["p50Ms"], policy["backends"]["cloud"]["p50Ms"] = 60_000, 0.5
    running = router(policy, workers=1, env={"OPENAI_API_KEY": "key-for-tests"})

    running.chat("mirrored")
    running.chat("Fix this Python function:\n```python\ndef f(x):\n    return x +\n```")
    with running.stream("streamed", model="cloud") as stream:
        stream.read()
    running.post("/v1/responses", {"model": "cloud", "input": "by Responses"})
    cloud.script(replies.sse("begun", replies.CLOSE, finish=False))
    with running.stream("cut", model="cloud") as stream:
        stream.read()
    cloud.script(replies.sse("begun", replies.HANG, finish=False))
    with running.stream("left", model="cloud") as stream:
        stream.until(b"begun")
    running.chat("stays at home", headers={"X-LLR-Sensitivity": "high"})

    def calls() -> list[dict]:
        return running.get("/v1/egress").json["calls"]

    wait_until(lambda: len(calls()) >= 6, 10, "six calls in the ledger")
    assert sorted((call["reason"], call["outcome"]) for call in calls()) == [
        ("pin", "cancelled"),
        ("pin", "error"),
        ("pin", "ok"),
        ("pin", "ok"),
        ("shadow", "ok"),
        ("spill", "ok"),
    ]
    assert sorted(call["sent_bytes"] for call in calls()) == sorted(len(received.body) for received in cloud.chats)

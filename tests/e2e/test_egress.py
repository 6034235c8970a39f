"""The egress ledger: what left, where to, why; never what was said."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.server import ROOT
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

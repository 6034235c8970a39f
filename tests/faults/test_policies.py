"""A policy that passes the check can be served: 200 policies with changes, and SIGHUP for each that passes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from app import policy
from app.errors import PolicyError
from app.settings import Settings
from tests.e2e.server import Router, wait_until
from tests.faults.policies import mutated

pytestmark = pytest.mark.faults

POLICIES, SEED = 200, 20
BASE = "backends: {parrot: {type: echo}}\nroutes: [default: parrot]\n"


def passes(text: str) -> policy.Loaded | None:
    """What the check says; what it says must be some clear lines."""
    try:
        return policy.load(text, "policy.yaml", Settings())
    except PolicyError as error:
        assert all(line.isprintable() and len(line) <= 700 for line in error.problems)
        return None


def test_what_passes_the_check_is_served(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = random.Random(SEED)
    texts = [mutated(rng) for _ in range(POLICIES)]
    loaded = {text: found for text in texts if (found := passes(text))}
    assert len(loaded) >= POLICIES // 4
    with Router(BASE, folder=tmp_path) as router:
        master = router.pid
        for text, found in loaded.items():
            router.policy_file.write_text(text, "utf-8", newline="")
            router.sighup()
            version = found.policy.version
            wait_until(lambda version=version: serves(router, version), 30, f"the policy {text[:3000]}")
            answer = router.chat("hello")
            assert answer.status in (200, 502, 503, 504) and isinstance(answer.json, dict), (text, answer.body)
            private = router.chat("me@example.com", headers={"X-LLR-Sensitivity": "high"})
            assert private.status != 500
            for path in ("/v1/models", "/v1/metrics", "/v1/ab", "/metrics", "/"):
                assert router.get(path).status == 200, (path, text)
            assert router.post("/v1/route", {"messages": [{"role": "user", "content": "x"}]}).status in (200, 503)
        assert router.running and router.pid == master
        log = router.log_text()
    assert "Traceback" not in log and "unexpected" not in log, log[-3000:]
    with capsys.disabled():
        print(f"\n  {POLICIES} policies, {len(loaded)} passed the check and were served", end="")  # noqa: T201


def serves(router: Router, version: str) -> bool:
    return router.answers() and router.get("/health").json["policy"] == version

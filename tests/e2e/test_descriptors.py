"""File descriptors: the limit is raised, a low one leaves fewer clients at once, and none left is nobody's failure."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app import descriptors
from tests.e2e.server import ROOT, Router, chat_body, wait_until

pytestmark = pytest.mark.e2e

LOW = 301  # serves 59 clients at once


def policy(*urls: str) -> dict:
    backends = {f"b{number}": {"type": "ollama", "endpoint": url, "models": ["m"]} for number, url in enumerate(urls)}
    return {"backends": backends, "routes": [{"default": "b0", "fallback": list(backends)[1:]}]}


def limits_of(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_NOFILE)


def test_the_soft_limit_is_raised_to_the_hard_one(upstream, router) -> None:
    running = router(policy(upstream(models=["m"]).url), workers=2, descriptors=(256, 4096))
    assert {limits_of(pid) for pid in running.worker_pids()} == {(4096, 4096)}
    assert "file descriptors" not in running.log_text()


def test_with_a_low_limit_all_are_served_in_turn(upstream, router) -> None:
    """More streams than descriptors: they wait to come in, and none fails."""
    up = upstream(models=["m"], gap_s=0.05, tokens=10)
    running = router(policy(up.url), descriptors=(LOW, LOW))
    said = f"only {LOW} file descriptors (ulimit -Hn): a worker serves 59 clients at once; 3124 would do for 1000"
    assert said in running.log_text()

    def ask(number: int) -> tuple[int, bool]:
        with running.stream(f"number {number}", timeout=120) as stream:
            return stream.status, stream.read().endswith(b"data: [DONE]\n\n")

    with concurrent.futures.ThreadPoolExecutor(150) as pool:
        assert set(pool.map(ask, range(150))) == {(200, True)}
    assert {row["outcome"] for row in running.wait_rows(150, timeout=30)} == {"ok"}


def open_now(pid: int) -> set[int]:
    return {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}


@contextmanager
def none_left(pid: int) -> Iterator[int]:
    """The process may open nothing more than what it has open.  Yields its limit."""
    before = limits_of(pid)
    taken: set[int] = set()
    while taken != open_now(pid):  # connections of the start are still being closed
        taken = open_now(pid)
        time.sleep(0.3)
    limit = next(number for number in range(10_000) if number not in taken)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def chat(connection: http.client.HTTPConnection) -> tuple[int, str]:
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(chat_body("hi")), {"Content-Type": "application/json"}
    )
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_none_left_is_no_failure_of_a_backend(upstream, router) -> None:
    hosted = {"type": "openai", "model": "m", "apiKeyEnv": ""}  # never asked for models: no connection is kept
    backends = {name: {**hosted, "endpoint": f"{upstream(models=['m']).url}/v1"} for name in ("b0", "b1")}
    running = router({"backends": backends, "routes": [{"default": "b0", "fallback": "b1"}]})
    (pid,) = running.worker_pids()
    with contextlib.closing(running.connect()) as inside:
        inside.request("GET", "/health")
        inside.getresponse().read()
        with none_left(pid) as limit:
            for _ in range(4):
                status, body = chat(inside)
                said = f"this router has no file descriptors left (ulimit -n {limit}); raise the limit"
                assert (status, said in body) == (503, True), body
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                outside = pool.submit(running.chat, "hello", timeout=30)
                wait_until(lambda: "new connections wait" in running.log_text(), 10, "a connection that waits")
                assert not outside.done()
                resource.prlimit(pid, resource.RLIMIT_NOFILE, limits_of(os.getpid()))
                assert outside.result().status == 200
    assert json.loads(running.get("/health").body)["cooling"] == []
    rows = running.wait_rows(9)
    assert [row["error"] for row in rows if row["outcome"] == "error"] == ["descriptors"] * 8
    log = running.log_text()
    assert log.count("ERROR llr.health this machine has no descriptors left: calls fail") == 1
    assert log.count("no file descriptors left (ulimit -n") == 1
    assert log.count(" error=b0:descriptors,b1:descriptors") == 4
    assert "Traceback" not in log


def test_doctor_names_a_limit_that_is_too_low(tmp_path: Path) -> None:
    (tmp_path / "policy.yaml").write_text("backends: {e: {type: echo}}\nroutes: [{default: e}]\n", "utf-8")
    environ = {
        "PATH": os.environ["PATH"],
        "LLR_POLICY": str(tmp_path / "policy.yaml"),
        "LLR_DB": str(tmp_path / "m.db"),
    }
    command = [sys.executable, "-m", "flask", "doctor", "--json"]

    def run(limit: int) -> list[dict[str, str]]:
        done = subprocess.run(
            command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit)),
        )  # fmt: skip
        return [one for one in json.loads(done.stdout)["findings"] if one["check"] == "descriptors"]

    (finding,) = run(1024)
    assert finding["what"] == "a worker may open 1024 files and sockets, enough for 300 clients at once"
    assert "LimitNOFILE" in finding["fix"]
    assert run(descriptors.wanted()) == []


@pytest.mark.parametrize(
    ("limit", "clients"), [(64, 8), (256, 44), (1024, 300), (3123, 999), (3124, 1000), (1_048_576, 1000)]
)
def test_clients_at_once(limit: int, clients: int) -> None:
    assert descriptors.connections(limit) == clients
    assert clients * 2 < limit


def test_a_router_is_started_with_any_limit(tmp_path: Path) -> None:
    with Router(
        {"backends": {"e": {"type": "echo"}}, "routes": [{"default": "e"}]}, folder=tmp_path, descriptors=(64, 64)
    ) as small:
        assert small.chat("hello").status == 200

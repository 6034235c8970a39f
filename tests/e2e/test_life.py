"""Start, reload, stop: what an operator does to the process."""

from __future__ import annotations

import concurrent.futures
import http.client
import json
import logging
import os
import resource
import runpy
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from tests.e2e.server import ROOT, RouterDied, chat_body, wait_until
from tests.fakes import replies

pytestmark = pytest.mark.e2e


def one_backend(upstream, **more) -> dict:
    return {
        "backends": {"local": {"type": "ollama", "endpoint": upstream.url, "models": ["m:1"], **more}},
        "routes": [{"default": "local"}],
    }


def test_2000_requests_then_sigterm_leave_2000_rows(upstream, router):
    fake = upstream()
    running = router(one_backend(fake), workers=2)
    raw = json.dumps(chat_body("hello")).encode()

    def client(count: int) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
        good = 0
        for _ in range(count):
            connection.request("POST", "/v1/chat/completions", raw, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            good += answer.status == 200
        connection.close()
        return good

    shares = [2000 // 32 + (n < 2000 % 32) for n in range(32)]
    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert sum(pool.map(client, shares)) == 2000
    # Every worker counts them all: each answer comes from whichever worker takes the connection.
    wait_until(lambda: calls(running) == 2000, 6, "2000 calls in /v1/metrics")
    assert {calls(running) for _ in range(20)} == {2000}
    assert running.terminate() == 0
    assert len(running.rows()) == 2000
    assert len({row["request_id"] for row in running.rows()}) == 2000
    assert running.log_text().count(" llr.request llr-") == 2000  # lines that waited were written too


def test_a_new_worker_knows_the_models_before_it_serves(upstream, router):
    """Without them it could only refuse; and one server that hangs keeps nobody from learning those of another."""
    slow, hung = upstream(), upstream()
    slow.script([0.3, *replies.reply(200, {"models": [{"name": "m"}]})], path="/api/tags", repeat=True)
    hung.script([replies.HANG], path="/api/tags", repeat=True)
    backends = {name: {"type": "ollama", "endpoint": fake.url} for name, fake in (("hung", hung), ("slow", slow))}
    running = router({"backends": backends, "routes": [{"default": "slow"}]}, workers=1)
    assert running.chat().headers["X-LLR-Model"] == "m"


def calls(running) -> int:
    return sum(backend["calls"] for backend in running.get("/v1/metrics").json["backends"])


def test_sigterm_finishes_what_is_in_flight_and_writes_its_row(upstream, router):
    fake = upstream()
    running = router(one_backend(fake), workers=1)
    gate = replies.Gate()
    fake.script(replies.sse("first ", gate, "last"))
    with running.stream() as stream:
        stream.until(b"first")
        running.signal(15)
        wait_until(lambda: refused(running), 5, "the listening socket to close")
        gate.open()
        body = stream.read()
    assert b"last" in body and body.endswith(b"data: [DONE]\n\n")
    assert running.wait_exit(15) == 0
    assert [row["outcome"] for row in running.rows()] == ["ok"]


def refused(running) -> bool:
    try:
        running.raw().close()
    except OSError:
        return True
    return False


def test_sighup_loads_the_new_policy_and_streams_go_on(upstream, router):
    old, new = upstream(), upstream()
    running = router(one_backend(old), workers=2)
    gate = replies.Gate()
    old.script(replies.sse("first ", gate, "last"))
    with running.stream() as stream:
        stream.until(b"first")
        running.write_policy(one_backend(new))
        running.sighup()
        wait_until(lambda: running.chat().status == 200 and new.chats, 15, "the new policy to serve")
        gate.open()
        assert stream.read().endswith(b"data: [DONE]\n\n")


def test_a_bad_policy_at_sighup_keeps_the_old_one_and_the_log_says_why(upstream, router):
    fake = upstream()
    running = router(one_backend(fake), workers=2)
    running.write_policy({"backends": {"local": {"type": "olama"}}, "routes": [{"default": "lcal"}]})
    before = set(running.worker_pids())
    running.sighup()
    wait_until(lambda: "NOT reloaded" in running.log_text(), 10, "the log to say so")
    wait_until(lambda: before.isdisjoint(running.worker_pids()), 15, "new workers")
    assert all(running.chat().status == 200 for _ in range(10))
    log = running.log_text()
    assert "did you mean ollama?" in log and "no backend is called 'lcal'" in log
    assert "Traceback" not in log
    assert running.running


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="limits another process' files, which Linux alone can")
def test_a_full_disk_under_the_log_is_no_end(upstream, router):
    """What a hook of the master raises ends the service."""
    running = router(one_backend(upstream()), workers=1)
    before = set(running.worker_pids())
    room = running.log_file.stat().st_size
    resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    running.sighup()
    wait_until(lambda: (pids := running.worker_pids()) and before.isdisjoint(pids), 15, "a new worker")
    assert running.chat().status == 200
    assert running.log_file.stat().st_size == room, "there was room: nothing was tested"


def test_a_log_that_nobody_reads_stops_nothing(upstream, router, tmp_path):
    log = tmp_path / "router.log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    try:
        running = router(one_backend(upstream()), folder=tmp_path, workers=1)
        with os.fdopen(os.open(log, os.O_WRONLY | os.O_NONBLOCK), "wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):  # None when it is full
                pass
        for _ in range(5):
            assert running.chat().status == 200
            running.wait_rows(1)
        with running.raw(b"NONSENSE\r\n\r\n") as client:  # makes a warning of gunicorn's
            assert client.recv(100).startswith(b"HTTP/1.1 400")
        assert running.chat().status == 200
        running.wait_rows(6)
        assert running.get("/v1/metrics").status == 200
    finally:
        os.close(reader)


def test_a_policy_that_cannot_be_checked_is_not_taken(monkeypatch, caplog):
    """The Python that the master was started with is gone."""
    hooks = runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    hooks["on_reload"](SimpleNamespace(log=logging.getLogger("test")))
    assert "cannot be checked" in caplog.text and "NOT reloaded" in caplog.text


MISTAKES = {
    "unknown-type": ("type: ollama", "type: olama", "backends.local.type", "did you mean ollama?"),
    "unknown-key": ("models:", "modles:", "backends.local.modles", "did you mean model"),
    "unknown-backend": ("backend: local", "backend: locl", "routes[0].backend", "did you mean local?"),
    "match-value": ("complexity: high", "complexity: hgih", "routes[0].match.complexity", "did you mean high?"),
    "no-default": ("default: local", "backend: local", "routes", "default"),
    "budget": ("latencyBudgetMs: 100", "latencyBudgetMs: 0", "routes[1].latencyBudgetMs", "above 0"),
    "endpoint": ("http://127.0.0.1:1", "localhost:1", "backends.local.endpoint", "http://"),
    "yaml": ("models: [m]", "models: [m", "not valid YAML", ":"),
    "python-tag": ("models: [m]", "models: !!python/object:os.system [m]", "not valid YAML", "constructor"),
}
GOOD = """\
backends:
  local: {type: ollama, endpoint: "http://127.0.0.1:1"}
routes:
  - match: {complexity: high}
    backend: local
  - default: local
    latencyBudgetMs: 100
""".replace('"}', '",\n          models: [m]}')


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_policy_stops_the_start(router, mistake):
    right, wrong, *said = MISTAKES[mistake]
    assert right in GOOD
    began = time.monotonic()
    with pytest.raises(RouterDied) as died:
        router(GOOD.replace(right, wrong), workers=2)
    assert time.monotonic() - began < 10  # the 2 s of the contract are a benchmark's business
    text = str(died.value)
    assert all(part in text for part in said), text
    assert "Traceback" not in text


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"LLR_PORT": "http"}, "LLR_PORT: must be a whole number"),
        ({"LLR_PORTS": "3030"}, "did you mean LLR_PORT?"),
        ({"LLR_WORKERS": "many"}, "LLR_WORKERS"),
        ({"LLR_LOG_LEVEL": "loud"}, "must be one of debug"),
    ],
)
def test_a_wrong_variable_stops_the_start(router, env, said):
    with pytest.raises(RouterDied) as died:
        router(GOOD, env=env)
    assert said in str(died.value)
    assert "Traceback" not in str(died.value)


def test_a_taken_port_is_one_clear_line(upstream, router):
    fake = upstream()
    running = router(one_backend(fake), workers=1)
    with pytest.raises(RouterDied) as died:
        router(one_backend(fake), env={"LLR_PORT": str(running.port)})
    assert "cannot listen on" in str(died.value) and "LLR_PORT" in str(died.value)
    assert "Traceback" not in str(died.value)


def test_max_concurrency_holds_over_all_workers(upstream, router):
    fake = upstream()
    running = router(one_backend(fake, maxConcurrency=3), workers=2)
    gate = replies.Gate()
    fake.script([gate, *replies.reply(200, replies.completion())], repeat=True)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(running.chat) for _ in range(12)]
        wait_until(lambda: fake.busy >= 3, 5, "three calls under way")
        time.sleep(0.5)  # long enough for a fourth to show up
        assert fake.busy == 3
        gate.open()
        assert {answer.result().status for answer in answers} == {200}


def test_init_writes_a_policy_that_serves(upstream, tmp_path):
    fake = upstream(models=["llama3.2:3b", "qwen2.5-coder:7b", "gemma3:4b", "nomic-embed-text", "gpt-oss:120b-cloud"])
    env = {"LLR_POLICY": str(tmp_path / "policy.yaml"), "OLLAMA_HOST": fake.url, "PATH": ""}

    def flask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flask", *words]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=30, check=False)

    assert flask("init").returncode == 0
    assert flask("policy", "check").returncode == 0
    shown = json.loads(flask("policy", "show", "--json").stdout)
    local = shown["backends"]["local"]
    assert local["families"] == {"llama": "llama3.2:3b", "qwen-coder": "qwen2.5-coder:7b", "gemma": "gemma3:4b"}
    text = (tmp_path / "policy.yaml").read_text()
    again = flask("init")
    assert again.returncode == 1 and "not touched" in again.stderr
    assert (tmp_path / "policy.yaml").read_text() == text


def test_gunicorn_may_be_started_from_any_folder(tmp_path):
    policy = tmp_path / "policy.yaml"
    policy.write_text("backends: {e: {type: echo}}\nroutes: [{default: e}]\n")
    environ = {"PATH": os.environ["PATH"], "LLR_POLICY": str(policy), "LLR_DB": str(tmp_path / "metrics.db")}
    command = [
        sys.executable,
        "-P",
        "-m",
        "gunicorn",
        "--check-config",
        "-c",
        str(ROOT / "gunicorn.conf.py"),
        "wsgi:app",
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")

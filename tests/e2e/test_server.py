"""The harness itself, against a throw-away application: it starts, sees, stops and tells what went wrong."""

from __future__ import annotations

import os
import signal
import sqlite3
import time

import pytest

from tests.e2e.server import Router, RouterDied, content, parse_events, wait_until
from tests.fakes.replies import delta, event

pytestmark = pytest.mark.e2e

CONF = """
import os
bind = "127.0.0.1:" + os.environ["LLR_PORT"]
workers = int(os.environ["LLR_WORKERS"])
worker_class = "gevent"
control_socket_disable = True
graceful_timeout = 5
"""
APP = """
import json, os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        def pieces():
            for number in range(3):
                yield b"data: %d\\n\\n" % number
                time.sleep(0.1)
        return pieces()
    if path == "/env":
        body = json.dumps(dict(os.environ)).encode()
    else:
        body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "gunicorn.conf.py").write_text(CONF)
    (folder / "wsgi.py").write_text(APP)
    return folder


def refuses(running: Router) -> bool:
    """The kernel closes a killed process's socket a moment after the process is gone."""
    try:
        running.raw().close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:
        pass
    return False


def test_starts_answers_and_ends(root, router, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test")
    monkeypatch.setenv("LLR_API_KEYS", "inherited")
    monkeypatch.setenv("OPENAI_API_KEY", "inherited")
    running = router({"backends": {}}, workers=2, root=root, env={"LLR_COOLDOWN": "1"})
    pids = running.worker_pids()
    assert len(pids) == 2 and running.pid not in pids
    assert running.post("/any", {"a": 1}).json == {"a": 1}
    seen = running.get("/env").json
    assert not {"HTTP_PROXY", "LLR_API_KEYS", "OPENAI_API_KEY"} & set(seen)
    assert seen["LLR_COOLDOWN"] == "1"
    assert seen["TMPDIR"].startswith(str(running.folder)) and seen["HOME"].startswith(str(running.folder))
    assert running.terminate() == 0
    assert running.living_workers() == []
    assert "Listening at" in running.log_text()


def test_a_stream_is_read_as_it_arrives_and_can_be_left(root, router):
    running = router({}, root=root)
    with running.stream(path="/stream") as stream:
        times, pieces = zip(*stream, strict=True)
    assert pieces == (b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n")
    assert list(times) == sorted(times)
    with running.stream(path="/stream") as stream:
        assert stream.until(b"1") == b"data: 0\n\ndata: 1\n\n"
    with running.stream(path="/stream") as stream, pytest.raises(AssertionError, match="ended before"):
        stream.until(b"9")


def test_a_program_that_does_not_start_shows_its_log(root, router):
    (root / "wsgi.py").write_text("raise RuntimeError('no such luck')")
    with pytest.raises(RouterDied, match="no such luck"):
        router({}, root=root)


def test_start_without_waiting(root, router):
    (root / "gunicorn.conf.py").write_text("raise SystemExit(3)")
    assert router({}, root=root, wait=False).wait_exit() != 0


def test_kill_of_one_worker_of_the_master_and_of_all(root, router):
    running = router({}, workers=2, root=root)
    first, second = running.worker_pids()
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(running.worker_pids()) == 2 and first not in running.worker_pids(), 10, "a new worker")
    assert second in running.worker_pids()
    running.kill()
    wait_until(lambda: not running.living_workers(), 10, "the orphans' end")
    running.start()
    assert running.get("/health").status == 200
    running.kill_all()
    wait_until(lambda: refuses(running), 5, "the port to be closed")


def test_sighup_brings_new_workers(root, router):
    running = router({}, root=root)
    before = running.worker_pids()
    running.sighup()
    wait_until(lambda: (now := running.worker_pids()) and not set(before) & set(now), 10, "new workers")


def test_raw_sockets(root, router):
    with router({}, root=root).raw(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_rows(root, router):
    running = router({}, root=root)
    assert running.rows() == []
    connection = sqlite3.connect(running.database)
    connection.execute("CREATE TABLE metrics (id INTEGER PRIMARY KEY, backend TEXT, shadow INTEGER)")
    connection.execute("INSERT INTO metrics (backend, shadow) VALUES ('a', 0), ('b', 1)")
    connection.commit()
    connection.close()
    assert running.wait_rows(1) == [{"id": 1, "backend": "a", "shadow": 0}]
    assert running.rows("SELECT backend FROM metrics WHERE shadow = ?", 1) == [{"backend": "b"}]
    with pytest.raises(TimeoutError, match="2 rows"):
        running.wait_rows(2, 0.1)


def test_policy_is_written_as_it_is_or_as_json(root, tmp_path):
    router = Router("backends: {}\n", folder=tmp_path / "text", root=root)
    assert router.policy_file.read_text() == "backends: {}\n"
    router.write_policy({"routes": [{"default": "local"}]})
    assert router.policy_file.read_text().startswith("{")


def test_events():
    body = (
        b': comment\r\n\r\ndata: {"a":\r\ndata: 1}\r\n\r\n'
        + event(delta("x"))
        + event(delta("y"))
        + b"data: [DONE]\n\n"
    )
    events = parse_events(body)
    assert events[0] == {"a": 1} and events[-1] == "[DONE]"
    assert content(events) == "xy"


def test_nothing_is_left_listening(root, tmp_path):
    with Router({}, folder=tmp_path / "r", root=root) as running:
        assert not refuses(running)
        begin = time.monotonic()
    assert time.monotonic() - begin < 10
    wait_until(lambda: refuses(running), 5, "the port to be closed")

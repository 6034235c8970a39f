"""Why requests fail stands in the log, and refused ones are counted over workers and restarts."""

from __future__ import annotations

import concurrent.futures
import re
from collections.abc import Iterator

import pytest

from tests.e2e.server import Router, wait_until
from tests.fakes import replies
from tests.fakes.upstream import refused_url

pytestmark = pytest.mark.e2e

ALLOWED = {"Authorization": "Bearer key"}


@pytest.fixture
def refused() -> Iterator[str]:
    with refused_url() as url:
        yield url


def policy(gpu: str, spare: str) -> dict:
    return {
        "backends": {
            "gpu": {"type": "ollama", "endpoint": gpu, "models": ["m"]},
            "spare": {"type": "ollama", "endpoint": spare, "models": ["m"]},
        },
        "routes": [{"default": "gpu", "fallback": "spare"}],
    }


def lines(running: Router, mark: str) -> list[str]:
    return [line for line in running.log_text().splitlines() if mark in line]


def test_a_failing_backend_is_named_once_with_its_cause(upstream, router, refused: str) -> None:
    up = upstream(models=["m"])
    running = router(policy(up.url, refused))
    up.script(replies.error(503), repeat=True)
    for _ in range(23):
        assert running.chat("secret words").status == 502
    requests = wait_until(lambda: (found := lines(running, "status=502")) and len(found) == 23 and found, 5, "23 lines")
    assert all(
        line.endswith((" error=gpu:http_503,spare:refused", " error=spare:refused,gpu:http_503")) for line in requests
    )
    opened = sorted(line.partition(" llr.health ")[2] for line in lines(running, "WARNING llr.health"))
    assert opened == ["gpu: cooling down for 10 s: 3 x http_503", "spare: cooling down for 10 s: 3 x refused"]
    assert "secret words" not in running.log_text()


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_after_failures_names_them(upstream, router, stream: bool) -> None:
    up, spare = upstream(models=["m"]), upstream(models=["m"])
    running = router(policy(up.url, spare.url))
    up.script(replies.error(503, "secret words"))
    for _ in range(2):
        assert running.chat(stream=stream).status == 200
    first, second = wait_until(
        lambda: (found := lines(running, "status=200")) and len(found) == 2 and found, 5, "lines"
    )
    assert " backend=spare " in first and first.endswith(" failed=gpu:http_503")
    assert " backend=gpu " in second and " failed=" not in second
    assert "secret words" not in running.log_text()


def test_a_database_that_cannot_be_used_is_told_before_the_first_request(upstream, router) -> None:
    up = upstream(models=["m"])
    running = router(policy(up.url, up.url), env={"LLR_DB": "/no/such/folder/metrics.db"})
    (line,) = wait_until(lambda: lines(running, "metrics cannot be written"), 10, "the line")
    assert "unable to open database file. `flask doctor` prints the fix" in line


def test_a_recovery_is_told(upstream, router, refused: str) -> None:
    up = upstream(models=["m"])
    running = router(policy(up.url, refused), env={"LLR_COOLDOWN": "0.3"})
    up.script(replies.error(503), replies.error(503), replies.error(503))
    for _ in range(3):
        running.chat()
    wait_until(lambda: running.chat().status == 200, 5, "gpu to be tried again")
    wait_until(lambda: lines(running, "INFO llr.health gpu: answers again after "), 5, "the line")


@pytest.mark.parametrize(
    ("play", "cause"),
    [
        (replies.sse("hel", 0.3, replies.RESET, finish=False), "gpu:reset"),
        (replies.sse("hel", finish=False), "gpu:truncated"),
        (replies.sse("hel", 0.3, {"error": {"message": "secret words"}}, finish=False), "gpu:error_event"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_stream_that_breaks_has_its_cause_in_its_line(
    upstream, router, refused: str, play, cause: str, path: str
) -> None:
    up = upstream(models=["m"])
    running = router(policy(up.url, refused))
    up.script(play)
    body = {"stream": True, "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    with running.stream(path=path, json=body) as stream:
        stream.read()
    (line,) = wait_until(lambda: lines(running, "status=200"), 5, "the line")
    assert line.endswith(f" error={cause}")
    assert "secret words" not in running.log_text()


def test_refusals_add_up_over_workers_and_restarts(upstream, router) -> None:
    up = upstream(models=["m"])
    running = router(policy(up.url, up.url), workers=2, env={"LLR_API_KEYS": "key"})
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: running.chat().status, range(40))) == {401}
    assert running.chat(headers=ALLOWED, messages=[]).status == 400
    with running.raw(b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n") as sock:
        assert sock.recv(100).startswith(b"HTTP/1.1 400 ")
    expected = {"invalid_api_key": 40, "bad_request": 2}

    def told() -> dict[str, int]:
        return running.get("/v1/metrics", ALLOWED).json["refusals"]

    wait_until(lambda: told() == expected, 5, "all to be written")
    running.terminate()
    running.start()
    assert told() == expected
    exported = running.get("/metrics", ALLOWED).body.decode()
    assert dict(re.findall(r'llr_refusals_total\{code="(\w+)"\} (\d+)', exported)) == {
        "invalid_api_key": "40", "bad_request": "2"
    }  # fmt: skip

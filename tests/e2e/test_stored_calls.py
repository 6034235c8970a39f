"""GET and DELETE of a response that a native backend keeps: calls like all others, with gate, place, record and log."""

from __future__ import annotations

import sqlite3
from typing import Any

import pytest

from tests.e2e.server import Router, wait_until
from tests.fakes import replies

pytestmark = pytest.mark.e2e

KEPT = {
    "id": "resp_1",
    "object": "response",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 30, "output_tokens": 40, "total_tokens": 70},
}
ASKED = [
    ("GET", "/v1/responses/resp_1", "/v1/responses/resp_1"),
    ("GET", "/v1/responses/resp_1/input_items", "/v1/responses/resp_1/input_items"),
    ("DELETE", "/v1/responses/resp_1", "/v1/responses/resp_1"),
]


def policy(cloud, **more: Any) -> dict[str, Any]:
    native = {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "responses": "native"}
    backends = {"cloud": {**native, "price": {"input": 1, "output": 1}, **more}, "parrot": {"type": "echo"}}
    return {"backends": backends, "routes": [{"default": "cloud"}]}


def keep(cloud, running: Router, document: dict[str, Any] = KEPT, headers: dict[str, str] | None = None) -> None:
    """A response that the backend keeps; its row is written."""
    cloud.script(replies.reply(200, document), path="/responses")
    assert running.post("/v1/responses", {"input": "q"}, headers).status == 200
    running.wait_rows(1)


@pytest.fixture
def cloud(upstream):
    return upstream()


@pytest.fixture
def running(cloud, router) -> Router:
    made = router(policy(cloud), env={"OPENAI_API_KEY": "k"})
    keep(cloud, made)
    return made


@pytest.mark.parametrize(("method", "url", "path"), ASKED)
def test_each_is_one_call_with_one_record(cloud, running: Router, method: str, url: str, path: str) -> None:
    cloud.script(replies.reply(200, KEPT), path="*")
    answer = running.request(method, url)
    assert answer.status == 200
    assert answer.json == (KEPT if method == "GET" else {"id": "resp_1", "object": "response", "deleted": True})
    assert (cloud.requests[-1].method, cloud.requests[-1].path, cloud.requests[-1].body) == (method, path, b"")
    named = {name: answer.headers[f"X-LLR-{name}"] for name in ("Backend", "Model", "Route")}
    assert named == {"Backend": "cloud", "Model": "big", "Route": "stored"}
    row = running.wait_rows(2, live_only=False)[1]
    expected = {
        "request_id": answer.headers["X-LLR-Request-Id"], "kind": "stored", "shadow": 1, "backend": "cloud",
        "model": "big", "route": "stored", "surface": "responses", "reason": "continuation", "outcome": "ok", "ok": 1,
        "sent_bytes": 0, "destination": cloud.url.removeprefix("http://"), "stream": 0,
        # What the response once took is in the row of its own call.
        "input_tokens": None, "output_tokens": None, "cost_usd": None, "ttfb_ms": None, "task": None, "tokens": None,
    }  # fmt: skip
    assert {name: row[name] for name in expected} == expected
    ledger = running.get("/v1/egress").json["calls"]
    assert [call["route"] for call in ledger] == ["default", "stored"]
    (line,) = [line for line in running.log_text().splitlines() if expected["request_id"] in line]
    assert "responses route=stored backend=cloud model=big status=200" in line


def test_they_are_in_no_number_of_live_calls(cloud, running: Router) -> None:
    before = running.get("/v1/metrics").json
    cloud.script(replies.reply(200, KEPT), path="*", repeat=True)
    for _ in range(12):
        assert running.get("/v1/responses/resp_1").status == 200
    running.wait_rows(13, live_only=False)
    assert running.get("/v1/metrics").json == before
    live = [line for line in running.get("/metrics").body.decode().splitlines() if 'backend="cloud"' in line]
    assert 'llr_backend_calls_total{backend="cloud"} 1.0' in live
    assert running.get("/health").json["ok"]


FAULTS = [
    (replies.error(404, "no such response"), 404, "http_404", "no such response"),
    (replies.error(503, "down"), 502, "http_503", "cloud: answered 503"),
    (replies.error(401, "bad key"), 502, "http_401", "OPENAI_API_KEY"),
    (replies.error(429, "slow down"), 429, "http_429", "rate limited"),
    (replies.html(200), 502, "protocol", "not a JSON object"),
    (replies.reply(200, {"error": {"message": "no such tenant"}}), 502, "error_body", "no such tenant"),
    (replies.reply(200, {"object": "error", "message": "locked", "code": 423}), 502, "error_body", "locked"),
]


@pytest.mark.parametrize(("play", "status", "kind", "said"), FAULTS, ids=[fault[3] for fault in FAULTS])
@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_what_fails_is_told_and_recorded(
    cloud, running: Router, play: Any, status: int, kind: str, said: str, method: str
) -> None:
    cloud.script(play, path="*")
    answer = running.request(method, "/v1/responses/resp_1")
    assert (answer.status, said in answer.error["message"]) == (status, True), answer.body
    row = running.wait_rows(2, live_only=False)[1]
    assert (row["kind"], row["outcome"], row["error"]) == ("stored", "error", kind)
    (line,) = [line for line in running.log_text().splitlines() if row["request_id"] in line]
    assert f"status={status}" in line
    cloud.script(replies.reply(200, KEPT), path="*")
    assert running.get("/v1/responses/resp_1").status == 200, "what could not be deleted is still there"


def test_a_response_that_failed_is_retrieved_as_it_is(cloud, running: Router) -> None:
    failed = {**KEPT, "status": "failed", "error": {"code": "server_error", "message": "it broke"}}
    cloud.script(replies.reply(200, failed), path="*")
    assert running.get("/v1/responses/resp_1").json == failed


def test_a_circuit_that_opens_counts_them(cloud, running: Router) -> None:
    cloud.script(replies.error(503, "down"), path="*", repeat=True)
    for _ in range(3):
        assert running.get("/v1/responses/resp_1").status == 502
    assert "cloud" in running.get("/health").json["cooling"]


def test_a_private_one_goes_to_no_backend_that_is_not_local(cloud, router, tmp_path) -> None:
    """Kept while the backend was local, and asked for with a policy that says it no more."""
    private = {"X-LLR-Sensitivity": "high"}
    keeping = policy(cloud, local=True) | {"responses": {"storePrivate": True}}
    running = router(keeping, env={"OPENAI_API_KEY": "k"}, folder=tmp_path / "one")
    keep(cloud, running, headers=private)
    cloud.script(replies.reply(200, KEPT), path="*", repeat=True)
    assert running.get("/v1/responses/resp_1").status == 200
    running.terminate()
    running.write_policy(policy(cloud) | {"responses": {"storePrivate": True}})
    running.start()
    calls = len(cloud.requests)
    for method, url, _ in ASKED:
        answer = running.request(method, url)
        assert (answer.status, answer.error["code"]) == (503, "no_eligible_backend")
        assert "'cloud', is not local" in answer.error["message"]
    assert len(cloud.requests) == calls
    running.terminate()
    running.write_policy(keeping)
    running.start()
    assert running.get("/v1/responses/resp_1").status == 200


@pytest.mark.parametrize(("method", "url", "path"), ASKED)
def test_the_header_counts_for_them_too(cloud, running: Router, method: str, url: str, path: str) -> None:
    calls = len(cloud.requests)
    answer = running.request(method, url, None, {"X-LLR-Sensitivity": "high"})
    assert (answer.status, answer.error["code"]) == (503, "no_eligible_backend"), path
    assert running.request(method, url, None, {"X-LLR-Sensitivity": "secret"}).status == 400
    assert len(cloud.requests) == calls


def test_a_client_that_leaves_ends_the_call(cloud, running: Router) -> None:
    cloud.script([replies.HANG], path="*")
    with running.raw(b"GET /v1/responses/resp_1 HTTP/1.1\r\nHost: localhost\r\n\r\n"):
        wait_until(lambda: cloud.requests[-1].method == "GET", 5, "the call")
    row = running.wait_rows(2, live_only=False)[1]
    assert (row["kind"], row["outcome"]) == ("stored", "cancelled")
    cloud.wait(lambda: cloud.requests[-1].hung_up)
    wait_until(lambda: "route=- backend=- model=- status=499" in running.log_text(), 5, "the line")


def test_a_backend_that_is_no_longer_native_is_not_asked(running: Router) -> None:
    running.terminate()
    running.write_policy({"backends": {"cloud": {"type": "echo"}}, "routes": [{"default": "cloud"}]})
    running.start()
    for method, url, _ in ASKED:
        answer = running.request(method, url)
        assert (answer.status, answer.error["code"]) == (404, "response_not_found")


def test_an_id_is_no_path(cloud, router) -> None:
    """Ids come from backends: this one must not lead to another URL with our key."""
    running = router(policy(cloud), env={"OPENAI_API_KEY": "k"})
    keep(cloud, running, {**KEPT, "id": "../files?x=1#y"})
    cloud.script(replies.reply(200, KEPT), path="*")
    assert running.get("/v1/responses/..%2Ffiles%3Fx=1%23y").status in (200, 404)
    with sqlite3.connect(running.database) as database:
        assert database.execute("SELECT id FROM llr_responses").fetchall() == [("../files?x=1#y",)]
    assert {request.path for request in cloud.requests} <= {"/v1/responses", "/v1/responses/..%2Ffiles%3Fx%3D1%23y"}

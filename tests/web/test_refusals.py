"""What is refused before any call is counted with its code, logged with its cause, and shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from app.errors import AllBackendsFailed, BackendRejected, BackendUnavailable, NoPlace, RouterError
from tests.logs import captured
from tests.web.conftest import ECHO, Client

CHAT = {"messages": [{"role": "user", "content": "xyzzy plugh"}]}
CHAT_URL = "/v1/chat/completions"
TINY = "backends: {small: {type: echo, contextWindow: 1}}\nroutes: [default: small]"
CLOUD = 'backends: {cloud: {type: openai, model: m, endpoint: "http://127.0.0.1:9/v1"}}\nroutes: [default: cloud]'

# name: (policy, method, url, body, headers) -> (status, code)
REFUSED: dict[str, tuple[str, str, str, Any, dict[str, str], tuple[int, str]]] = {
    "no JSON": (ECHO, "POST", CHAT_URL, b"xyzzy", {}, (400, "bad_request")),
    "no messages": (ECHO, "POST", CHAT_URL, {}, {}, (400, "bad_request")),
    "responses without input": (ECHO, "POST", "/v1/responses", {}, {}, (400, "bad_request")),
    "a misspelt header": (ECHO, "POST", CHAT_URL, CHAT, {"X-LLR-Sensitivty": "high"}, (400, "bad_request")),
    "no such response": (
        ECHO, "POST", "/v1/responses", {"input": "x", "previous_response_id": "resp_0"}, {},
        (400, "previous_response_not_found"),
    ),
    "too long": (TINY, "POST", CHAT_URL, CHAT, {}, (400, "context_length_exceeded")),
    "no key": (ECHO, "POST", CHAT_URL, CHAT, {"Authorization": ""}, (401, "invalid_api_key")),
    "a foreign host": (ECHO, "GET", "/v1/models", None, {"Host": "evil.example"}, (403, "host_not_allowed")),
    "a foreign page": (ECHO, "GET", "/health", None, {"Origin": "https://evil.example"}, (403, "origin_not_allowed")),
    "no such URL": (ECHO, "GET", "/xyzzy", None, {}, (404, "not_found")),
    "no such model": (ECHO, "GET", "/v1/models/xyzzy", None, {}, (404, "model_not_found")),
    "a wrong method": (ECHO, "GET", CHAT_URL, None, {}, (405, "method_not_allowed")),
    "too large": (ECHO, "POST", CHAT_URL, b"x" * 5000, {}, (413, "request_too_large")),
    "compressed": (ECHO, "POST", CHAT_URL, b"x", {"Content-Encoding": "gzip"}, (415, "unsupported_media_type")),
    "private": (CLOUD, "POST", CHAT_URL, CHAT, {"X-LLR-Sensitivity": "high"}, (503, "no_eligible_backend")),
    "private, streamed": (
        CLOUD, "POST", CHAT_URL, {**CHAT, "stream": True}, {"X-LLR-Sensitivity": "high"}, (503, "no_eligible_backend"),
    ),
}  # fmt: skip


def ask(made: FlaskClient, method: str, url: str, body: Any, headers: dict[str, str]) -> int:
    text = body if isinstance(body, bytes) or body is None else json.dumps(body)
    sent = {"Content-Type": "application/json", "Authorization": "Bearer key"} | headers
    return made.open(url, method=method, data=text, headers=sent).status_code


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_counted_with_its_code_and_logged_with_its_cause(client: Client, case: tuple[Any, ...]) -> None:
    policy, *request, (status, code) = case
    made = client(policy, LLR_API_KEYS="key", LLR_MAX_BODY_BYTES="2000")
    with captured("llr.request") as lines:
        assert ask(made, *request) == status
    (line,) = lines
    assert line.endswith(f" error={code}")
    assert f"status={status}" in line
    assert "xyzzy" not in line
    known = {"Authorization": "Bearer key"}
    assert made.get("/v1/metrics", headers=known).json["refusals"] == {code: 1}
    exported = made.get("/metrics", headers=known).get_data(as_text=True)
    assert f'llr_refusals_total{{code="{code}"}} 1.0' in exported.splitlines()
    page = made.get("/", headers=known).get_data(as_text=True)
    assert f"before any call: 1 {code}" in page


def test_answers_and_failed_calls_are_no_refusals(client: Client) -> None:
    made = client(CLOUD)
    assert ask(made, "POST", CHAT_URL, CHAT, {}) == 502
    assert made.get("/v1/models").status_code == made.get("/health").status_code == 200
    metrics = made.get("/v1/metrics").json
    assert metrics["refusals"] == {}
    assert metrics["backends"][0]["errors"] == 1
    assert "before any call" not in made.get("/").get_data(as_text=True)


def test_a_wrong_key_in_the_form_is_a_refusal(client: Client) -> None:
    made = client(ECHO, LLR_API_KEYS="key")
    assert made.post("/", data={"key": "wrong"}).status_code == 401
    assert made.get("/v1/metrics", headers={"Authorization": "Bearer key"}).json["refusals"] == {"invalid_api_key": 1}


BUSY, DEAD = ("a", NoPlace("x")), ("b", BackendUnavailable("x"))


@pytest.mark.parametrize(
    ("error", "cause", "refusal"),
    [
        (AllBackendsFailed([BUSY]), "a:busy", "busy"),
        (AllBackendsFailed([BUSY, DEAD]), "a:busy,b:refused", None),
        (AllBackendsFailed([DEAD]), "b:refused", None),
        (BackendRejected("x", kind="http_400", status=400, code="a code of the backend's"), "http_400", None),
        (RouterError("x", status=503, code="metrics_unavailable"), "metrics_unavailable", None),
        (RouterError("x"), "internal_server_error", None),
    ],
)
def test_causes(error: RouterError, cause: str, refusal: str | None) -> None:
    assert (error.cause, error.refusal) == (cause, refusal)

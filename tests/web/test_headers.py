"""The sensitivity header, content types, sizes, and the envelope of every error."""

from __future__ import annotations

import io
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.web.conftest import ECHO, Client

CHAT: Any = {"messages": [{"role": "user", "content": "hi"}]}
BODY = json.dumps(CHAT)
POSTS = ["/v1/chat/completions", "/v1/route"]


# --- X-LLR-Sensitivity --------------------------------------------------------------------------


def tagged(client: Client, **environ: str) -> tuple[int, str]:
    """Status, and the sensitivity that the router took the request for."""
    response = client().post("/v1/route", json=CHAT, environ_overrides=environ)
    document = response.json
    assert document is not None
    if response.status_code != 200:
        assert list(document["error"]) == ["message", "type", "param", "code"]
        return response.status_code, ""
    return 200, document["classification"]["sensitivity"]


@pytest.mark.parametrize(
    "value, sensitivity",
    [
        ("high", "high"),
        ("HIGH", "high"),
        ("  High \t", "high"),
        ("high,high", "high"),
        ("high , HIGH", "high"),
        ("normal", "normal"),
        ("Normal", "normal"),
        ("normal,normal", "normal"),
    ],
)
def test_values_that_are_read(client: Client, value: str, sensitivity: str) -> None:
    assert tagged(client, HTTP_X_LLR_SENSITIVITY=value) == (200, sensitivity)


@pytest.mark.parametrize(
    "value",
    [
        "", " ", ",", "high,", "high,normal", "normal,high", "high;normal", "high normal", "hi", "low", "true", "1",
        "highly", "h\xefgh", "ｈｉｇｈ".encode().decode("latin-1"), "hi\u200bgh".encode().decode("latin-1"), "'high'",
        '"high"', "high\x00", "high,high,normal", "private",
    ],
)  # fmt: skip
def test_values_that_are_refused(client: Client, value: str) -> None:
    """Whatever is not plainly one of the two might have meant high."""
    response = client().post("/v1/route", json=CHAT, environ_overrides={"HTTP_X_LLR_SENSITIVITY": value})
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"] == {
        "message": "X-LLR-Sensitivity must be normal or high, once.",
        "type": "invalid_request_error",
        "param": "X-LLR-Sensitivity",
        "code": None,
    }


def test_without_the_header_a_request_is_normal(client: Client) -> None:
    assert tagged(client) == (200, "normal")


@pytest.mark.parametrize(
    "name",
    [
        "X-LLR-Sensitivty",
        "X-LLR-Sensitive",
        "X-LLR-Sensitivity-",
        "X-LLR--Sensitivity",
        "X-LLR-Private",
        "X-LLR-Sensitivity2",
        "X-LLRSensitivity",
        "X-LLR",
        "LLR-Sensitivity",
        "XLLR-Sensitivity",
        "XX-LLR-Sensitivity",
        "X--LLR-Sensitivity",
        "_X-LLR-Sensitivity",
        "X.LLR.Sensitivity",
        "HTTP-X-LLR-Sensitivity",
    ],
)
@pytest.mark.parametrize("path", POSTS)
def test_names_that_look_alike_are_refused(client: Client, path: str, name: str) -> None:
    response = client().post(path, json=CHAT, headers={name: "high"})
    assert response.status_code == 400
    assert response.json is not None
    assert response.json["error"]["message"].endswith("did you mean X-LLR-Sensitivity?")


@pytest.mark.parametrize("name", ["x-llr-sensitivity", "X-Llr-SENSITIVITY", "X_LLR_Sensitivity", "X-LLR_Sensitivity"])
def test_spellings_of_the_name_that_count(client: Client, name: str) -> None:
    """With underscores too: some proxies pass it on so, and gunicorn is told to let it through."""
    assert client().post("/v1/route", json=CHAT, headers={name: "high"}).json["classification"]["sensitivity"] == "high"


@pytest.mark.parametrize("name", ["X-LLR-Explain", "X-LLR-Request-Id", "X-Sensitivity", "X-Allright", "Llama"])
def test_other_headers_are_none_of_ours(client: Client, name: str) -> None:
    assert client().post("/v1/route", json=CHAT, headers={name: "high"}).status_code == 200


@pytest.mark.parametrize(
    "document, sensitivity",
    [({"content": "write to me@corp.example"}, "high"), ({"content": "write to me"}, "normal")],
)
def test_a_detector_makes_it_high_whatever_the_header(
    client: Client, document: dict[str, str], sensitivity: str
) -> None:
    body = {"messages": [{"role": "user", **document}]}
    for headers in ({}, {"X-LLR-Sensitivity": "normal"}):
        answer = client().post("/v1/route", json=body, headers=headers).json
        assert answer["classification"]["sensitivity"] == sensitivity
    trace = [step["outcome"] for step in answer["trace"]]
    assert ("private, because of detector:email" in trace) is (sensitivity == "high")


REASONS = [
    ("hello", {}, None),
    ("hello", {"X-LLR-Sensitivity": "high"}, "header"),
    ("write to me@corp.example", {}, "detector:email"),
    ("write to me@corp.example", {"X-LLR-Sensitivity": "high"}, "header"),
    ("about bluebird", {}, "pattern:patterns[0]"),
]


@pytest.mark.parametrize("content, asked, reason", REASONS)
def test_what_made_a_request_private_is_said_by_name(
    client: Client, tmp_path: Path, content: str, asked: dict[str, str], reason: str | None
) -> None:
    """In the answer, the dry run and the row, and none of them holds the text."""
    made = client(ECHO.replace("detect: [email]", 'detect: [email], patterns: ["(?i)bluebird"]'))
    body = {"messages": [{"role": "user", "content": content}]}
    answer = made.post("/v1/chat/completions", json=body, headers=asked)
    assert answer.status_code == 200
    assert answer.headers.get("X-LLR-Sensitivity-Reason") == reason
    plan = made.post("/v1/route", json=body, headers=asked)
    assert (plan.json["sensitivity_reason"], plan.headers.get("X-LLR-Sensitivity-Reason")) == (reason, reason)
    with closing(sqlite3.connect(tmp_path / "metrics.db")) as database:
        assert database.execute("SELECT sensitivity_reason FROM metrics").fetchall() == [(reason,)]


def test_a_refusal_names_it_too(client: Client) -> None:
    made = client("backends: {c: {type: openai, model: m}}\nroutes: [{default: c}]\nsensitivity: {detect: [email]}\n")
    answer = made.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "to me@corp.example"}]})
    assert (answer.status_code, answer.headers["X-LLR-Sensitivity-Reason"]) == (503, "detector:email")
    assert "because of detector:email" in answer.json["error"]["message"]


# --- content types and sizes --------------------------------------------------------------------

READ = [
    None, "application/json", "application/json; charset=utf-8", "APPLICATION/JSON", "text/json",
    "application/vnd.x+json", "application/problem+json", "application/x-www-form-urlencoded", "application/json;",
]  # fmt: skip
NOT_READ = [
    "text/plain", "multipart/form-data; boundary=x", "application/xml", "text/html", "application/octet-stream",
    "application/jsonl", "application/x-ndjson", "json", "text/plain; application/json", "image/png",
]  # fmt: skip


@pytest.mark.parametrize("content_type", READ)
@pytest.mark.parametrize("path", POSTS)
def test_content_types_that_are_read(client: Client, path: str, content_type: str | None) -> None:
    assert client().post(path, data=BODY, content_type=content_type).status_code == 200


@pytest.mark.parametrize("content_type", NOT_READ)
@pytest.mark.parametrize("path", POSTS)
def test_content_types_that_are_not(client: Client, path: str, content_type: str) -> None:
    response = client().post(path, data=BODY, content_type=content_type)
    assert response.status_code == 415
    assert response.json is not None
    assert "application/json" in response.json["error"]["message"]


@pytest.mark.parametrize("encoding, status", [("gzip", 415), ("br", 415), ("identity", 200), ("IDENTITY", 200)])
def test_compressed_bodies_are_not_read(client: Client, encoding: str, status: int) -> None:
    headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
    assert client().post("/v1/route", data=BODY, headers=headers).status_code == status


@pytest.mark.parametrize("size, status", [(1024, 200), (1025, 413), (100_000, 413)])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
def test_larger_bodies_are_refused(client: Client, size: int, status: int, chunked: bool) -> None:
    body = BODY.encode().ljust(size)
    made = client(LLR_MAX_BODY_BYTES="1024")
    if chunked:
        environ = {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True, "CONTENT_TYPE": "application/json"}
        response = made.post("/v1/route", environ_overrides=environ)
    else:
        response = made.post("/v1/route", data=body, content_type="application/json")
    assert response.status_code == status
    assert response.json is not None
    if status == 413:
        assert response.json["error"]["code"] == "request_too_large"


# --- errors -------------------------------------------------------------------------------------

CLOUD_DOWN = """\
backends:
  cloud: {type: openai, model: gpt, endpoint: "http://127.0.0.1:9/v1", contextWindow: 100}
routes: [default: cloud]
"""
ERRORS: dict[str, tuple[str, str, dict[str, Any], int, str, str | None, str | None]] = {
    "unknown URL": ("GET", "/v2/models", {}, 404, "invalid_request_error", None, "not_found"),
    "/v1 twice": ("POST", "/v1/v1/messages", {"json": {}}, 404, "invalid_request_error", None, "not_found"),
    "unknown URL, posted": ("POST", "/v1/completions", {"json": {}}, 404, "invalid_request_error", None, "not_found"),
    "wrong method": ("GET", "/v1/chat/completions", {}, 405, "invalid_request_error", None, None),
    "wrong method, posted": ("POST", "/v1/models", {"json": {}}, 405, "invalid_request_error", None, None),
    "deleting": ("DELETE", "/v1/chat/completions", {}, 405, "invalid_request_error", None, None),
    "no body": ("POST", "/v1/chat/completions", {}, 400, "invalid_request_error", None, None),
    "no JSON": ("POST", "/v1/chat/completions", {"data": "{", "content_type": "application/json"}, 400,
                "invalid_request_error", None, None),
    "no messages": ("POST", "/v1/chat/completions", {"json": {}}, 400, "invalid_request_error", "messages", None),
    "neither body": ("POST", "/v1/route", {"json": {}}, 400, "invalid_request_error", "messages", None),
    "wrong type": ("POST", "/v1/chat/completions", {"data": "x", "content_type": "text/plain"}, 415,
                   "invalid_request_error", None, None),
    "unknown model": ("GET", "/v1/models/gpt-9", {}, 404, "invalid_request_error", "model", "model_not_found"),
    "nothing local": ("POST", "/v1/chat/completions", {"json": CHAT, "headers": {"X-LLR-Sensitivity": "high"}}, 503,
                      "server_error", None, "no_eligible_backend"),
    "too long": ("POST", "/v1/chat/completions", {"json": {**CHAT, "max_tokens": 200}}, 400, "invalid_request_error",
                 "messages", "context_length_exceeded"),
    "no backend": ("POST", "/v1/chat/completions", {"json": CHAT}, 502, "server_error", None, "all_backends_failed"),
    "no backend, streaming": ("POST", "/v1/chat/completions", {"json": {**CHAT, "stream": True}}, 502, "server_error",
                              None, "all_backends_failed"),
    "strange host": ("GET", "/", {"headers": {"Host": "evil.example"}}, 403, "permission_error", None,
                     "host_not_allowed"),
}  # fmt: skip


def test_a_wrong_method_is_told_the_right_ones(client: Client) -> None:
    made = client(CLOUD_DOWN)
    for path, method in (("/v1/chat/completions", "GET"), ("/v1/models", "POST"), ("/", "DELETE")):
        response = made.open(path, method=method)
        right = {"GET": "POST", "POST": "GET", "DELETE": "GET or POST"}[method]
        assert response.json is not None
        assert response.json["error"]["message"] == f"Wrong method: this URL takes {right}."


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_has_its_status_and_all_four_keys(client: Client, name: str) -> None:
    method, path, options, status, type_, param, code = ERRORS[name]
    response = client(CLOUD_DOWN).open(path, method=method, **options)
    assert (response.status_code, response.mimetype) == (status, "application/json")
    assert response.headers["X-LLR-Request-Id"].startswith("llr-")
    document = response.json
    assert document is not None
    assert list(document) == ["error"]
    assert list(document["error"]) == ["message", "type", "param", "code"]
    assert document["error"] | {"message": ""} == {"message": "", "type": type_, "param": param, "code": code}
    assert document["error"]["message"]


def test_a_wrong_method_says_which_are_right(client: Client) -> None:
    allowed = client().get("/v1/chat/completions").headers["Allow"]
    assert set(allowed.split(", ")) == {"POST", "OPTIONS"}


def test_a_failed_request_says_where_it_was_routed(client: Client) -> None:
    response = client(CLOUD_DOWN).post("/v1/chat/completions", json=CHAT)
    assert response.headers["X-LLR-Route"] == "default"
    assert response.json["error"]["message"] == "cloud: OPENAI_API_KEY is not set"


def test_a_bug_of_ours_shows_nothing(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend is our seam: it breaks in a way nobody thought of."""
    from app.backends.echo import EchoBackend  # noqa: PLC0415

    def breaks(*_: object, **__: object) -> None:
        raise KeyError("secret prompt text")

    monkeypatch.setattr(EchoBackend, "open", breaks)
    for stream in (False, True):
        response = client().post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert response.status_code == 500
        assert response.json["error"] == {
            "message": "Internal error; the router's log says where.",
            "type": "server_error",
            "param": None,
            "code": "internal_error",
        }

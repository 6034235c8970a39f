"""Clients that misbehave, and clients that are only unusual, through a real gunicorn with two workers."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.server import Answer, Router, chat_body, wait_until
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

SECRET = "kanarie prompt"
PROMPT = json.dumps(chat_body(SECRET), indent=1).replace("\n", "\r\n").encode()  # lines, as a pretty-printer makes them
SURFACES = ("/v1/chat/completions", "/v1/responses", "/v1/route")


@dataclass
class House:
    router: Router
    up: Upstream


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Upstream(models=["m"]) as up:
        policy = {
            "backends": {"local": {"type": "ollama", "endpoint": up.url, "models": ["m"]}},
            "routes": [{"default": "local"}],
        }
        folder = tmp_path_factory.mktemp("clients")
        env = {"LLR_MAX_BODY_BYTES": "2000000", "LLR_API_KEYS": ""}
        with Router(policy, folder=folder, workers=2, env=env) as router:
            yield House(router, up)


@pytest.fixture(autouse=True)
def quiet(house: House) -> Iterator[None]:
    """Whatever a client does: no traceback, no prompt in the log, both workers live and serve."""
    before, workers = len(house.router.log_text()), house.router.worker_pids()
    house.up.reset()
    yield
    log = house.router.log_text()[before:]
    assert "Traceback" not in log and "unexpected" not in log, log
    assert SECRET not in log
    assert house.router.worker_pids() == workers
    assert house.router.chat("still there?").text == "still there?"


def answer_to(router: Router, raw: bytes, *, end: bool = False) -> tuple[bytes, bytes]:
    """Head and body of what comes back for raw bytes, up to the end of the connection; `end`: ours ends first."""
    with router.raw(raw, timeout=20) as sock:
        if end:
            sock.shutdown(socket.SHUT_WR)
        data = b""
        try:
            while piece := sock.recv(65536):
                data += piece
        except ConnectionResetError:
            pass  # it closed with our bytes unread
    head, _, body = data.partition(b"\r\n\r\n")
    return head, body


def is_envelope(body: bytes) -> bool:
    document = json.loads(body)
    return set(document) == {"error"} and set(document["error"]) == {"message", "type", "param", "code"}


# --- what is no HTTP ----------------------------------------------------------------------------

POST = ("POST /v1/chat/completions HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Connection: close")


def lines(*head: str) -> bytes:
    return "\r\n".join([*head, "", ""]).encode("latin-1")


def post(*more: str, body: bytes = PROMPT) -> bytes:
    return lines(*POST, *more) + body


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


LENGTH = f"Content-Length: {len(PROMPT)}"
CHUNKED = "Transfer-Encoding: chunked"
NO_HTTP = {
    "both lengths": (400, post(LENGTH, CHUNKED, body=chunked(PROMPT))),
    "both lengths the other way": (400, post(CHUNKED, LENGTH, body=chunked(PROMPT))),
    "two lengths": (400, post(LENGTH, "Content-Length: 3")),
    "the same length twice": (400, post(LENGTH, LENGTH)),
    "a list of lengths": (400, post(f"{LENGTH}, {len(PROMPT)}")),
    "a negative length": (400, post("Content-Length: -1")),
    "a length with a plus": (400, post(f"Content-Length: +{len(PROMPT)}")),
    "a length in hex": (400, post("Content-Length: 0x10")),
    "a length in other digits": (400, post("Content-Length: \xb2")),
    "two codings": (400, post(CHUNKED, "Transfer-Encoding: identity", body=chunked(PROMPT))),
    "an unknown coding": (501, post("Transfer-Encoding: xchunked", body=chunked(PROMPT))),
    "a folded header": (400, post("X-LLR-Sensitivity: nor", " mal", LENGTH)),
    "a folded sensitivity": (400, post("X-A: a", "\tX-LLR-Sensitivity: high", LENGTH)),
    "a space before the colon": (400, post("X-LLR-Sensitivity : high", LENGTH)),
    "a header without a colon": (400, post(f"no colon in {SECRET}", LENGTH)),
    "a header without a name": (400, post(": high", LENGTH)),
    "NUL in a header": (400, post("X-A: a\0b", LENGTH)),
    "a bare LF in a header": (400, post("X-A: a\nX-LLR-Sensitivity: high", LENGTH)),
    "a bare CR in a header": (400, post("X-A: a\rX-LLR-Sensitivity: high", LENGTH)),
    "two hosts": (400, lines("GET /health HTTP/1.1", "Host: localhost", "Host: evil.example")),
    "two content types": (400, post("Content-Type: text/plain", LENGTH)),
    "no version": (400, b"GET /health\r\n\r\n"),
    "version 3": (400, lines("GET /health HTTP/3.0", "Host: localhost")),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n"),
    "a method in lower case": (400, lines("get /health HTTP/1.1", "Host: localhost")),
    "a path that is not ASCII": (400, lines("GET /h\xe9 HTTP/1.1", "Host: localhost")),
    "a space in the path": (400, lines(f"GET /{SECRET} HTTP/1.1", "Host: localhost")),
    "a long header": (431, lines("GET /health HTTP/1.1", "Host: localhost", "X-A: " + "a" * 10_000)),
    "many headers": (431, lines("GET /health HTTP/1.1", "Host: localhost", *(f"X-{n}: a" for n in range(200)))),
    "an expectation": (417, post("Expect: 200-ok", LENGTH)),
    "a path below another program": (400, post("SCRIPT_NAME: /other", LENGTH)),
    "a prompt where a request should be": (400, PROMPT + b"\r\n\r\n"),
}
BROKEN_BODIES = {
    "a chunk size that is no number": post(CHUNKED, body=b"zz\r\n" + PROMPT),
    "a negative chunk size": post(CHUNKED, body=b"-5\r\n" + PROMPT),
    "a chunk size with 0x": post(CHUNKED, body=b"0x5\r\nhello\r\n0\r\n\r\n"),
    "no chunk size": post(CHUNKED, body=b"\r\n" + PROMPT),
    "a chunk that is longer than it says": post(CHUNKED, body=b"5\r\n" + PROMPT + b"\r\n0\r\n\r\n"),
    "a bad trailer": post(CHUNKED, body=chunked(PROMPT)[:-2] + b"no trailer\r\n\r\n"),
    "a sensitivity behind the body": post(CHUNKED, body=chunked(PROMPT)[:-2] + b"x_LLR-sensitivity: high\r\n\r\n"),
    "a long chunk extension": post(CHUNKED, body=b"5;" + b"a" * 20_000),
}
CUT_BODIES = {
    "a body shorter than its length": post(f"Content-Length: {len(PROMPT) + 10}"),
    "a cut chunk": post(CHUNKED, body=b"%x\r\n" % (len(PROMPT) + 10) + PROMPT),
    "no last chunk": post(CHUNKED, body=chunked(PROMPT)[:-5]),
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_cannot_be_read_as_http_is_refused_without_quoting_it(house: House, name: str) -> None:
    status, raw = NO_HTTP[name]
    head, body = answer_to(house.router, raw)
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert b"connection: close" in head.lower()
    assert is_envelope(body) and SECRET.encode() not in body
    assert not house.up.chats


def test_an_endless_request_line_is_refused(house: House) -> None:
    """The rest of it is not read: the answer may be lost when the connection is reset."""
    head, _ = answer_to(house.router, b"GET /" + b"a" * 100_000)
    assert not head or head.startswith(b"HTTP/1.1 414 ")


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_broken_chunks_are_a_400(house: House, name: str) -> None:
    head, body = answer_to(house.router, BROKEN_BODIES[name])
    assert head.startswith(b"HTTP/1.1 400 "), head
    assert is_envelope(body) and SECRET.encode() not in body
    assert not house.up.chats


@pytest.mark.parametrize("name", CUT_BODIES)
def test_a_body_that_ends_too_early_reaches_no_backend(house: House, name: str) -> None:
    head, body = answer_to(house.router, CUT_BODIES[name], end=True)
    assert not head or (head.startswith(b"HTTP/1.1 400 ") and is_envelope(body)), head
    assert not house.up.chats


def test_a_body_longer_than_its_length_is_neither_obeyed_nor_logged(house: House) -> None:
    """What follows is read as the next request: a hidden one is a request like any other, a prompt is no request."""
    alive = [line for line in POST if not line.startswith("Connection")]
    short = lines(*alive, "Content-Length: 5") + PROMPT
    head, body = answer_to(house.router, short)
    assert head.startswith(b"HTTP/1.1 400 ")
    assert SECRET.encode() not in body
    assert not house.up.chats


def test_pipelined_requests_are_answered_in_order(house: House) -> None:
    first, second = (json.dumps(chat_body(text)).encode() for text in ("first", "second"))
    alive = [line for line in POST if not line.startswith("Connection")]
    raw = lines(*alive, f"Content-Length: {len(first)}") + first + post(f"Content-Length: {len(second)}", body=second)
    _, body = answer_to(house.router, raw)
    assert 0 < body.index(b"first") < body.index(b"second")


def test_chunks_are_read(house: House) -> None:
    pieces = [PROMPT[place : place + 7] for place in range(0, len(PROMPT), 7)]
    head, _ = answer_to(house.router, post(CHUNKED, body=chunked(*pieces)))
    assert head.startswith(b"HTTP/1.1 200 ")
    assert house.up.chats[0].json["messages"] == json.loads(PROMPT)["messages"]


def test_an_expected_100_is_sent(house: House) -> None:
    head, body = answer_to(house.router, post("Expect: 100-continue", LENGTH))
    assert head == b"HTTP/1.1 100 Continue" and body.startswith(b"HTTP/1.1 200 OK")


# --- what is no request of ours -----------------------------------------------------------------

NO_JSON = {
    "nothing": b"",
    "spaces": b"  \n",
    "no JSON": b"hello",
    "half": b'{"messages": [{"role": "user", "con',
    "single quotes": b"{'messages': []}",
    "a comment": b'{"messages": [] /* none */}',
    "two objects": b"{} {}",
    "NaN": b'{"messages": [{"role": "user", "content": "x"}], "input": "x", "temperature": NaN}',
    "Infinity": b'{"messages": [{"role": "user", "content": "x"}], "input": "x", "temperature": -Infinity}',
    "an array": b"[]",
    "a string": b'"messages"',
    "a number": b"1",
    "null": b"null",
    "an empty object": b"{}",
    "brackets": b"[" * 100_000,
    "closed brackets": b"[" * 100_000 + b"]" * 100_000,
    "braces": b'{"a":' * 100_000,
    "deep messages": b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "deep elsewhere": b'{"input": "x", "messages": [{"role": "user", "content": "x"}], "metadata": '
    + b'{"a":' * 50_000
    + b"1"
    + b"}" * 50_000
    + b"}",
    "NUL": b'{"messages": [{"role": "user", "content": "a\0b"}], "input": "a\0b"}',
    "invalid UTF-8": b'{"messages": [{"role": "user", "content": "\xff\xfe"}], "input": "\xff"}',
    "UTF-16": '{"messages": [{"role": "user", "content": "x"}]}'.encode("utf-16"),
    "a cut character": b'{"input": "\xc3", "messages": [{"role": "user", "content": "\xc3"}]}',
    "an endless number": b'{"input": "x", "messages": [{"role": "user", "content": "x"}], "seed": '
    + b"9" * 50_000
    + b"}",
    "a form": b"messages=hello&model=auto",
}


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("name", NO_JSON)
def test_what_is_no_json_object_is_a_400(house: House, name: str, path: str) -> None:
    answer = house.router.post(path, NO_JSON[name])
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error"), answer.body[:300]
    assert not house.up.chats, "and the discovery of models is no call"


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_huge_body_is_a_413(house: House, path: str, framing: str) -> None:
    text = json.dumps({**chat_body("x" * 2_100_000), "input": "x"}).encode()
    if framing == "chunked":
        head = lines(f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", CHUNKED)
        raw = head + chunked(*(text[place : place + 50_000] for place in range(0, len(text), 50_000)))
        head, body = answer_to(house.router, raw)
        assert head.startswith(b"HTTP/1.1 413 "), head
        assert is_envelope(body)
    else:
        answer = house.router.post(path, text)
        assert (answer.status, answer.error["code"]) == (413, "request_too_large")
    assert not house.up.chats, "and the discovery of models is no call"


# --- method, path, Content-Type -----------------------------------------------------------------


@pytest.mark.parametrize(
    "method, path, status",
    [
        ("GET", "/v1/chat/completions", 405),
        ("PUT", "/v1/responses", 405),
        ("PATCH", "/v1/route", 405),
        ("POST", "/health", 405),
        ("TRACE", "/health", 405),
        ("BREW", "/health", 405),
        ("CONNECT", "localhost:443", 404),
        ("GET", "/v2/chat/completions", 404),
        ("POST", "/v1/chat/completions/", 404),
        ("POST", "/V1/chat/completions", 404),
        ("POST", "//v1/chat/completions", 400),
        ("GET", "/../../etc/passwd", 404),
        ("GET", "/%2e%2e/%2e%2e/etc/passwd", 404),
        ("GET", "/v1/models/%00", 404),
        ("GET", "/v1/models/%ff%fe", 404),
        ("GET", "/v1/responses/%0d%0aSet-Cookie:a=b", 404),
        ("GET", "/" + "a" * 4000, 404),
        ("OPTIONS", "/v1/chat/completions", 200),
    ],
)
def test_wrong_method_or_path(house: House, method: str, path: str, status: int) -> None:
    head, body = answer_to(house.router, lines(f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close"))
    assert head.startswith(b"HTTP/1.1 %d " % status), head
    assert status == 200 or is_envelope(body)
    assert (b"\r\nallow: " in head.lower()) == (status in (405, 200))
    assert b"set-cookie" not in head.lower()


@pytest.mark.parametrize(
    "kind, status",
    [
        (None, 200),
        ("application/json", 200),
        ("Application/JSON; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/xml", 415),
        ("application/jsonx", 415),
        ("*/*", 415),
    ],
)
def test_content_types_over_a_real_socket(house: House, kind: str | None, status: int) -> None:
    head = [line for line in POST if not line.startswith("Content-Type")]
    named = [] if kind is None else [f"Content-Type: {kind}"]
    answer, body = answer_to(house.router, lines(*head, *named, LENGTH) + PROMPT)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert status == 200 or is_envelope(body)
    assert len(house.up.chats) == (status == 200)


# --- injection through `model` ------------------------------------------------------------------

NASTY = (
    "\r\nSet-Cookie: a=b",
    "x\nX-Evil: 1",
    "x\r\n\r\nHTTP/1.1 200 OK\r\n",
    "\0",
    "\x7f\x1b[31m",
    "ключ",
    "\ud800",
    "é",
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("nasty", NASTY, ids=ascii)
def test_no_header_and_no_log_line_can_be_made_with_a_models_name(house: House, nasty: str, stream: bool) -> None:
    before = len(house.router.log_text())
    body = json.dumps({**chat_body("hi"), "model": f"local/a{nasty}b", "stream": stream}).encode()
    raw = post(f"Content-Length: {len(body)}", body=body)
    head, _ = answer_to(house.router, raw)
    assert head.startswith(b"HTTP/1.1 200 "), head
    names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
    assert not {b"set-cookie", b"x-evil"} & set(names) and names.count(b"x-llr-model") == 1
    head.decode("ascii")
    (sent,) = house.up.chats
    assert {name for name, _ in sent.headers} & {"Set-Cookie", "X-Evil"} == set()
    assert sent.json["model"] == f"local/a{nasty}b".removeprefix("local/")
    (request_id,) = re.findall(rb"(?i)x-llr-request-id: (\S+)", head)
    wait_until(lambda: request_id.decode() in house.router.log_text(), 5, "the line of the request")
    said = house.router.log_text()[before:].splitlines()  # the lines of earlier requests may be among them
    assert all(re.match(r"\d{4}-\d\d-\d\d .* llr\.request llr-", line) and line.isprintable() for line in said), said
    assert "".join(said).isascii()


# --- unusual, but right -------------------------------------------------------------------------

USER = '{"role": "user", "content": "hi"}'
UNUSUAL = {
    "unknown fields": '{"model": "auto", "messages": [USER], "x_new": {"a": [1, {"b": null}]}, "": 0}',
    "null beside tool calls": '{"messages": [USER, {"role": "assistant", "content": null, "tool_calls": [{"id": "c", '
    '"type": "function", "function": {"name": "f", "arguments": "{}"}}]}, {"role": "tool", "tool_call_id": "c", '
    '"content": ""}], "model": ""}',
    "big integers": '{"messages": [USER], "model": "auto", "seed": 123456789012345678901234567890, "t": 1E400}',
    "empty tools": '{"messages": [USER], "model": "auto", "tools": [], "tool_choice": "none"}',
    "unknown role and name": '{"messages": [{"role": "critic", "content": "x", "name": "я"}, USER], "model": null}',
    "unknown parts": '{"messages": [{"role": "user", "content": [{"type": "hologram", "data": 1}]}], "model": "auto"}',
    "empty content": '{"messages": [{"role": "user", "content": ""}], "model": "auto"}',
    "escapes": '{"messages": [{"role": "user", "content": "\\u0041\\/\\ud83d\\ude00\\u0000\\ud800"}], "model": "auto"}',
    "white space": ' \r\n\t{ "messages" :[ USER ] ,\n"model":"auto" }\n\n',
    "repeated members": '{"model": "auto", "messages": [USER], "user": "a", "user": "b"}',
    "nulls everywhere": '{"model": "auto", "messages": [USER], "tools": null, "stop": null, "stream": null}',
    "stream options": '{"model": "auto", "messages": [USER], "stream": true, "stream_options": {"x": 1}}',
    "a long text": '{"model": "auto", "messages": [{"role": "user", "content": "' + "long " * 100_000 + '"}]}',
    "many messages": '{"model": "auto", "messages": [' + "USER, " * 5000 + "USER]}",
}


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_requests_pass_byte_for_byte(house: House, name: str) -> None:
    raw = UNUSUAL[name].replace("USER", USER).encode()
    answer = house.router.post("/v1/chat/completions", raw)
    assert answer.status == 200, answer.body
    (sent,) = house.up.chats
    assert without_model(sent.body) == without_model(raw)


def without_model(raw: bytes) -> bytes:
    """All but the value of `model`."""
    return re.sub(rb'("model": ?)("\w*"|null)', rb"\1_", raw, count=1)


# --- who may come in, over real sockets ---------------------------------------------------------


def test_host_origin_and_key_at_the_door(tmp_path: Path) -> None:
    policy = {"backends": {"local": {"type": "echo"}}, "routes": [{"default": "local"}]}
    env = {
        "LLR_API_KEYS": "key-one, key-two",
        "LLR_ALLOWED_HOSTS": "llm.example.com",
        "LLR_ALLOWED_ORIGINS": "https://page.example",
    }
    right = {"Authorization": "Bearer key-two"}
    with Router(policy, folder=tmp_path, workers=2, env=env) as router:

        def status(path: str = "/v1/models", **headers: str) -> Answer:
            return router.get(path, {name.replace("_", "-"): value for name, value in headers.items()})

        cases = [
            (status(), 401, "invalid_api_key"),
            (status(Authorization="Bearer key-three"), 401, "invalid_api_key"),
            (status(Authorization="Basic key-one"), 401, "invalid_api_key"),
            (status(Authorization="Bearer key-one,Bearer key-two"), 401, "invalid_api_key"),
            (status(**right, Host="evil.example"), 403, "host_not_allowed"),
            (status(**right, Host="127.0.0.1.evil.example"), 403, "host_not_allowed"),
            (status(**right, Origin="https://evil.example"), 403, "origin_not_allowed"),
            (status(**right, Origin="null"), 403, "origin_not_allowed"),
            (status(**right, Origin="http://localhost.evil.example"), 403, "origin_not_allowed"),
        ]
        for answer, expected, code in cases:
            assert (answer.status, answer.error["code"]) == (expected, code)
        for extra in ({}, {"Host": "llm.example.com"}, {"Host": "[::1]:3030"}, {"Origin": "https://page.example"}):
            assert status(**right, **extra).status == 200
        assert status("/health").status == 200
        assert status("/health", Host="evil.example").status == 403
        head, body = answer_to(router, lines("GET /v1/models HTTP/1.1", "Host: localhost", "Connection: close"))
        assert b"key-" not in head + body and b"\r\nWWW-Authenticate: Bearer" in head

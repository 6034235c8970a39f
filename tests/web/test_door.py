"""The door answers as Flask does: the same status, headers, bytes, log lines and counts, for good requests and bad."""

from __future__ import annotations

import io
import json
import re
from types import SimpleNamespace
from typing import Any

import flask
import pytest
from werkzeug.test import EnvironBuilder, run_wsgi_app

from app.errors import BackendRejected, BackendUnavailable, StreamInterrupted
from app.settings import Settings
from app.web.door import Door
from tests.fakes.backends import FakeBackend, FakeStream, config, whole
from tests.logs import captured
from tests.web.conftest import ECHO, Client

CHAT_URL, RESPONSES_URL = "/v1/chat/completions", "/v1/responses"
URLS = (CHAT_URL, RESPONSES_URL)
MADE = re.compile(rb'(llr-|chatcmpl-|_)[0-9a-f]{24,40}|"(created|\w+_at)": ?\d+|ms=\d+')  # anew for each request
PIECE = b'data: {"choices": [{"delta": {"content": "hi"}}]}\n\n'
EVIL = {"Origin": "https://evil.example"}
FRIEND = {"Origin": "http://localhost:5173"}
NO_KEY = {"Authorization": ""}


def document(url: str, **members: Any) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if url == CHAT_URL else {"input": "hi"}
    return {**prompt, **members}


def body(**members: Any) -> Any:
    return lambda url: json.dumps(document(url, **members)).encode()


# name: (method, headers, body or what makes it)
REQUESTS: dict[str, tuple[str, dict[str, str], Any]] = {
    "buffered": ("POST", {}, body()),
    "a stream": ("POST", {}, body(stream=True)),
    "private": ("POST", {"X-LLR-Sensitivity": "high"}, body()),
    "with the trace": ("POST", {"X-LLR-Explain": "1"}, body(model="auto")),
    "from an allowed page": ("POST", FRIEND, body()),
    "a stream to an allowed page": ("POST", FRIEND, body(stream=True)),
    "an error to an allowed page": ("POST", {**FRIEND, **NO_KEY}, body()),
    "from another page": ("POST", EVIL, body()),
    "a preflight": ("OPTIONS", {**FRIEND, "Access-Control-Request-Headers": "x-stainless-os"}, b""),
    "a preflight of another page": ("OPTIONS", EVIL, b""),
    "another host": ("POST", {"Host": "evil.example"}, body()),
    "no key": ("POST", NO_KEY, body()),
    "a wrong key": ("POST", {"Authorization": "Bearer other"}, body()),
    "another scheme": ("POST", {"Authorization": "Basic key"}, body()),
    "no JSON": ("POST", {}, b"{"),
    "no object": ("POST", {}, b"[]"),
    "nothing": ("POST", {}, b""),
    "no prompt": ("POST", {}, b"{}"),
    "half a character": ("POST", {}, b'{"messages": [{"role": "user", "content": "\\ud800"}], "input": "\\ud800"}'),
    "a wrong sensitivity": ("POST", {"X-LLR-Sensitivity": "secret"}, body()),
    "a misspelt header": ("POST", {"X-LLR-Sensitivty": "high"}, body()),
    "an unknown model": ("POST", {}, body(model="parrott")),
    "a model that may not be used": ("POST", {"X-LLR-Sensitivity": "high"}, body(model="cloud")),
    "a backend that is not there": ("POST", {}, body(model="cloud")),
    "a stream of a backend that is not there": ("POST", {}, body(model="cloud", stream=True)),
    "too large": ("POST", {}, b"x" * 3000),
    "another type": ("POST", {"Content-Type": "text/plain"}, body()),
    "compressed": ("POST", {"Content-Encoding": "gzip"}, body()),
    "no type": ("POST", {"Content-Type": ""}, body()),
    "GET": ("GET", {}, b""),
    "HEAD": ("HEAD", {}, b""),
    "PUT": ("PUT", {}, body()),
    "DELETE": ("DELETE", {}, b""),
}
ANSWERS: dict[str, tuple[bool, Any]] = {  # name: (stream, how the backend answers)
    "buffered": (False, whole("a reply")),
    "a document in place of a stream": (True, whole("a reply")),
    "a stream": (True, lambda: FakeStream(PIECE, b"data: [DONE]\n\n")),
    "a stream that breaks": (True, lambda: FakeStream(PIECE, StreamInterrupted("broke"))),
    "a stream that breaks inside an event": (True, lambda: FakeStream(PIECE + b"data: {", StreamInterrupted("broke"))),
    "refused": (False, BackendUnavailable("answered nothing")),
    "a stream that is refused": (True, BackendUnavailable("answered nothing")),
    "rejected": (False, BackendRejected("answered 422", status=422, document={"error": {"message": "no"}})),
    "told to wait": (False, BackendRejected("answered 400", status=400, retry_after_s=3.2)),
    "a bug": (False, RuntimeError("the prompt")),
    "a bug in a stream": (True, RuntimeError("the prompt")),
}


def sent(app: Any, serve: Any, method: str, url: str, headers: dict[str, str], raw: bytes) -> Any:
    """Status, headers, body, log lines and counted refusals of one request."""
    known = {"Authorization": "Bearer key", "Content-Type": "application/json", "Host": "localhost:3030", **headers}
    environ = EnvironBuilder("/", method=method, headers=known, input_stream=io.BytesIO(raw)).get_environ()
    environ |= {"CONTENT_LENGTH": str(len(raw)), "PATH_INFO": url}
    runtime = app.extensions["services"]
    before = sum(runtime.store.refusals().values())
    with captured("llr") as lines:
        pieces, status, found = run_wsgi_app(serve, environ)
        text = b"".join(pieces)
        if hasattr(pieces, "close"):
            pieces.close()
    listed = [(name, MADE.sub(b"*", value.encode())) for name, value in found.items()]
    lines = [MADE.sub(b"*", line.encode()) for line in lines if "\n" not in line]  # one has the lines of a traceback
    return status, listed, MADE.sub(b"*", text), lines, sum(runtime.store.refusals().values()) - before


def compare(app: Any, *request: Any) -> Any:
    """The response, which is the same both ways."""
    door = app.wsgi_app
    mine = sent(app, door, *request)
    assert mine == sent(app, door.flask, *request)
    return mine


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_gets_the_same_both_ways(client: Client, url: str, name: str) -> None:
    method, headers, made = REQUESTS[name]
    app = client(ECHO, LLR_API_KEYS="key", LLR_MAX_BODY_BYTES="2000", OPENAI_API_KEY="sk-x").application
    raw = made(url) if callable(made) else made
    _, listed, _, lines, _ = compare(app, method, url, headers, raw)
    assert dict(listed)["X-Content-Type-Options"] == b"nosniff"
    assert lines or method == "OPTIONS"


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("name", ANSWERS)
def test_what_a_backend_does_looks_the_same_both_ways(client: Client, url: str, name: str) -> None:
    stream, answer = ANSWERS[name]
    app = client(ECHO, LLR_API_KEYS="key").application
    fake = FakeBackend(config("parrot"), answer)
    object.__setattr__(app.extensions["services"].upstreams["parrot"], "backend", fake)
    raw = json.dumps(document(url, stream=stream)).encode()
    status, *_ = compare(app, "POST", url, {"X-LLR-Explain": "1"}, raw)
    assert len(fake.calls) == 2 and status != "404 NOT FOUND"


@pytest.mark.parametrize("url", URLS)
def test_flask_is_not_on_the_way_through_the_door(client: Client, url: str) -> None:
    contexts: list[bool] = []

    def answer() -> Any:
        contexts.append(flask.has_app_context())
        return whole()

    app = client(ECHO, LLR_API_KEYS="key").application
    fake = FakeBackend(config("parrot"), answer)
    object.__setattr__(app.extensions["services"].upstreams["parrot"], "backend", fake)
    compare(app, "POST", url, {}, json.dumps(document(url)).encode())
    assert contexts == [False, True]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1/ask", "ask"), ("/v1/ask/", "ask"), ("/v1//ask/x/y", "ask"), ("/v1/asks", "v1"), ("/v1", "v1"),
        ("/v1/models", "v1"), ("/v10", "all"), ("/", "all"), ("", "all"), ("*", "all"),
    ],
)  # fmt: skip
def test_a_url_belongs_to_the_api_with_the_longest_beginning_of_its_path(path: str, expected: str) -> None:
    tables: Any = ({"/v1/ask": "ask"}, {"": "all", "/v1": "v1"})
    door = Door(lambda *_: [], *tables, SimpleNamespace(settings=Settings()))  # type: ignore[arg-type]
    assert door.api({"PATH_INFO": path}) == expected


@pytest.mark.parametrize("url", ["/v1//chat/completions", "//v1/responses", "/v1/chat/completions/", "/v1/responses/"])
def test_a_path_that_is_written_in_another_way_is_left_to_flask(client: Client, url: str) -> None:
    app = client(ECHO).application
    below = url.replace("//", "/")
    status, *_ = sent(app, app.wsgi_app, "POST", url, {}, body()(below))
    assert status == ("200 OK" if below in URLS else "404 NOT FOUND")

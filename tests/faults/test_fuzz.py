"""Anything at the JSON entry points, from clients and from backends: never a 500, never an error without envelope."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from flask import Response
from flask.testing import FlaskClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.backends.reply import Whole
from app.circuits import Circuits
from app.factory import POLICY_TEXT, create_app
from app.routing.detect import DETECTORS, Detectors
from app.types import SensitivityRules
from app.wire import sse
from app.wire.chat.stream import StreamWatch
from app.wire.responses.stream import ResponsesWatch
from tests.e2e.server import parse_events
from tests.fakes.backends import FakeBackend, FakeStream, config
from tests.faults.documents import CHAT, CHUNK, COMPLETION, RESPONSES, documents, paths, put, raw, spoiled, values
from tests.logs import captured

pytestmark = pytest.mark.faults

EXAMPLES = 1000
POLICY = """\
backends:
  parrot: {type: echo}
  fake: {type: ollama, endpoint: "http://127.0.0.1:9", models: [m]}
  native: {type: ollama, endpoint: "http://127.0.0.1:9", models: [n], responses: native}
  cloud: {type: openai, model: gpt, endpoint: "http://127.0.0.1:9/v1"}
routes:
  - match: {task: vision}
    backend: cloud
    fallback: parrot
  - default: parrot
sensitivity: {detect: [api_key, private_key, jwt, credit_card, iban, us_ssn, email, phone], patterns: ["(?i)bluebird"]}
"""
thorough = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
)
counted: Counter[str] = Counter()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    environ = {
        POLICY_TEXT: POLICY,
        "LLR_DB": str(tmp_path_factory.mktemp("fuzz") / "metrics.db"),
        "LLR_LOG_LEVEL": "error",
    }
    made = create_app(environ).test_client()
    yield made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with captured("llr", "ERROR") as lines:
        yield
    assert not lines, lines


def check(response: Any, name: str) -> None:
    counted[f"{name} {response.status_code // 100}xx"] += 1
    body = response.get_data()
    assert response.status_code != 500, body
    if response.status_code == 200:
        assert response.mimetype in ("application/json", "text/event-stream")
        assert parse_events(body) if response.mimetype == "text/event-stream" else isinstance(json.loads(body), dict)
    else:
        document = json.loads(body)
        assert set(document) == {"error"} and set(document["error"]) == {"message", "type", "param", "code"}
        assert isinstance(document["error"]["message"], str) and isinstance(document["error"]["type"], str)


# --- from clients -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/route"])
def test_any_chat(client: FlaskClient, path: str) -> None:
    @thorough
    @given(raw(st.one_of(spoiled(CHAT, stream=True), spoiled(CHAT), documents, values)))
    def run(body: bytes) -> None:
        check(client.post(path, data=body, content_type="application/json"), path)

    run()


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/route"])
def test_any_responses_request(client: FlaskClient, path: str) -> None:
    @thorough
    @given(raw(st.one_of(spoiled(RESPONSES, stream=True), spoiled(RESPONSES), documents)))
    def run(body: bytes) -> None:
        check(client.post(path, data=body, content_type="application/json"), path)

    run()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
def test_any_bytes(client: FlaskClient, path: str) -> None:
    @thorough
    @given(st.binary(max_size=200), st.sampled_from([None, "application/json", "application/x-www-form-urlencoded"]))
    def run(body: bytes, kind: str | None) -> None:
        check(client.post(path, data=body, content_type=kind), f"{path} bytes")

    run()


def test_any_headers(client: FlaskClient) -> None:
    names = st.sampled_from(
        ["X-LLR-Sensitivity", "Origin", "Host", "Content-Type", "Content-Encoding", "Authorization"]
    )
    texts = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=30)

    @thorough
    @given(st.dictionaries(names, texts, max_size=4))
    def run(headers: dict[str, str]) -> None:
        check(client.post("/v1/chat/completions", json=CHAT, headers=headers), "headers")

    run()


# --- from backends ------------------------------------------------------------------------------


def backend(client: FlaskClient, name: str, *answers: Any) -> None:
    services = client.application.extensions["services"]
    object.__setattr__(services, "circuits", Circuits(time.monotonic))
    object.__setattr__(services.upstreams[name], "backend", FakeBackend(config(name), *answers))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_any_whole_answer(client: FlaskClient, path: str, stream: bool) -> None:
    asked = {**(CHAT if "chat" in path else RESPONSES), "model": "fake", "stream": stream}

    @thorough
    @given(st.one_of(spoiled(COMPLETION), documents))
    def run(document: dict[str, Any]) -> None:
        body = json.dumps(document).encode()
        backend(client, "fake", Whole(body, json.loads(body)))
        check(client.post(path, json=asked), f"{path} answers")

    run()


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_any_stream(client: FlaskClient, path: str) -> None:
    asked = {**(CHAT if "chat" in path else RESPONSES), "model": "fake", "stream": True}
    events = st.one_of(spoiled(CHUNK), spoiled(CHUNK), documents, st.just(CHUNK)).map(sse.event)
    pieces = st.one_of(events, events, st.binary(max_size=40), st.sampled_from([sse.DONE, sse.KEEP_ALIVE, b"\r\n\r\n"]))

    @thorough
    @given(st.lists(pieces, min_size=1, max_size=6), st.integers(1, 64))
    def run(stream: list[bytes], cut: int) -> None:
        data = b"".join(stream)
        chunks = [data[place : place + cut * 8] for place in range(0, len(data), cut * 8)]
        backend(client, "fake", lambda: FakeStream(*chunks))
        response: Response = client.post(path, json=asked)
        counted[f"{path} streams"] += 1
        assert response.status_code == 200
        body = response.get_data()
        if "chat" in path:  # only what holds tool calls, which may be broken, may change
            assert data in body or b'"tool_calls"' in data
            whole = [piece for piece in stream if piece.startswith(b"data:") and b'"tool_calls"' not in piece]
            assert all(piece in body for piece in whole)
        if "responses" in path:
            last = [event for event in parse_events(body) if event != "[DONE]"][-1]
            assert last["type"] in ("response.completed", "response.incomplete", "response.failed", "error"), last

    run()


# --- by themselves ------------------------------------------------------------------------------


def test_the_splitter_and_the_watchers_under_any_bytes_and_any_cuts() -> None:
    pieces = st.one_of(
        st.sampled_from(
            [b"\n", b"\r", b"\r\n", b"\n\n", b"data:", b"data: ", b":", b"event: x\n", b"[DONE]", b"{", b"}"]
        ),
        st.binary(max_size=12),
        spoiled(CHUNK).map(sse.event),
    )

    @settings(thorough, max_examples=EXAMPLES * 3)
    @given(st.lists(pieces, max_size=12), st.lists(st.integers(0, 200), max_size=8))
    def run(parts: list[bytes], places: list[int]) -> None:
        data = b"".join(parts)
        whole = sse.Splitter(1 << 20)
        expected = [*whole.feed(data), *whole.flush()]
        cuts = [0, *sorted(min(place, len(data)) for place in places), len(data)]
        split, watches = sse.Splitter(1 << 20), (StreamWatch(), ResponsesWatch())
        found = []
        for begin, end in pairwise(cuts):
            found += split.feed(data[begin:end])
            for watch in watches:
                watch.feed(data[begin:end])
        assert [*found, *split.flush()] == expected
        for event in expected:
            sse.json_of(sse.data_of(event) or b"")
        for watch in watches:
            watch.end()
        counted["splitter and watchers"] += 1

    run()


SECRETS = {
    "api_key": "sk-proj-abcdefghij0123456789XYZ",
    "private_key": "-----BEGIN OPENSSH PRIVATE KEY-----",
    "jwt": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc",
    "connection_string": "postgres://app:Bl7EQRFQRYyBEn@db.internal:5432/prod",
    "authorization": "Authorization: Bearer igGxfKrqUAlFCiiTMsj5u2lbsuqp",
    "password": "password: kd92LaXy7",
    "credit_card": "5555 5555 5555 4444",
    "iban": "GB82 WEST 1234 5698 7654 32",
    "us_ssn": "123-45-6789",
    "email": "someone@corp.example",
    "phone": "+49 30 1234567",
}


def test_detectors_find_what_is_planted_wherever_it_stands() -> None:
    """At any place of any request, alone in its text or between blanks."""
    detectors = {name: Detectors(SensitivityRules((name,))) for name in DETECTORS}
    assert set(detectors) == set(SECRETS)

    @settings(thorough, max_examples=EXAMPLES * 2)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        good = data.draw(st.sampled_from([CHAT, RESPONSES]))
        document = data.draw(spoiled(good))
        name = data.draw(st.sampled_from(sorted(SECRETS)))
        before, after = (
            data.draw(st.sampled_from(["", "x ", "\n", "é "])),
            data.draw(st.sampled_from(["", " x", "\n", "."])),
        )
        planted = put(document, data.draw(st.sampled_from(paths(document) or [("a",)])), before + SECRETS[name] + after)
        counted["detectors"] += 1
        if SECRETS[name] in json.dumps(planted):
            assert detectors[name].find(planted) == name
        for detector in detectors.values():
            detector.find(document)

    run()


def test_how_many_cases(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for name, count in sorted(counted.items()):
            print(f"\n  {count:6d} {name}", end="")  # noqa: T201
        print(f"\n  {counted.total():6d} cases in all")  # noqa: T201

"""X-LLR-Explain: the trace in a header, and nowhere else."""

from __future__ import annotations

import pytest

from tests.web.conftest import Client

HELLO = {"messages": [{"role": "user", "content": "hello"}]}
ASK = {"X-LLR-Explain": "1"}


def test_an_answer_says_why_when_asked(client: Client) -> None:
    response = client().post("/v1/chat/completions", json=HELLO, headers=ASK)
    assert response.headers["X-LLR-Trace"] == (
        "match: default: yes; privacy: not private: every target may be used; model: parrot: echo:1b"
    )
    assert "trace" not in response.json


@pytest.mark.parametrize("path, body", [("/v1/chat/completions", HELLO), ("/v1/responses", {"input": "hello"})])
@pytest.mark.parametrize("stream", [False, True])
def test_on_both_surfaces_buffered_and_streamed(client: Client, path: str, body: dict, stream: bool) -> None:
    plain = client().post(path, json={**body, "stream": stream})
    asked = client().post(path, json={**body, "stream": stream}, headers=ASK)
    assert "X-LLR-Trace" not in plain.headers and asked.headers["X-LLR-Trace"].startswith("match: default: yes")


@pytest.mark.parametrize("value, there", [("1", True), ("true", True), ("0", False), ("", False), ("no", False)])
def test_how_to_ask(client: Client, value: str, there: bool) -> None:
    response = client().post("/v1/chat/completions", json=HELLO, headers={"X-LLR-Explain": value})
    assert ("X-LLR-Trace" in response.headers) is there


def test_errors_say_what_failed(client: Client) -> None:
    body = {**HELLO, "model": "cloud"}
    response = client(OPENAI_API_KEY="sk-x").post("/v1/chat/completions", json=body, headers=ASK)
    assert response.status_code == 502
    assert response.headers["X-LLR-Trace"].startswith("match: pinned by model 'cloud'")
    assert response.headers["X-LLR-Trace"].endswith("call: cloud failed: refused")


def test_it_is_ascii_on_one_line_and_bounded(client: Client) -> None:
    body = {**HELLO, "model": "größe\r\nX-Evil: 1 " + "x" * 1000}
    trace = client().post("/v1/chat/completions", json=body, headers=ASK).headers["X-LLR-Trace"]
    assert trace.isascii() and trace.isprintable() and len(trace) <= 1000

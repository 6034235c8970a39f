"""The router in front of a real inference server: llama.cpp's Python server with a tiny random model.

    make test-llamacpp

The server answers one request at a time.  Without `--interrupt_requests false` any other request, also for
/v1/models, cuts a running stream: with a `[DONE]` but no finish_reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, Stream, content, free_port, wait_until
from tests.servers.start import TOO_LONG, WINDOW, answers, streamed_20_tokens, write_model

pytestmark = pytest.mark.llamacpp


@contextmanager
def llama_server(folder: Path) -> Iterator[str]:
    """Its address."""
    model = write_model(folder)
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(model), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--n_ctx", str(WINDOW), "--interrupt_requests", "false"]
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/models"), 60, "the llama.cpp server")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="module")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    folder = tmp_path_factory.mktemp("router")
    with llama_server(folder) as llama:
        server = {"type": "llamacpp", "endpoint": llama, "models": ["tiny"]}
        policy = {
            "backends": {"local": server, "windowed": server | {"contextWindow": WINDOW}},
            "routes": [{"default": "local"}],
        }
        with Router(policy, folder=folder) as running:
            yield running


def rows(router: Router, answer: Answer | Stream) -> list[dict[str, Any]]:
    request_id = answer.headers["X-LLR-Request-Id"]
    return wait_until(
        lambda: router.rows("SELECT * FROM metrics WHERE request_id = ? ORDER BY id", request_id), 5, "the row"
    )


def test_buffered(router: Router) -> None:
    answer = router.chat("hello", max_tokens=30)
    assert answer.status == 200
    assert answer.headers["X-LLR-Backend"] == "local"
    assert len(answer.text) == 30  # one character a token
    assert answer.json["choices"][0]["finish_reason"] == "length"
    usage = answer.json["usage"]
    [row] = rows(router, answer)
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == ("ok", usage["prompt_tokens"], 30)


def test_streamed(router: Router) -> None:
    with router.stream("hello", max_tokens=200) as stream:
        pieces = list(stream)
    body = b"".join(data for _, data in pieces)
    events = [line for line in body.split(b"\n\n") if line]
    assert len(events) == 203  # role, 200 tokens, finish_reason, [DONE]
    assert events[-1] == b"data: [DONE]"
    assert b'"finish_reason": "length"' in events[-2]
    assert len(pieces) > 100, "tokens must come one by one"
    first, last = pieces[0][0], pieces[-1][0]
    assert last - first > 0.05, "the first token must not wait for the last"


def test_two_at_once(router: Router) -> None:
    def run(_: int) -> list[Any]:
        with router.stream("hello", max_tokens=150) as stream:
            return stream.events()

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(run, range(2)))
    for events in answers:  # each is whole and its own
        assert events[-1] == "[DONE]"
        assert events[-2]["choices"][0]["finish_reason"] == "length"
        assert len(content(events)) == 150
        assert len({event["id"] for event in events[:-1]}) == 1
    assert answers[0][0]["id"] != answers[1][0]["id"]


def test_overflow_passes_the_servers_error_on(router: Router) -> None:
    answer = router.chat(TOO_LONG)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert f"maximum context length is {WINDOW} tokens" in answer.error["message"]
    assert router.chat("hello", max_tokens=5).status == 200  # the client's mistake opens no circuit


def test_overflow_of_a_stream_is_an_error(router: Router) -> None:
    # The server answers 200 and an event stream without a single event.
    with router.stream(TOO_LONG) as stream:
        assert stream.status == 502
        assert b'"error"' in stream.read()


def test_a_declared_window_spares_the_call(router: Router) -> None:
    answer = router.chat("word " * WINDOW * 2, model="windowed", stream=True)  # long by the router's estimate too
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert answer.error["param"] == "messages"


def test_after_an_empty_stream_the_next_request_is_served(router: Router) -> None:
    # The server ends the empty stream properly and closes the connection just after: it must not be used again.
    for _ in range(5):
        with router.stream(TOO_LONG) as stream:
            stream.read()
        assert router.chat("hello", max_tokens=1).status == 200


def test_responses(router: Router) -> None:
    answer = router.post("/v1/responses", {"input": "hello", "max_output_tokens": 20})
    assert answer.status == 200
    document = answer.json
    assert (document["status"], document["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert len(document["output"][0]["content"][0]["text"]) == 20
    assert document["usage"]["output_tokens"] == 20


def test_responses_streamed(router: Router) -> None:
    assert streamed_20_tokens(router)["status"] == "incomplete"


def test_responses_with_a_schema(router: Router) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["yes", "no"]}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "verdict", "schema": schema, "strict": True}
    document = router.post("/v1/responses", {"input": "hello", "text": {"format": wanted}}).json
    assert document["status"] == "completed"
    assert json.loads(document["output_text"])["a"] in ("yes", "no")
    assert document["text"]["format"]["type"] == "json_schema"


def test_responses_forced_tool_call(router: Router) -> None:
    # The server repeats id and name in every fragment, and sends `role: null` and a `function_call` beside.
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    request = {
        "input": "hello",
        "stream": True,
        "tools": [{"type": "function", "name": "f", "parameters": schema}],
        "tool_choice": {"type": "function", "name": "f"},
    }
    with router.stream(path="/v1/responses", json=request) as stream:
        *_, last = [event for event in stream.events() if event != "[DONE]"]
    assert last["type"] == "response.completed"
    [call] = last["response"]["output"]
    assert (call["type"], call["name"]) == ("function_call", "f")
    assert json.loads(call["arguments"])["a"] in (True, False)


def test_hang_up_stops_the_generation(router: Router) -> None:
    began = time.monotonic()
    with router.stream("hello", max_tokens=1900) as stream:
        stream.read()
    whole_s = time.monotonic() - began

    with router.stream("hello", max_tokens=1900) as stream:
        stream.until(b'"content"')
    began = time.monotonic()
    assert router.chat("hello", max_tokens=1).status == 200
    waited_s = time.monotonic() - began

    assert waited_s < min(2.0, whole_s / 3), f"waited {waited_s:.2f} s; a whole answer takes {whole_s:.2f} s"
    [row] = rows(router, stream)
    assert row["outcome"] == "cancelled"

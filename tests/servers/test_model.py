"""The router before a real small model: llama.cpp's own HTTP server and SmolLM2-135M, both from wheels.

    make test-model

What the model says is of no interest here; what the server does is.
"""

from __future__ import annotations

import http.client
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo.__main__ import MODEL_PYTHON
from demo.model_server import MODEL
from tests.e2e.server import ROOT, Answer, Router, Stream, content, wait_until

pytestmark = pytest.mark.model

WINDOW = 2048  # tokens
STORY = "Once upon a time a fox lived beside a wide river and counted the boats. " * 25  # some 450 tokens
TOO_LONG = STORY * 5 + STORY[: len(STORY) // 2]  # for the window, but not beyond doubt: the server counts it


@contextmanager
def model_server(folder: Path) -> Iterator[str]:
    """Start the server, yield its address, and end it."""
    command = [str(MODEL_PYTHON), "-m", "demo.model_server", "--window", str(WINDOW)]
    log = (folder / "server.log").open("wb")
    with log, subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address, (folder / "server.log").read_text()[-2000:]
            yield address
        finally:
            server.terminate()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_server(tmp_path_factory.mktemp("model")) as address:
        yield address


@pytest.fixture(scope="module")
def router(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    server = {"type": "llamacpp", "endpoint": address, "models": [MODEL]}
    policy = {"backends": {"local": server}, "routes": [{"default": "local"}]}
    with Router(policy, folder=tmp_path_factory.mktemp("router")) as running:
        yield running


def row_of(router: Router, answer: Answer | Stream) -> dict[str, Any]:
    request_id = answer.headers["X-LLR-Request-Id"]
    query = "SELECT * FROM metrics WHERE request_id = ? ORDER BY id"
    [row] = wait_until(lambda: router.rows(query, request_id), 5, "the row")
    return row


def slots(address: str) -> list[dict[str, Any]]:
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request("GET", "/slots")
        answer: list[dict[str, Any]] = json.loads(connection.getresponse().read())
        return answer
    finally:
        connection.close()


def test_buffered(router: Router) -> None:
    answer = router.chat("Say hello.", max_tokens=12, temperature=0)
    assert answer.status == 200
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Model"]) == ("local", MODEL)
    assert answer.text
    usage = answer.json["usage"]
    row = row_of(router, answer)
    assert (row["outcome"], row["input_tokens"]) == ("ok", usage["prompt_tokens"])
    assert row["output_tokens"] == usage["completion_tokens"] <= 12


def test_a_stream_comes_token_by_token(router: Router) -> None:
    with router.stream(
        "Tell me a story.", max_tokens=40, temperature=0, stream_options={"include_usage": True}
    ) as stream:
        pieces = [data for _, data in stream]
    events = [line for line in b"".join(pieces).split(b"\n\n") if line.startswith(b"data:")]
    assert events[-1] == b"data: [DONE]"
    assert len(pieces) > 10
    row = row_of(router, stream)
    assert (row["outcome"], row["stream"]) == ("ok", 1)
    assert 0 < row["output_tokens"] <= 40
    assert row["ttfb_ms"] < row["latency_ms"]


def test_stream_and_buffered_answers_are_the_same(router: Router) -> None:
    options = {"max_tokens": 24, "temperature": 0, "seed": 1}
    with router.stream("Count to five.", **options) as stream:
        streamed = "".join(content(stream.events()))
    assert streamed == router.chat("Count to five.", **options).text


def test_overflow_is_a_400_with_the_servers_numbers(router: Router) -> None:
    for answer in (router.chat(TOO_LONG), router.chat(TOO_LONG, stream=True)):
        assert answer.status == 400, answer.body[:300]
        error = answer.json["error"]
        assert (error["code"], error["n_ctx"]) == ("context_length_exceeded", WINDOW)
        assert error["n_prompt_tokens"] > WINDOW
    assert router.chat("hello", max_tokens=4).status == 200  # no circuit opened


def test_what_is_far_too_long_is_refused_by_the_learned_window(router: Router) -> None:
    answer = router.chat(TOO_LONG * 2)
    assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
    assert f"context window among its backends is {WINDOW} tokens" in answer.error["message"]


def test_the_facts_of_the_server_are_learned(router: Router) -> None:
    def model() -> dict[str, Any]:
        [server] = router.get("/v1/metrics").json["servers"]
        return next((row for row in server["models"] if row["model"] == MODEL), {})

    wait_until(lambda: model().get("window"), 10, "the window")
    facts = model()
    assert (facts["window"], facts["trained"], facts["loaded"]) == (WINDOW, 8192, None)
    assert facts["size_bytes"] > 90_000_000
    assert "completion" in facts["capabilities"] and "vision" not in facts["capabilities"]


def test_log_probabilities_pass(router: Router) -> None:
    answer = router.chat("Say hello.", max_tokens=6, logprobs=True, top_logprobs=2, temperature=0)
    tokens = answer.json["choices"][0]["logprobs"]["content"]
    assert tokens
    assert all(token["logprob"] <= 0 for token in tokens)


def test_json_schema_is_kept(router: Router) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["yes", "no"]}}, "required": ["a"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "verdict", "schema": schema, "strict": True}}
    answer = router.chat("Is water wet? Answer as JSON.", max_tokens=60, response_format=wanted)
    assert json.loads(answer.text)["a"] in ("yes", "no")


def test_responses_stream(router: Router) -> None:
    request = {"input": "Say hello.", "max_output_tokens": 12, "stream": True}
    with router.stream(path="/v1/responses", json=request) as stream:
        events = [event for event in stream.events() if event != "[DONE]"]
    text = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    last = events[-1]
    assert last["type"] in ("response.completed", "response.incomplete")
    assert last["response"]["output"][0]["content"][0]["text"] == text


def test_tools_pass_to_a_model_whose_template_has_none(router: Router) -> None:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [{"type": "function", "function": {"name": "weather", "parameters": parameters}}]
    answer = router.chat("Weather in Rome?", tools=tools, tool_choice="auto", max_tokens=16, temperature=0)
    assert answer.status == 200, answer.body[:300]
    assert answer.text  # SmolLM2's template knows no tools, and the server says so to nobody


def test_a_disconnect_stops_the_generation(router: Router, address: str) -> None:
    with router.stream("Count to one thousand.", max_tokens=1500, ignore_eos=True) as stream:
        stream.until(b'"content"')
    wait_until(lambda: not any(slot["is_processing"] for slot in slots(address)), 30, "an idle slot")
    assert row_of(router, stream)["outcome"] == "cancelled"


def test_the_second_turn_reads_only_what_is_new(router: Router) -> None:
    messages: list[dict[str, str]] = [{"role": "user", "content": STORY + "What did the fox count?"}]
    first = router.post("/v1/chat/completions", {"model": "auto", "messages": messages, "max_tokens": 16}).json
    messages += [first["choices"][0]["message"], {"role": "user", "content": "And where did it live?"}]
    second = router.post("/v1/chat/completions", {"model": "auto", "messages": messages, "max_tokens": 16}).json
    read = [answer["timings"]["prompt_n"] for answer in (first, second)]  # tokens that were not in the cache
    assert read[0] > 400
    assert read[1] <= 0.15 * read[0], read

"""The router in front of a real Ollama with a tiny random model.

make test-ollama
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, Router, content, free_port, wait_until
from tests.servers.start import TOO_LONG, WINDOW, answers, streamed_20_tokens, write_model

pytestmark = pytest.mark.ollama

MODEL = "tiny:latest"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
PATIENCE_S = 120  # without a graphics card, on a busy machine


class Ollama:
    """`ollama serve` with a home of its own, and the tiny model in it."""

    def __init__(self, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "OLLAMA_HOST": self.address,
            "OLLAMA_MODELS": str(folder / "models"),
            "OLLAMA_NUM_PARALLEL": "1",
        }
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def start(self) -> None:
        with (self._folder / "ollama.log").open("ab") as log:
            self._server = subprocess.Popen(["ollama", "serve"], stdout=log, stderr=log, env=self.environ)
        wait_until(lambda: answers(f"{self.url}/api/tags"), 60, "Ollama")

    def create(self) -> None:
        write_model(self._folder)
        modelfile = self._folder / "Modelfile"
        modelfile.write_text(f"FROM ./tiny.gguf\nPARAMETER num_ctx {WINDOW}\n")
        command = ["ollama", "create", "tiny", "-f", str(modelfile)]
        subprocess.run(command, check=True, capture_output=True, cwd=self._folder, env=self.environ)

    def stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            self._server.wait(20)
            self._server = None


@contextmanager
def ollama_server(folder: Path) -> Iterator[Ollama]:
    if not shutil.which("ollama"):
        pytest.fail("`ollama` is not on the PATH: https://ollama.com/download")
    server = Ollama(folder)
    server.start()
    try:
        server.create()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="module")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ollama]:
    with ollama_server(tmp_path_factory.mktemp("ollama")) as running:
        yield running


@pytest.fixture(scope="module")
def router(ollama: Ollama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Router]:
    local = {"type": "ollama", "endpoint": ollama.url, "timeouts": {"firstByteMs": PATIENCE_S * 1000}}
    policy = {
        "backends": {
            "local": {**local, "model": MODEL},
            "windowed": {**local, "model": MODEL, "contextWindow": WINDOW},
            "gone": {**local, "model": "not-pulled"},
        },
        "routes": [{"match": {"task": "code"}, "backend": "gone", "fallback": ["local"]}, {"default": "local"}],
    }
    with Router(policy, folder=tmp_path_factory.mktemp("router")) as running:
        running.chat("hello", max_tokens=1, timeout=PATIENCE_S)  # loads the model
        yield running


def flask(ollama: Ollama, folder: Path, *arguments: str) -> str:
    environ = {**ollama.environ, "PYTHONPATH": str(ROOT), "FLASK_APP": str(ROOT / "wsgi.py"), "LLR_LOG_LEVEL": "error"}
    command = [sys.executable, "-m", "flask", *arguments]
    done = subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_init_finds_the_model_and_its_window(ollama: Ollama, tmp_path: Path) -> None:
    assert f"Ollama at {ollama.url} has 1 model" in flask(ollama, tmp_path, "init")
    written = (tmp_path / "policy.yaml").read_text("utf-8")
    assert f'model: "{MODEL}"' in written
    assert f"contextWindow: {WINDOW}" in written
    assert "yes" in flask(ollama, tmp_path, "backends", "probe")
    assert f"runs with a context of {WINDOW} tokens" in flask(ollama, tmp_path, "doctor")


def test_a_loaded_model_tells_its_window(ollama: Ollama, router: Router, tmp_path: Path) -> None:
    router.chat("hello", max_tokens=1, timeout=PATIENCE_S)
    policy = {"backends": {"local": {"type": "ollama", "endpoint": ollama.url, "contextWindow": 9999}}}
    (tmp_path / "policy.yaml").write_text(json.dumps({**policy, "routes": [{"default": "local"}]}))
    assert f"`contextWindow` says 9999 tokens for {MODEL}, but the server runs it with {WINDOW}" in flask(
        ollama, tmp_path, "doctor"
    )


def test_what_it_holds_is_listed(router: Router) -> None:
    names = wait_until(lambda: [model["id"] for model in router.get("/v1/models").json["data"]], 5, "models")
    assert MODEL in names


def test_buffered(router: Router) -> None:
    answer = router.chat("hello", max_tokens=30, timeout=PATIENCE_S)
    assert (answer.status, answer.headers["X-LLR-Model"]) == (200, MODEL)
    assert answer.json["choices"][0]["finish_reason"] == "length"
    assert len(answer.text) == 30  # one character a token
    [row] = router.wait_request_rows(answer.headers["X-LLR-Request-Id"], 1)
    assert (row["outcome"], row["input_tokens"], row["output_tokens"]) == (
        "ok",
        answer.json["usage"]["prompt_tokens"],
        30,
    )


def test_streamed(router: Router) -> None:
    with router.stream("hello", max_tokens=200, stream_options={"include_usage": True}) as stream:
        pieces = list(stream)
    events = [line for line in b"".join(data for _, data in pieces).split(b"\n\n") if line]
    assert events[-1] == b"data: [DONE]"
    usage = json.loads(events[-2].removeprefix(b"data: "))["usage"]
    assert usage["completion_tokens"] == 200
    assert len(pieces) > 100, "tokens must come one by one"
    [row] = router.wait_request_rows(stream.headers["X-LLR-Request-Id"], 1)
    assert (row["outcome"], row["output_tokens"]) == ("ok", 200)


def test_a_model_that_is_not_there_falls_back(router: Router) -> None:
    text = "Write a Python function that reverses a string."
    answer = router.chat(text, max_tokens=1, timeout=PATIENCE_S)
    assert (answer.status, answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Fallback-For"]) == (
        200,
        "local",
        "gone",
    )


def test_a_model_that_the_client_named_is_its_own_mistake(router: Router) -> None:
    for stream in (False, True):
        answer = router.chat("hello", model="local/nope", stream=stream)
        assert answer.status == 404
        assert answer.error["message"] == "model 'nope' not found"


def test_what_the_model_cannot_do_is_told_in_ollamas_words(router: Router) -> None:
    answer = router.chat("hello", tools=[TOOL])
    assert answer.status == 400
    assert "does not support tools" in answer.error["message"]
    assert router.chat("hello", max_tokens=1, timeout=PATIENCE_S).status == 200, "and opens no circuit"


@pytest.mark.parametrize("stream", [False, True])
def test_a_long_prompt_is_refused_and_not_cut(router: Router, stream: bool) -> None:
    for model, text in (("auto", TOO_LONG), ("windowed", TOO_LONG * 3)):
        answer = router.chat(text, model=model, max_tokens=1, stream=stream, timeout=PATIENCE_S)
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")


def test_a_schema(router: Router) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["yes", "no"]}}, "required": ["a"]}
    wanted = {"type": "json_schema", "name": "verdict", "schema": schema, "strict": True}
    answer = router.post("/v1/responses", {"input": "hello", "text": {"format": wanted}}, timeout=PATIENCE_S)
    assert answer.json["status"] == "completed"
    assert json.loads(answer.json["output_text"])["a"] in ("yes", "no")


def test_responses_streamed(router: Router) -> None:
    assert streamed_20_tokens(router)["usage"]["output_tokens"] == 20


def test_a_conversation_goes_on(router: Router) -> None:
    first = router.post("/v1/responses", {"input": "hello", "max_output_tokens": 5}, timeout=PATIENCE_S).json
    more: dict[str, Any] = {"input": "and?", "previous_response_id": first["id"], "max_output_tokens": 5}
    second = router.post("/v1/responses", more, timeout=PATIENCE_S).json
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 5


def test_hang_up_stops_the_generation(router: Router) -> None:
    began = time.monotonic()
    with router.stream("hello", max_tokens=1000) as stream:
        assert len(content(stream.events())) == 1000
    whole_s = time.monotonic() - began

    with router.stream("hello", max_tokens=1000) as stream:
        stream.until(b'"content"')
    began = time.monotonic()
    assert router.chat("hello", max_tokens=1, timeout=PATIENCE_S).status == 200
    waited_s = time.monotonic() - began

    assert waited_s < whole_s / 3, f"waited {waited_s:.2f} s; a whole answer takes {whole_s:.2f} s"
    [row] = router.wait_request_rows(stream.headers["X-LLR-Request-Id"], 1)
    assert row["outcome"] == "cancelled"


def test_one_that_was_stopped_and_came_back(ollama: Ollama, router: Router) -> None:
    ollama.stop()
    try:
        answer = router.chat("hello")
        assert answer.status == 502
        assert f"connection refused at {ollama.url} (is Ollama running?)" in answer.error["message"]
    finally:
        ollama.start()
    assert router.chat("hello", max_tokens=1, timeout=PATIENCE_S).status == 200

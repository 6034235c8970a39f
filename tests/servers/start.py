"""What the tests before real inference servers share."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from tests.e2e.server import Router

WINDOW = 2048  # tokens
TOO_LONG = "word " * 1000  # about 5,000 tokens: the model's vocabulary is single characters


def write_model(folder: Path) -> Path:
    """A tiny GGUF file, slow enough to hang up in the middle of an answer."""
    # A process of its own, so that the tests can be collected where gguf is not installed.
    model = folder / "tiny.gguf"
    script = Path(__file__).with_name("tiny_gguf.py")
    size = ["--width", "256", "--layers", "8", "--context", str(WINDOW)]
    subprocess.run([sys.executable, script, model, *size], check=True)
    return model


def answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=2) as reply:
            return reply.status == 200
    except (URLError, OSError):
        return False


def streamed_20_tokens(router: Router) -> dict[str, Any]:
    """The response at the end of a stream that was cut at its bound."""
    request = {"input": "hello", "max_output_tokens": 20, "stream": True}
    with router.stream(path="/v1/responses", json=request) as stream:
        events = [event for event in stream.events() if event != "[DONE]"]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) == 20
    assert events[-1]["type"] == "response.incomplete"
    response: dict[str, Any] = events[-1]["response"]
    assert response["output"][0]["content"][0]["text"] == "".join(deltas)
    return response

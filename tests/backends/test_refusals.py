"""The error document of a refused request, whatever a backend wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.backends.failures import MOST_ERROR_BYTES, refusal
from app.errors import BackendError, BackendRateLimited, BackendRejected, BackendServerError, ServerBusy
from app.redaction import MOST_SAID, excerpt, redact
from app.types import BackendConfig, Target, Timeouts
from app.wire.chat.errors import error_document

CONFIG = BackendConfig(name="b", type="llamacpp", endpoint="http://b", timeouts=Timeouts(2, 2, 2))


@pytest.mark.parametrize(
    "body, message",
    [
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": {"message": 5}}', "5"),
        (b'{"error": {"message": ["a", {"b": 1}]}}', "['a', {'b': 1}]"),
        (b'{"error": {"message": null, "x": NaN, "code": -Infinity}}', "the backend answered 400"),
        (b'{"error": ["no"]}', "the backend answered 400"),
        (b'{"detail": [{"msg": "no"}], "n": NaN}', "the backend answered 400"),
    ],
)
def test_the_client_reads_a_message_and_json(body: bytes, message: str) -> None:
    error = refusal(400, None, body, Target("b", "m"), CONFIG, "")
    assert isinstance(error, BackendRejected)
    told: Any = error_document(error)
    json.dumps(told, allow_nan=False)
    assert told["error"]["message"] == message
    assert {"message", "type", "param", "code"} <= told["error"].keys()


# --- keys never pass, however the text is cut ----------------------------------------------------

KEYS = (
    "sk-proj-Abc123Def456Ghi789Jkl012Mno345",
    "hf_abcdefghijKLMNOP",
    "AKIAIOSFODNN7EXAMPLE",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc_-",
    "0123456789abcdef0123456789abcdef",
)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("around", ["{}", "é{}é", "\ud800 {}", "key={}, next", '"{}"', "({})", "\n{}\n", "Bearer {}"])
def test_what_looks_like_a_key_is_taken_out(key: str, around: str) -> None:
    assert redact(around.format(key)) == around.format("[redacted]")


@pytest.mark.parametrize(
    "text",
    [
        "", "a plain sentence, with sk and eyJ in it", "https://example.org/a/path/that/is/quite/long/and/has/1/digit",
        "qwen2.5-coder:7b-instruct-q4_K_M", "onlyLettersThatAreManyButHoldNoDigit", "0123456789012345678901234567890",
        "Überschwänglichkeitsbezeugungen2", "half a character: \ud83d",
    ],
)  # fmt: skip
def test_what_is_no_key_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("key", [*KEYS, "our-own-key-of-lower-case-letters"])
@pytest.mark.parametrize("size", range(8 * MOST_SAID - 45, 8 * MOST_SAID + 3, 3))
def test_no_cut_leaves_half_a_key(key: str, size: int) -> None:
    """In front stands a key that makes the text so short that its cut end would be seen."""
    front = f"sk-{'a1' * (size // 2 - 20)} '"
    shown = excerpt(f"{front}{'.' * (size - len(front) - 2)}' {key} and on", (key,))
    assert len(shown) <= MOST_SAID
    assert key[:10] not in shown


def test_an_endless_error_is_cut() -> None:
    word = b"x " * MOST_ERROR_BYTES
    for body in (word, b'{"error": {"message": "' + word + b'"}}', b'{"error": {"message": "' + word):
        error = refusal(422, None, body, Target("b", "m"), CONFIG, "")
        assert isinstance(error, BackendRejected)
        assert len(json.dumps(error_document(error))) < 2 * MOST_SAID


# --- busy servers -------------------------------------------------------------------------------

QUEUE_FULL = b'{"error": "server busy, please try again.  maximum pending requests exceeded"}'  # Ollama
LOADING = b'{"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}'  # llama.cpp
SICK = b'{"error": "upstream is down"}'
BUSY = {  # status, Retry-After, body -> the error, its kind, the seconds without calls
    "rate limit": (429, None, b"{}", BackendRateLimited, "http_429", 1.0),
    "rate limit with a time": (429, "7", b"{}", BackendRateLimited, "http_429", 7.0),
    "503 with a time": (503, "20", SICK, ServerBusy, "http_503", 20.0),
    "503 with a time of nothing": (503, "0", SICK, ServerBusy, "http_503", 0.0),
    "Ollama's queue is full": (503, None, QUEUE_FULL, ServerBusy, "http_503", 1.0),
    "llama.cpp loads": (503, None, LOADING, ServerBusy, "http_503", 1.0),
    "llama.cpp loads, and says how long": (503, "3", LOADING, ServerBusy, "http_503", 3.0),
    "bare 503": (503, None, SICK, BackendServerError, "http_503", None),
    "503 with a time that is none": (503, "soon", SICK, BackendServerError, "http_503", None),
    "500 with a time": (500, "20", SICK, BackendServerError, "http_500", 20.0),
    "500 that speaks of loading": (500, None, LOADING, BackendServerError, "http_500", None),
    "408 with a time": (408, "2", SICK, BackendServerError, "http_408", 2.0),
}


@pytest.mark.parametrize(("status", "retry_after", "body", "kind", "word", "wait_s"), BUSY.values(), ids=BUSY)
def test_busy_is_no_failure(
    status: int, retry_after: str | None, body: bytes, kind: type[BackendError], word: str, wait_s: float | None
) -> None:
    error = refusal(status, retry_after, body, Target("b", "m"), CONFIG, "")
    assert (type(error), error.kind, error.retry_after_s) == (kind, word, wait_s)
    assert error.backend_failed == (kind is BackendServerError)
    assert error.next_target

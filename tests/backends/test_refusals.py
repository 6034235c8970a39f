"""The error document of a refused request, whatever a backend wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.backends.failures import MOST_ERROR_BYTES, refusal
from app.errors import BackendRejected
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

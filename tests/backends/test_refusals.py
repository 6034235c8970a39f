"""The error document of a refused request, whatever a backend wrote."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.backends.failures import refusal
from app.errors import BackendRejected
from app.types import BackendConfig, Target, Timeouts
from app.web.errors import document

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
    told: Any = document(error)
    json.dumps(told, allow_nan=False)
    assert told["error"]["message"] == message
    assert {"message", "type", "param", "code"} <= told["error"].keys()

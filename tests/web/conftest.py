"""The application in immediate mode: nothing is started, rows are written as they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app.factory import POLICY_TEXT, create_app

ECHO = """\
backends:
  parrot: {type: echo, models: ["echo:1b", "org/echo"]}
  cloud: {type: openai, model: gpt, endpoint: "http://127.0.0.1:9/v1"}
routes:
  - match: {sensitivity: high}
    backend: parrot
  - match: {task: vision}
    backend: cloud
    fallback: parrot
  - default: parrot
ab: {enabled: true, sampleRate: 0, candidates: {parrot: cloud}}
sensitivity: {detect: [email]}
"""

Client = Callable[..., FlaskClient]


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """`client(policy, LLR_API_KEYS=…)`: a client of a fresh application, whose connections are closed at the end."""
    clients: list[FlaskClient] = []

    def make(policy: str = ECHO, **environ: str) -> FlaskClient:
        known = {POLICY_TEXT: policy, "LLR_DB": str(tmp_path / "metrics.db"), "LLR_LOG_LEVEL": "error"}
        clients.append(create_app({**known, **environ}).test_client())
        return clients[-1]

    yield make
    for made in clients:
        for upstream in made.application.extensions["services"].upstreams.values():
            upstream.backend.close()

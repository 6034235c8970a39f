"""X-LLR-Purpose: the lane in which a request waits."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import RequestError
from app.web import headers
from tests.web.conftest import Client

CHAT = {"messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(
    ("value", "lane"),
    [
        (None, "interactive"), ("interactive", "interactive"), ("agent", "agent"), ("background", "background"),
        ("BackGround", "background"), (" \tagent ", "agent"), ("agent,agent", "agent"), ("agent , AGENT", "agent"),
    ],
)  # fmt: skip
def test_lanes(value: str | None, lane: str) -> None:
    assert headers.lane({} if value is None else {"HTTP_X_LLR_PURPOSE": value}) == lane


WRONG = ["", " ", ",", "batch", "agent,background", "agent,", '"agent"', "agent;q=1", "1", "high", "agent\xa0", "\xff"]


@pytest.mark.parametrize("value", WRONG)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/route"])
def test_other_values_are_refused(client: Client, path: str, value: str) -> None:
    body = {"input": "hi"} if path == "/v1/responses" else CHAT
    response = client().post(path, json=body, environ_overrides={"HTTP_X_LLR_PURPOSE": value})
    assert response.status_code == 400
    assert response.json["error"] == {
        "message": "X-LLR-Purpose must be interactive, agent or background, once.",
        "type": "invalid_request_error",
        "param": "X-LLR-Purpose",
        "code": None,
    }
    with pytest.raises(RequestError):
        headers.lane({"HTTP_X_LLR_PURPOSE": value})


@pytest.mark.parametrize("body", [CHAT, {"input": "hi"}], ids=["chat", "responses"])
def test_a_dry_run_reads_it(client: Client, body: dict[str, object]) -> None:
    answer = client().post("/v1/route", json=body, headers={"X-LLR-Purpose": "background"})
    assert answer.json["lane"] == "background"


@pytest.mark.parametrize(("path", "body"), [("/v1/chat/completions", CHAT), ("/v1/responses", {"input": "hi"})])
def test_the_row_of_the_call_has_the_lane(client: Client, tmp_path: Path, path: str, body: dict[str, object]) -> None:
    for value in ("background", "agent", "interactive"):
        assert client().post(path, json=body, headers={"X-LLR-Purpose": value}).status_code == 200
    with closing(sqlite3.connect(tmp_path / "metrics.db")) as database:
        rows = database.execute("SELECT lane FROM metrics ORDER BY id").fetchall()
    assert rows == [("background",), ("agent",), ("interactive",)]

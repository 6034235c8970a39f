"""Ids and names that no database takes: the request is answered, and the store goes on for everybody else."""

from __future__ import annotations

from typing import Any

import pytest

from app.storage import turns
from tests.web.conftest import Client

LONE = "\ud800"  # half of a character: legal in JSON, not in UTF-8
ODD: list[Any] = [["a"], {"a": 1}, 5, True, "", " ", LONE, f"msg_{LONE}", "a\0b", "a\nb", "x" * 100_000]


def goes_on(client: Client) -> None:
    """Another process continues what this one keeps from now on."""
    first = client().post("/v1/responses", json={"input": "hello"}).json
    again = client().post("/v1/responses", json={"input": "and now?", "previous_response_id": first["id"]})
    assert again.status_code == 200
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    assert client().post("/v1/responses", json={"input": [reference]}).status_code == 200


@pytest.mark.parametrize("odd", ODD, ids=lambda odd: ascii(odd)[:20])
def test_an_odd_id_of_an_item(client: Client, odd: Any) -> None:
    made = client()
    item = {"role": "user", "content": "x", "id": odd}
    answer = made.post("/v1/responses", json={"input": [item]})
    assert answer.status_code == 200
    (kept,) = client().get(f"/v1/responses/{answer.json['id']}/input_items").json["data"]
    assert isinstance(kept["id"], str) and kept["id"]
    answer = client().post("/v1/responses", json={"input": [{"type": "item_reference", "id": kept["id"]}]})
    assert answer.status_code == 200, answer.json
    assert made.application.extensions["services"].conversations._waiting == {}
    goes_on(client)


@pytest.mark.parametrize("odd", [odd for odd in ODD if odd], ids=lambda odd: ascii(odd)[:20])
def test_a_reference_to_an_odd_id(client: Client, odd: Any) -> None:
    for document in (
        {"input": [{"type": "item_reference", "id": odd}]},
        {"input": "x", "previous_response_id": odd},
    ):
        answer = client().post("/v1/responses", json=document)
        assert (answer.status_code, answer.json["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("model", [f"parrot/a{LONE}b", "parrot/a\0b", "parrot/" + "x" * 1000])
def test_an_odd_model(client: Client, model: str) -> None:
    made = client()
    answer = made.post("/v1/responses", json={"input": "x", "model": model})
    assert answer.status_code == 200
    assert client().get(f"/v1/responses/{answer.json['id']}").status_code == 200
    assert made.application.extensions["services"].conversations._waiting == {}
    goes_on(client)


def test_what_cannot_be_written_is_not_tried_for_ever(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    made = client()
    conversations = made.application.extensions["services"].conversations
    with monkeypatch.context() as patch:
        patch.setattr(turns, "write", lambda *_: 1 / 0)
        assert made.post("/v1/responses", json={"input": "x"}).status_code == 200
    assert conversations._waiting == {}
    goes_on(client)

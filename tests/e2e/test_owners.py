"""With several keys, stored responses and their items belong to the key that made them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, parse_events
from tests.fakes import replies

pytestmark = pytest.mark.e2e

ALICE, BOB = ({"Authorization": f"Bearer {name}-0123456789"} for name in ("alice", "bob"))
KEYS = "alice-0123456789,bob-0123456789"


def policy(local, cloud) -> dict[str, Any]:
    return {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "responses": "native"},
        },
        "routes": [{"default": "local"}],
    }


@pytest.fixture
def house(upstream, router):
    local, cloud = upstream(), upstream()
    running = router(policy(local, cloud), workers=2, env={"OPENAI_API_KEY": "k", "LLR_API_KEYS": KEYS})
    return local, cloud, running


def say(text: str):
    return replies.reply(200, replies.completion(text))


def turn(running: Router, key: dict[str, str], stream: bool = False, **body: Any) -> dict[str, Any]:
    """The Response that a request made."""
    answer = running.post("/v1/responses", {"input": "q", **body, "stream": stream}, key)
    assert answer.status == 200, answer.body
    return parse_events(answer.body)[-2]["response"] if stream else answer.json


# Every way to reach what is stored: a response's id, and that of an item in it.
WAYS = {
    "retrieve": lambda running, key, response, _: running.get(f"/v1/responses/{response}", key),
    "input items": lambda running, key, response, _: running.get(f"/v1/responses/{response}/input_items", key),
    "delete": lambda running, key, response, _: running.request("DELETE", f"/v1/responses/{response}", None, key),
    "continue": lambda running, key, response, _: running.post(
        "/v1/responses", {"input": "?", "previous_response_id": response}, key
    ),
    "continue a stream": lambda running, key, response, _: running.post(
        "/v1/responses", {"input": "?", "previous_response_id": response, "stream": True}, key
    ),
    "refer": lambda running, key, _, item: running.post(
        "/v1/responses", {"input": [{"type": "item_reference", "id": item}]}, key
    ),
    "dry run": lambda running, key, response, _: running.post(
        "/v1/route", {"input": "?", "previous_response_id": response}, key
    ),
    "dry run of a reference": lambda running, key, _, item: running.post(
        "/v1/route", {"input": [{"type": "item_reference", "id": item}]}, key
    ),
}


def shape(answer: Answer, *ids: str) -> tuple[int, str]:
    text = answer.body.decode()
    for name in ids:
        text = text.replace(name, "ID")
    return answer.status, text


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("kept_at", ["local", "cloud"])
def test_what_another_key_made_is_as_what_nobody_made(house, way, kept_at: str) -> None:
    local, cloud, running = house
    theirs = {"id": "resp_theirs", "object": "response", "status": "completed"}
    message = {"type": "message", "id": "msg_theirs", "role": "assistant", "content": []}
    cloud.script(replies.reply(200, {**theirs, "output": [message]}), path="/responses")
    local.script(say("for alice alone"))
    made = turn(running, ALICE, model=kept_at)
    ids = made["id"], made["output"][0]["id"]
    calls = len(local.chats), len(cloud.requests)
    answers = [way(running, BOB, *ids) for _ in range(3)]  # at whichever worker
    unknown = way(running, BOB, "resp_none", "msg_none")
    assert {shape(answer, *ids) for answer in answers} == {shape(unknown, "resp_none", "msg_none")}
    assert unknown.status in (400, 404)
    assert (len(local.chats), len(cloud.requests)) == calls, "nothing was sent for it"

    cloud.script(replies.reply(200, {**theirs, "output": [message]}), path="*")
    assert way(running, ALICE, *ids).status == 200, "hers is as it was"


@pytest.mark.parametrize("stream", [False, True])
def test_an_id_that_two_keys_use_is_two_items(house, stream: bool) -> None:
    """Ids of items come from clients and from backends: one must not overwrite what another keeps under it."""
    local, cloud, running = house
    for key, text in ((ALICE, "of alice"), (BOB, "of bob")):
        message = {"type": "message", "id": "msg_1", "role": "user", "content": text}
        turn(running, key, stream, input=[message])
    for key, text in ((ALICE, "of alice"), (BOB, "of bob")):
        turn(running, key, stream, input=[{"type": "item_reference", "id": "msg_1"}, {"role": "user", "content": "?"}])
        assert local.chats[-1].json["messages"][0]["content"] == text

    same = {"id": "resp_same", "object": "response", "status": "completed", "output": []}
    cloud.script(replies.reply(200, same), path="*", repeat=True)
    for key in (ALICE, BOB):
        turn(running, key, model="cloud")
    assert running.request("DELETE", "/v1/responses/resp_same", None, ALICE).status == 200
    assert running.get("/v1/responses/resp_same", ALICE).status == 404
    assert running.get("/v1/responses/resp_same", BOB).status == 200


def test_what_was_kept_under_other_settings_is_nobodys(upstream, router) -> None:
    """No keys, then keys, then none again: rows without an owner are not for whoever comes first."""
    local, cloud = upstream(), upstream()
    running = router(policy(local, cloud), env={"OPENAI_API_KEY": "k"})
    made: dict[str, str] = {"": turn(running, {})["id"]}
    settings = {"": ("", {}), "alice": ("alice-0123456789", ALICE), "both": (KEYS, BOB)}
    for name, (keys, key) in settings.items():
        running.terminate()
        running.env["LLR_API_KEYS"] = keys
        running.start()
        if name:
            made[name] = turn(running, key)["id"]
        seen = [
            owner for owner, response in made.items() if running.get(f"/v1/responses/{response}", key).status == 200
        ]
        assert seen == [name]
    assert running.get(f"/v1/responses/{made['alice']}", ALICE).status == 200, "another key beside hers changes nothing"
    running.terminate()
    running.env["LLR_API_KEYS"] = ""
    running.start()
    seen = [owner for owner, response in made.items() if running.get(f"/v1/responses/{response}").status == 200]
    assert seen == [""]


def test_the_database_holds_no_key(house) -> None:
    _, _, running = house
    for key in (ALICE, BOB):
        turn(running, key)
    running.terminate()
    content = running.database.read_bytes()
    assert b"-0123456789" not in content
    owners = {row["owner"] for row in running.rows("SELECT owner FROM llr_responses")}
    assert len(owners) == 2 and all(len(owner) == 24 for owner in owners)
    assert json.dumps(sorted(owners)).encode() not in content

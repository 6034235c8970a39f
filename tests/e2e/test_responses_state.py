"""previous_response_id, item_reference, retrieval and native passthrough, over two workers."""

from __future__ import annotations

import contextlib
import sqlite3

import openai
import pytest

from tests.e2e.server import parse_events, wait_until
from tests.e2e.test_streams import two
from tests.fakes import replies

pytestmark = pytest.mark.e2e


def say(text: str):
    return replies.reply(200, replies.completion(text))


@pytest.fixture
def house(upstream, router):
    local, cloud = upstream(), upstream()
    running = router(two(local, cloud), workers=2, env={"OPENAI_API_KEY": "key-for-tests"})
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="anything", max_retries=0) as client:
        yield local, cloud, running, client


def texts(received) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in received.json["messages"]]


def test_a_conversation_goes_on_at_any_worker_streaming_or_not(house):
    local, _, _, client = house
    last = None
    for number in range(12):
        local.script(say(f"answer {number}") if number % 2 else replies.sse(f"answer {number}"))
        asked = {"model": "auto", "input": f"question {number}", "previous_response_id": last}
        if number % 2:
            last = client.responses.create(**asked).id
        else:
            with client.responses.stream(**asked) as stream:
                last = stream.get_final_response().id
        expected = []
        for past in range(number + 1):
            expected += [("user", f"question {past}"), ("assistant", f"answer {past}")]
        assert texts(local.chats[-1]) == expected[:-1]


def test_instructions_are_not_inherited_and_branches_do_not_meet(house):
    local, _, _, client = house
    local.script(say("root"))
    root = client.responses.create(model="auto", input="q", instructions="Be brief.")
    for branch in ("left", "right"):
        local.script(say(branch))
        reply = client.responses.create(model="auto", input=branch, previous_response_id=root.id)
        assert reply.previous_response_id == root.id
        assert texts(local.chats[-1]) == [("user", "q"), ("assistant", "root"), ("user", branch)]


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_id_is_refused_before_anything_is_sent(house, stream):
    local, cloud, router, _ = house
    body = {"input": "go on", "previous_response_id": "resp_none", "stream": stream}
    answer = router.post("/v1/responses", body)
    assert answer.status == 400
    assert (answer.error["code"], answer.error["param"]) == ("previous_response_not_found", "previous_response_id")
    assert not local.chats and not cloud.chats


def test_store_false_is_neither_continued_nor_retrieved(house):
    _, _, _, client = house
    response = client.responses.create(model="auto", input="q", store=False)
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="auto", input="more", previous_response_id=response.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


def test_retrieval_input_items_and_deletion(house):
    local, _, _, client = house
    local.script(say("hi there"))
    response = client.responses.create(model="auto", input="hello")
    assert client.responses.retrieve(response.id).output_text == "hi there"
    items = client.responses.input_items.list(response.id).data
    assert [(item.role, item.content[0].type, item.content[0].text) for item in items] == [
        ("user", "input_text", "hello")
    ]
    client.responses.delete(response.id)
    for gone in (client.responses.retrieve, client.responses.delete):
        with pytest.raises(openai.NotFoundError):
            gone(response.id)


def test_a_failed_stream_is_not_stored(house):
    local, _, router, client = house
    local.script(replies.sse("begun", replies.CLOSE, finish=False))
    with router.stream(path="/v1/responses", json={"input": "q", "stream": True}) as stream:
        events = parse_events(stream.read())
    created = next(event for event in events if event["type"] == "response.created")
    assert [event["type"] for event in events if isinstance(event, dict)][-1] == "response.failed"
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(created["response"]["id"])


def test_items_are_referred_to_by_id(house):
    local, _, _, client = house
    local.script(say("first answer"))
    first = client.responses.create(model="auto", input="first question")
    local.script(say("second answer"))
    client.responses.create(
        model="auto",
        input=[
            {"role": "user", "content": "first question"},
            {"type": "item_reference", "id": first.output[0].id},
            {"role": "user", "content": "second question"},
        ],
    )
    wanted = [("user", "first question"), ("assistant", "first answer"), ("user", "second question")]
    assert texts(local.chats[-1]) == wanted
    with pytest.raises(openai.BadRequestError):
        client.responses.create(model="auto", input=[{"type": "item_reference", "id": "msg_none"}])


def test_a_private_conversation_is_not_stored_unless_the_policy_says_so(upstream, router):
    local, cloud = upstream(), upstream()
    policy = two(local, cloud) | {"routes": [{"default": "cloud", "fallback": "local"}]}
    env = {"OPENAI_API_KEY": "key-for-tests"}
    private = {"X-LLR-Sensitivity": "high"}
    running = router(policy, workers=1, env=env)
    first = running.post("/v1/responses", {"input": "my canary"}, private).json
    assert first["store"] is False
    assert running.get(f"/v1/responses/{first['id']}").status == 404
    assert b"canary" not in running.database.read_bytes()

    keeping = router(policy | {"responses": {"storePrivate": True}}, workers=1, env=env)
    first = keeping.post("/v1/responses", {"input": "my canary"}, private).json
    assert first["store"] is True
    for header in ({}, {"X-LLR-Sensitivity": "normal"}):  # what continues a private conversation is private
        more = keeping.post("/v1/responses", {"input": "go on", "previous_response_id": first["id"]}, header)
        assert (more.status, more.headers["X-LLR-Backend"]) == (200, "local")
    reference = {
        "input": [{"type": "item_reference", "id": first["output"][0]["id"]}, {"role": "user", "content": "?"}]
    }
    assert keeping.post("/v1/responses", reference).headers["X-LLR-Backend"] == "local"
    assert not cloud.chats


def native_house(cloud, local, router, default: str):
    policy = {
        "backends": {
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "responses": "native"},
            "other": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "responses": "native"},
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
        },
        "routes": [{"default": default, "fallback": "local"}],
    }
    return router(policy, workers=2, env={"OPENAI_API_KEY": "key-for-tests"})


def native_answer(name: str) -> dict:
    message = {"type": "message", "id": f"msg_{name}", "role": "assistant", "content": []}
    return {"id": f"resp_{name}", "object": "response", "status": "completed", "output": [message]}


def native_stream(name: str):
    created = {"type": "response.created", "response": {**native_answer(name), "output": []}}
    done = {"type": "response.completed", "response": native_answer(name)}
    return replies.sse(replies.event(created) + replies.event(done), finish=False)


@pytest.mark.parametrize("stream", [False, True])
def test_items_that_a_native_backend_keeps_are_referred_to_there(upstream, router, stream):
    """The AI SDK's second step: it refers to what the first one answered."""
    cloud, local = upstream(), upstream()
    running = native_house(cloud, local, router, "cloud")
    cloud.script(native_stream("a") if stream else replies.reply(200, native_answer("a")), path="/responses")
    running.post("/v1/responses", {"input": "q", "stream": stream})
    more = {"input": [{"type": "item_reference", "id": "msg_a"}, {"role": "user", "content": "?"}]}
    for answer in range(3):  # at whichever worker
        cloud.script(replies.reply(200, native_answer(f"b{answer}")), path="/responses")
        assert running.post("/v1/responses", more).status == 200
        assert cloud.requests[-1].json["input"] == more["input"]
    cloud.script(replies.error(503, "down"), path="/responses")
    assert running.post("/v1/responses", more).status == 502
    assert running.post("/v1/responses", more, {"X-LLR-Sensitivity": "high"}).status == 503
    assert not local.chats

    cloud.script(replies.reply(200, native_answer("c")), path="/responses")
    running.post("/v1/responses", {"model": "other", "input": "q"})
    both = {"input": [{"type": "item_reference", "id": "msg_a"}, {"type": "item_reference", "id": "msg_c"}]}
    assert running.post("/v1/responses", both).error["code"] == "item_not_found"


def test_items_of_ours_are_written_out_for_a_native_backend(upstream, router):
    cloud, local = upstream(), upstream()
    running = native_house(cloud, local, router, "cloud")
    local.script(say("first answer"))
    first = running.post("/v1/responses", {"model": "local", "input": "first question"}).json
    cloud.script(replies.reply(200, native_answer("a")), path="/responses")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    question = {"role": "user", "content": "second question"}
    assert running.post("/v1/responses", {"input": [reference, question]}).headers["X-LLR-Backend"] == "cloud"
    said, asked = cloud.requests[-1].json["input"]
    assert (said["role"], said["content"][0]["text"], "id" in said) == ("assistant", "first answer", False)
    assert asked == question


NATIVE = {
    "id": "resp_theirs",
    "object": "response",
    "status": "completed",
    "output": [],
    "usage": {"input_tokens": 3, "output_tokens": 4},
    "vendor": {"big": 12345678901234567890123},
}


def test_a_native_backend_gets_the_request_as_it_came(upstream, router):
    cloud, local = upstream(), upstream()
    policy = {
        "backends": {
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big", "responses": "native"},
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
        },
        "routes": [{"default": "cloud", "fallback": "local"}],
    }
    running = router(policy, workers=2, env={"OPENAI_API_KEY": "key-for-tests"})
    cloud.script(replies.reply(200, NATIVE), path="/responses")
    raw = b'{"model": "auto",  "input": "q", "future": {"n": 1.50, "big": 12345678901234567890123}}'
    answer = running.request("POST", "/v1/responses", raw, {"Content-Type": "application/json"})
    assert cloud.requests[-1].path == "/v1/responses"
    assert cloud.requests[-1].body == raw.replace(b'"auto"', b'"big"')
    assert answer.json == NATIVE
    row = running.wait_rows(1)[0]
    assert (row["input_tokens"], row["output_tokens"], row["outcome"]) == (3, 4, "ok")

    # The conversation goes on where it is kept, with the id as it came …
    events = replies.event({"type": "response.created", "response": {"id": "resp_next"}})
    events += b'event: x\ndata: {"type":"response.output_text.delta","delta":"\\u00e9"}\n\n'
    events += replies.event({"type": "response.completed", "response": {**NATIVE, "id": "resp_next"}})
    cloud.script(replies.sse(events, finish=False), path="/responses")
    more = {"input": "go on", "previous_response_id": "resp_theirs", "stream": True}
    with running.stream(path="/v1/responses", json=more) as stream:
        assert stream.read() == events
    assert cloud.requests[-1].json["previous_response_id"] == "resp_theirs"
    cloud.script(replies.reply(200, NATIVE), path="*")
    assert running.get("/v1/responses/resp_next").json == NATIVE
    assert cloud.requests[-1].path == "/v1/responses/resp_next"

    # … and nowhere else.
    cloud.script(replies.error(503, "down"), path="/responses")
    assert running.post("/v1/responses", {"input": "?", "previous_response_id": "resp_next"}).status == 502
    private = {"X-LLR-Sensitivity": "high"}
    refused = running.post("/v1/responses", {"input": "?", "previous_response_id": "resp_next"}, private)
    assert (refused.status, refused.error["code"]) == (503, "no_eligible_backend")
    assert not local.chats


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_that_is_too_large_is_answered_and_not_kept(upstream, router, stream):
    local, cloud = upstream(), upstream()
    running = router(two(local, cloud) | {"responses": {"maxTurnBytes": 4000}}, env={"OPENAI_API_KEY": "k"})
    for words in (1, 1000, 1):
        text = "word " * words
        local.script(replies.sse(text) if stream else say(text))
        answer = running.post("/v1/responses", {"input": "q", "stream": stream})
        response = parse_events(answer.body)[-2]["response"] if stream else answer.json
        assert (answer.status, response["status"]) == (200, "completed")
        assert response["output"][0]["content"][0]["text"] == text
        kept = words == 1
        assert response["store"] is kept
        assert running.get(f"/v1/responses/{response['id']}").status == (200 if kept else 404)
        more = running.post("/v1/responses", {"input": "?", "previous_response_id": response["id"]})
        assert more.status == (200 if kept else 400)
    assert len([line for line in running.log_text().splitlines() if "responses.maxTurnBytes" in line]) == 1


def test_stored_responses_are_bounded_in_bytes(upstream, router):
    local, cloud = upstream(), upstream()
    running = router(two(local, cloud) | {"responses": {"maxBytes": 40_000}}, workers=2, env={"OPENAI_API_KEY": "k"})
    ids = [running.post("/v1/responses", {"input": "q" * 2000}).json["id"] for _ in range(20)]
    (sums,) = running.rows("SELECT count(*) AS n, sum(size_bytes) AS b, sum(length(input)) AS i FROM llr_responses")
    assert sums["b"] <= 40_000 and sums["i"] >= 2000 * sums["n"] and 3 <= sums["n"] <= 9
    found = [running.get(f"/v1/responses/{name}").status for name in ids]
    assert found == [404] * (20 - sums["n"]) + [200] * sums["n"]


def test_a_response_that_waited_for_the_database_is_stored_soon(upstream, router):
    fake = upstream()
    running = router(
        {"backends": {"m": {"type": "ollama", "endpoint": fake.url, "model": "m"}}, "routes": [{"default": "m"}]}
    )
    assert running.post("/v1/responses", {"input": "one"}).status == 200
    with contextlib.closing(sqlite3.connect(running.database, isolation_level=None)) as locked:
        locked.execute("BEGIN IMMEDIATE")
        answers = [running.post("/v1/responses", {"input": "two"}) for _ in range(5)]
        assert {answer.status for answer in answers} == {200}
    wait_until(lambda: len(running.rows("SELECT id FROM llr_responses")) == 6, 10, "the responses that waited")

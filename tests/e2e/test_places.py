"""Places under `maxConcurrency` in real gunicorn processes: order, comments, lanes."""

from __future__ import annotations

import concurrent.futures
import time
from typing import Any

import pytest
from openai._streaming import SSEDecoder

from tests.e2e.server import chat_body, wait_until
from tests.fakes import replies
from tests.fakes.ollama import Model, Ollama

pytestmark = pytest.mark.e2e


def policy(url: str, *models: str, **more: Any) -> dict[str, Any]:
    common = {"type": "ollama", "endpoint": url, "api": "openai", "models": list(models), "maxConcurrency": 1}
    gpu = {**common, **more}
    return {"backends": {"gpu": gpu}, "routes": [{"default": "gpu"}]}


def waiting_by_lane(running: Any) -> dict[str, int]:
    """Return the calls that wait for a place, over all workers, from their latest reports."""
    server = next(row for row in running.get("/v1/metrics").json["servers"] if row["backend"] == "gpu")
    return server["waiting"]


def waiting(running: Any) -> int:
    return sum(waiting_by_lane(running).values())


@pytest.mark.parametrize(
    ("path", "body", "end"),
    [
        ("/v1/chat/completions", chat_body("hello", stream=True), b"data: [DONE]\n\n"),
        ("/v1/responses", {"input": "hello", "stream": True}, b"response.completed"),
    ],
    ids=["chat", "responses"],
)
def test_a_stream_that_waits_says_so(upstream, router, path, body, end):
    """At the rhythm of the keep-alives: the head and the first comment after ten seconds."""
    fake = upstream(models=["m:1"])
    gate = replies.Gate()
    fake.script([gate, *replies.reply(200, replies.completion())])
    running = router(policy(fake.url, "m:1"), workers=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.chat, "secret words")
        assert gate.reached.wait(10)
        with running.stream(path=path, json=body) as stream:
            comments = stream.until(b"\n")
            assert comments == b": waiting for a place at gpu, 1 ahead\n"
            gate.open()
            raw = comments + stream.read()
        assert first.result().status == 200
    assert end in raw and b"secret" not in raw
    events = list(SSEDecoder().iter_bytes(iter([raw])))
    assert all(event.data for event in events) and len(events) > 1


def test_a_stream_whose_model_loads_says_so(router):
    with Ollama([Model("a:1", load_s=11.0)]) as ollama:
        running = router(policy(ollama.url, "a:1", api="native"), workers=1)
        with running.stream(timeout=40) as stream:
            first = stream.until(b"\n")
            rest = stream.read()
    assert first == b": gpu loads a:1\n"
    assert rest.endswith(b"data: [DONE]\n\n")


def test_first_come_first_served_over_all_workers(upstream, router):
    fake = upstream(models=["m:1"])
    gate = replies.Gate()
    fake.script([gate, *replies.reply(200, replies.completion())])
    running = router(policy(fake.url, "m:1"), workers=4)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = []
        for call in range(8):
            answers.append(pool.submit(running.chat, f"call {call}"))
            wait_until(lambda n=call: waiting(running) == n and gate.reached.is_set(), 10, "the call waits")
        gate.open()
        assert {answer.result().status for answer in answers} == {200}
    chats = [request for request in fake.requests if request.method == "POST" and "chat" in request.path]
    assert [request.json["messages"][-1]["content"] for request in chats] == [f"call {call}" for call in range(8)]


def test_lanes_and_disconnects(upstream, router):
    """Who waits in a lower lane is served last; a client that left is not served at all."""
    fake = upstream(models=["m:1"])
    gate = replies.Gate()
    fake.script([gate, *replies.reply(200, replies.completion())])
    running = router(policy(fake.url, "m:1"), workers=2)
    lanes = ("background", "agent", None, "interactive")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(running.chat, "first")]
        assert gate.reached.wait(10)
        leaver = pool.submit(running.chat, "leaver", timeout=3)
        for number, lane in enumerate(lanes, 1):
            headers = {"X-LLR-Purpose": lane} if lane else {}
            answers.append(pool.submit(running.chat, str(lane), headers=headers))
            wait_until(lambda n=number: waiting(running) >= n, 10, "the call waits")
        assert leaver.exception(10) is not None
        left = {"interactive": 2, "agent": 1, "background": 1}  # the client that left was a third interactive one
        wait_until(lambda: waiting_by_lane(running) == left, 10, "the client that left is gone")
        gate.open()
        assert {answer.result().status for answer in answers} == {200}
    chats = [request for request in fake.requests if request.method == "POST" and "chat" in request.path]
    order = [request.json["messages"][-1]["content"] for request in chats]
    assert order == ["first", "None", "interactive", "agent", "background"]


def test_a_request_that_would_wait_too_long_goes_to_the_fallback_at_once(upstream, router):
    gpu, cloud = upstream(models=["m:1"]), upstream(models=["m:1"], text="from the cloud")
    gate = replies.Gate()
    gpu.script([gate, *replies.reply(200, replies.completion("from the gpu"))])
    rules = policy(gpu.url, "m:1", maxWaitMs=200, p50Ms=5000)
    rules["backends"]["cloud"] = {"type": "ollama", "endpoint": cloud.url, "api": "openai", "models": ["m:1"]}
    rules["routes"] = [{"match": {"sensitivity": "high"}, "backend": "gpu"}, {"default": "gpu", "fallback": "cloud"}]
    running = router(rules, workers=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.chat)
        assert gate.reached.wait(10)
        for _ in range(4):
            answer = running.chat()
            assert (answer.text, answer.headers["X-LLR-Backend"]) == ("from the cloud", "cloud")
        private = pool.submit(running.chat, headers={"X-LLR-Sensitivity": "high"})
        wait_until(lambda: waiting(running) == 1, 10, "the private request waits")
        gate.open()
        assert [first.result().text, private.result().status] == ["from the gpu", 200]
        assert private.result().headers["X-LLR-Backend"] == "gpu"


@pytest.mark.parametrize("api", ["openai", "native"])
def test_calls_for_the_loaded_model_go_first(router, api):
    """Four calls for each of two models, sent in turns: as they arrive they would need eight loads."""
    with Ollama([Model("a:1", load_s=0.2, token_s=0.05), Model("b:1", load_s=0.2, token_s=0.05)]) as ollama:
        running = router(policy(ollama.url, "a:1", "b:1", api=api), workers=2)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            calls = [("a:1", "b:1")[call % 2] for call in range(8)]
            answers = [pool.submit(running.chat, "hello", model=model, max_tokens=5) for model in calls]
            assert {answer.result().status for answer in answers} == {200}
        assert len(ollama.answers) == 8 and len(ollama.loads) <= 5


def test_a_reload_in_the_middle_of_a_queue(upstream, router):
    """The old worker keeps its call and its queue; the new limit holds for the new workers, which count both."""
    fake = upstream(models=["m:1"])
    gate = replies.Gate()
    fake.script([gate, *replies.reply(200, replies.completion())], repeat=True)
    running = router(policy(fake.url, "m:1"), workers=2)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        answers = [pool.submit(running.chat) for _ in range(3)]
        wait_until(lambda: waiting(running) == 2, 10, "two calls wait")
        before = set(running.worker_pids())
        running.write_policy(policy(fake.url, "m:1", maxConcurrency=2))
        running.sighup()
        wait_until(lambda: len(set(running.worker_pids()) - before) == 2, 20, "new workers")
        while fake.busy < 2 and len(answers) < 12:  # an old worker may accept the first ones
            answers.append(pool.submit(running.chat))
            time.sleep(0.5)
        assert fake.busy == 2, "the second place is used"
        time.sleep(0.3)  # long enough for a third call to show up
        assert fake.busy == 2
        gate.open()
        assert {answer.result().status for answer in answers} == {200}

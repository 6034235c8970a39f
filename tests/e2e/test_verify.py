"""Answers that are judged before the client gets them, in real gunicorn processes."""

from __future__ import annotations

import concurrent.futures
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest

from tests.e2e.server import Answer, Router, Stream, chat_body, content, parse_events, wait_until
from tests.fakes import replies
from tests.fakes.replies import HANG, RESET, completion, delta, error, event, reply, sse
from tests.fakes.upstream import Upstream

pytestmark = pytest.mark.e2e

QUESTION = "How many apples are left when 50 apples are shared by 8 children?"
RIGHT, WRONG, STRONG = "The answer is 42.", "The answer is 43.", "The answer is 44."
TIMEOUTS = {"connectMs": 2000, "firstByteMs": 20000, "idleMs": 20000}


class Stage:
    """A router with a first target, a second opinion and a stronger target.  The doubt of 0.3 lets two answers that
    differ escalate."""

    def __init__(self, folder: Path, *, native: bool = False, workers: int = 2, **verify: Any) -> None:
        self.local = Upstream(models=["m"], loaded=["m"], native=native, text=RIGHT)
        self.twin = Upstream(models=["m"], loaded=["m"], text=RIGHT)
        self.frontier = Upstream(models=["big"], text=STRONG)
        self._native = native
        self._verify = {"doubt": 0.3, "second": "twin", **verify}
        self._options = {"folder": folder, "workers": workers}
        self._stack = ExitStack()
        self.backends: dict[str, dict[str, Any]] = {}
        self.router: Router

    def policy(self, **verify: Any) -> dict[str, Any]:
        local = {"type": "ollama", "models": ["m"], "timeouts": TIMEOUTS}
        hosted = {"type": "openai", "models": ["big"], "timeouts": TIMEOUTS, "apiKeyEnv": ""}
        backends: dict[str, dict[str, Any]] = {
            "local": {**local, "endpoint": self.local.url, "api": "native" if self._native else "openai"},
            "twin": {**local, "endpoint": self.twin.url, "api": "openai"},
            "frontier": {**hosted, "endpoint": f"{self.frontier.url}/v1"},
        }
        for name, keys in self.backends.items():
            backends[name] = {key: value for key, value in {**backends[name], **keys}.items() if value is not None}
        rules = {name: value for name, value in {**self._verify, **verify}.items() if value is not None}
        return {"backends": backends, "routes": [{"default": "local", "fallback": "frontier", "verify": rules}]}

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for up in (self.local, self.twin, self.frontier):
                stack.enter_context(up)
            self.router = stack.enter_context(Router(self.policy(), **self._options))
            self.knows_facts()
            self._stack = stack.pop_all()
        return self

    def knows_facts(self) -> None:
        """Wait until every worker knows that the model of the second opinion is loaded."""
        models = lambda: [  # noqa: E731
            model["loaded"]
            for server in self.router.get("/v1/metrics").json["servers"]
            for model in server["models"]
            if server["backend"] == "twin"
        ]
        wait_until(lambda: models() == [True], 10, "facts")

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def calls(self) -> tuple[int, int, int]:
        """How many chats each server got: the first target, the second opinion, the stronger target."""
        return len(self.local.chats), len(self.twin.chats), len(self.frontier.chats)

    def disagree(self) -> None:
        self.twin.text = WRONG

    def rows(self, answer: Answer | Stream, count: int) -> dict[str, dict[str, Any]]:
        """The rows of one request by backend, when there are `count`."""
        request_id = answer.headers["X-LLR-Request-Id"]
        sql = "SELECT * FROM metrics WHERE request_id = ? ORDER BY id"
        wait_until(lambda: len(self.router.rows(sql, request_id)) >= count, 10, f"{count} rows")
        rows = self.router.rows(sql, request_id)
        assert len(rows) == count, rows
        return {row["backend"]: row for row in rows}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Callable[..., Stage]]:
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Stage(tmp_path / "router", **options))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("shared"), dailyShare=1) as running:
        yield running


@pytest.fixture
def usual(shared: Stage) -> Stage:
    """The shared stage, whose servers have forgotten their scripts and calls."""
    for up, text in ((shared.local, RIGHT), (shared.twin, RIGHT), (shared.frontier, STRONG)):
        up.text = text
        up.reset()
    return shared


# --- the ways to ask ----------------------------------------------------------------------------


def chat(stage: Stage, **more: Any) -> tuple[Answer, str]:
    answer = stage.router.chat(QUESTION, **more)
    assert answer.status == 200, answer.body
    return answer, answer.text


def chat_stream(stage: Stage, **more: Any) -> tuple[Answer, str]:
    with stage.router.stream(QUESTION, **more) as stream:
        assert stream.status == 200
        answer = Answer(stream.status, stream.headers, stream.read())
    return answer, content(answer.events)


def responses(stage: Stage) -> tuple[Answer, str]:
    answer = stage.router.post("/v1/responses", {"input": QUESTION})
    assert answer.status == 200, answer.body
    return answer, answer.json["output_text"]


def responses_stream(stage: Stage) -> tuple[Answer, str]:
    with stage.router.stream(path="/v1/responses", json={"input": QUESTION, "stream": True}) as stream:
        answer = Answer(stream.status, stream.headers, stream.read())
    done = [one for one in answer.events if isinstance(one, dict) and one["type"] == "response.completed"]
    return answer, done[0]["response"]["output"][0]["content"][0]["text"]


WAYS = (chat, chat_stream, responses, responses_stream)


# --- kept and escalated -------------------------------------------------------------------------


@pytest.mark.parametrize("ask", WAYS)
def test_an_answer_with_which_the_second_opinion_agrees_is_kept(usual, ask):
    answer, text = ask(usual)
    assert text == RIGHT
    assert answer.headers["X-LLR-Verified"] == "kept"
    assert answer.headers["X-LLR-Backend"] == "local"
    assert usual.calls == (1, 1, 0)
    rows = usual.rows(answer, 2)
    first, second = rows["local"], rows["twin"]
    assert (first["kind"], first["reason"], first["outcome"]) == ("live", "route", "ok")
    assert (first["verified"], first["agreement"], first["fault"], first["verified_reason"]) == ("kept", 1, None, None)
    assert 0 < first["doubt"] < 0.3 and first["held_ms"] >= 0
    assert (second["kind"], second["reason"], second["lane"]) == ("verify", "verify", "background")
    assert (second["stream"], second["shadow"], second["verified"]) == (0, 1, None)


@pytest.mark.parametrize("ask", WAYS)
def test_an_answer_that_the_second_opinion_denies_is_escalated(usual, ask):
    usual.disagree()
    answer, text = ask(usual)
    assert text == STRONG
    assert answer.headers["X-LLR-Verified"] == "escalated agreement"
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Model"]) == ("frontier", "big")
    assert answer.headers["X-LLR-Fallback-For"] is None
    assert RIGHT.encode() not in answer.body and WRONG.encode() not in answer.body
    rows = usual.rows(answer, 3)
    first, strong = rows["local"], rows["frontier"]
    assert (first["reason"], first["outcome"], first["verified"]) == ("route", "ok", "escalated")
    assert (first["verified_reason"], first["agreement"]) == ("agreement", 0)
    assert first["doubt"] > 0.3
    assert (strong["kind"], strong["reason"], strong["fallback_for"]) == ("live", "escalated", None)
    assert (strong["verified"], strong["policy"]) == (None, None)
    assert strong["stream"] == ("stream" in ask.__name__)


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize("differs", [False, True])
def test_it_is_the_same_over_ollamas_own_api(stage, ask, differs):
    running = stage(native=True)
    if differs:
        running.disagree()
    answer, text = ask(running)
    assert text == (STRONG if differs else RIGHT)
    assert answer.headers["X-LLR-Verified"] == ("escalated agreement" if differs else "kept")


def test_a_kept_answer_is_sent_byte_for_byte(usual):
    spaced = json.dumps(completion(RIGHT), indent=2).encode()
    usual.local.script(reply(200, spaced))
    answer, _ = chat(usual)
    assert answer.headers["X-LLR-Verified"] == "kept"
    assert answer.body == spaced
    events = b"".join(event(delta(piece)) for piece in ("The answer ", "is ", "42.")) + b": x\n\n"
    events += event(delta(finish="stop")) + b"data: [DONE]\n\n"
    usual.local.script(sse(events, finish=False))
    answer, _ = chat_stream(usual)
    assert answer.headers["X-LLR-Verified"] == "kept"
    assert answer.body == events


def test_two_samples_of_one_model(stage):
    running = stage(second=None, samples=2)
    running.local.script(reply(200, completion(RIGHT)), reply(200, completion(WRONG)))
    answer, text = chat(running, temperature=0.1)
    assert (text, answer.headers["X-LLR-Verified"]) == (STRONG, "escalated agreement")
    first, second = sorted((request.json for request in running.local.chats), key=lambda body: body["temperature"])
    assert first["temperature"] == 0.1 and second["temperature"] >= 0.6
    assert second["seed"] and second["messages"] == first["messages"]


@pytest.mark.parametrize("ask", WAYS)
@pytest.mark.parametrize(("logprobs", "verified"), [((-0.001,), "kept"), ((-5.0,), "escalated confidence")])
def test_the_probabilities_of_the_tokens_are_asked_for_and_taken_out(tmp_path, ask, logprobs, verified):
    running = Stage(tmp_path / "router", second=None, by=["structure", "confidence"], doubt=0.5)
    running.local.logprobs = logprobs
    running.backends["local"] = {"type": "llamacpp", "api": None}
    with running:
        answer, text = ask(running)
        assert answer.headers["X-LLR-Verified"] == verified
        assert text == (RIGHT if verified == "kept" else STRONG)
        assert running.local.chats[-1].json["logprobs"] is True
        assert b'"logprob"' not in answer.body
        assert not any("logprobs" in request.json for request in running.frontier.chats)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("differs", [False, True])
def test_backends_that_speak_the_responses_api(tmp_path, stream, differs):
    running = Stage(tmp_path / "router", by=["structure"], second=None)
    running.backends["local"] = {"responses": "native"}
    with running:
        text = "I'm sorry, but I can't help with that." if differs else RIGHT
        running.local.script(native_stream(text) if stream else reply(200, native_document(text)), path="/responses")
        answer, said = (responses_stream if stream else responses)(running)
        assert answer.headers["X-LLR-Verified"] == ("escalated structure" if differs else "kept")
        assert said == (STRONG if differs else RIGHT)


def native_document(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}
    usage = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    known = {"id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": "m"}
    return {**known, "output": [item], "output_text": text, "usage": usage}


def native_stream(text: str) -> list[Any]:
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return sse(
        {"type": "response.created", "sequence_number": 0, "response": {**native_document(""), "output": []}},
        {"type": "response.output_text.delta", "sequence_number": 1, **place, "delta": text},
        {"type": "response.completed", "sequence_number": 2, "response": native_document(text)},
        finish=False,
    )


# --- structure ----------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"left": {"type": "integer"}}, "required": ["left"]}
JSON_FORMAT = {"response_format": {"type": "json_object"}}
SCHEMA_FORMAT = {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}}
TOOL = {"type": "function", "function": {"name": "count", "parameters": SCHEMA}}


def called(name: str, arguments: str, call_id: str = "call_1") -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    document = completion("", tool_calls=[{"id": call_id, "type": "function", "function": function}])
    document["choices"][0]["finish_reason"] = "tool_calls"
    return document


def ended(text: str, finish: str) -> dict[str, Any]:
    document = completion(text)
    document["choices"][0]["finish_reason"] = finish
    return document


FAULTS = {
    "json": (completion('{"left": 2'), JSON_FORMAT),
    "schema": (completion('{"left": "two"}'), SCHEMA_FORMAT),
    "tool": (called("count", '{"left": "two"}'), {"tools": [TOOL]}),
    "tool unknown": (called("weigh", "{}"), {"tools": [TOOL]}),
    "empty": (completion(""), {}),
    "cut": (ended("Each child gets six apples, and the rest", "length"), {}),
    "refusal": (completion("I'm sorry, but I can't help with that."), {}),
    "loop": (completion("The apples are shared. " * 80), {}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_the_structure_is_escalated(usual, name):
    document, members = FAULTS[name]
    usual.local.script(reply(200, document))
    answer = usual.router.chat(QUESTION, **members)
    assert answer.headers["X-LLR-Verified"] == "escalated structure"
    assert answer.headers["X-LLR-Backend"] == "frontier"
    sql = "SELECT * FROM metrics WHERE request_id = ? AND kind = 'live' ORDER BY id"
    rows = wait_until(
        lambda: (found := usual.router.rows(sql, answer.headers["X-LLR-Request-Id"]))[1:] and found, 10, "rows"
    )
    assert (rows[0]["fault"], rows[0]["verified_reason"]) == (name.split()[0], "structure")


@pytest.mark.parametrize("name", ["json", "tool", "empty", "cut", "refusal"])
def test_a_fault_in_a_stream_is_escalated(usual, name):
    document, members = FAULTS[name]
    usual.local.script(sse(*as_events(document), finish=False))
    answer, text = chat_stream(usual, **members)
    assert (answer.headers["X-LLR-Verified"], text) == ("escalated structure", STRONG)


def as_events(document: dict[str, Any]) -> list[Any]:
    choice = document["choices"][0]
    calls = [{**call, "index": place} for place, call in enumerate(choice["message"].get("tool_calls", ()))]
    more = {"tool_calls": calls} if calls else {}
    return [delta(choice["message"]["content"], **more), delta(finish=choice["finish_reason"]), b"data: [DONE]\n\n"]


def test_a_stream_that_breaks_while_it_is_held_is_escalated(usual):
    usual.local.script(sse("The answer ", RESET, finish=False))
    answer, text = chat_stream(usual)
    assert (answer.headers["X-LLR-Verified"], text) == ("escalated structure", STRONG)
    sql = "SELECT * FROM metrics WHERE request_id = ? AND backend = 'local'"
    (row,) = wait_until(lambda: usual.router.rows(sql, answer.headers["X-LLR-Request-Id"]), 10, "row")
    assert (row["outcome"], row["fault"]) == ("error", "cut")


def test_good_answers_have_no_fault(usual):
    for document, members in (
        (completion('{"left": 2}'), SCHEMA_FORMAT),
        (completion(RIGHT), {}),
    ):
        usual.local.script(reply(200, document))
        usual.twin.script(reply(200, document))
        answer = usual.router.chat(QUESTION, **members)
        assert answer.headers["X-LLR-Verified"] == "kept", document


# --- streams ------------------------------------------------------------------------------------


def test_a_stream_is_released_after_max_hold_ms(stage):
    running = stage(maxHoldMs=600)
    gate = replies.Gate()
    running.local.script(sse("The answer ", "is ", gate, "42."))
    began = time.monotonic()
    with running.router.stream(QUESTION) as stream:
        start = stream.until(b"is ")
        assert 0.5 < time.monotonic() - began < 5
        assert stream.headers["X-LLR-Verified"] == "released"
        gate.open()
        events = parse_events(start + stream.read())
    assert content(events) == RIGHT and events[-1] == "[DONE]"
    assert running.calls[2] == 0
    sql = "SELECT * FROM metrics WHERE kind = 'live'"
    (row,) = wait_until(lambda: running.router.rows(sql), 10, "row")
    assert (row["verified"], row["outcome"], row["fault"]) == ("released", "ok", None)
    assert 500 < row["held_ms"] < 5000


def test_a_stream_is_released_after_max_hold_tokens(stage):
    running = stage(maxHoldTokens=20)
    gate = replies.Gate()
    running.local.script(sse(*(f"word{number} " for number in range(30)), gate, "end"))
    with running.router.stream(QUESTION) as stream:
        start = stream.until(b"word20")
        assert stream.headers["X-LLR-Verified"] == "released"
        gate.open()
        assert content(parse_events(start + stream.read())).endswith("word29 end")


@pytest.mark.parametrize("members", [JSON_FORMAT, {"tools": [TOOL], "tool_choice": "required"}], ids=["json", "tools"])
def test_these_streams_are_held_to_their_end(stage, members):
    running = stage(maxHoldMs=300, maxHoldTokens=5)
    running.local.script(sse('{"left": ', 1.0, "2", *([" "] * 30)))
    answer, text = chat_stream(running, **members)
    assert text.strip() == '{"left": 2' or answer.headers["X-LLR-Verified"] == "escalated structure"
    assert answer.headers["X-LLR-Verified"] == "escalated structure"


def test_a_call_of_a_tool_that_has_begun_is_held_to_its_end(stage):
    running = stage(maxHoldMs=400, maxHoldTokens=5, second=None)
    begin = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "count", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": part}} for part in ('{"le', 'ft": ', "2}")]
    events = [delta(tool_calls=[begin]), *(delta(tool_calls=[piece]) for piece in pieces)]
    running.local.script(sse(*events[:2], 1.0, *events[2:], delta(finish="tool_calls"), finish=False))
    answer, _ = chat_stream(running, tools=[TOOL])
    assert answer.headers["X-LLR-Verified"] == "kept"
    assert b"2}" in answer.body


@pytest.mark.parametrize("ask", [chat_stream, responses_stream])
def test_after_a_heartbeat_the_last_comment_tells_the_verdict(usual, ask):
    usual.disagree()
    usual.frontier.delay_s = 11.0
    try:
        answer, text = ask(usual)
    finally:
        usual.frontier.delay_s = 0.0
    assert text == STRONG
    assert answer.headers["X-LLR-Verified"] is None
    assert answer.headers["X-LLR-Backend"] == "local"
    comments = [line for line in answer.body.split(b"\n") if line.startswith(b":")]
    assert comments[-1] == b": llr verified=escalated reason=agreement backend=frontier"
    assert len(comments) > 1 and answer.body.startswith(b":")


# --- what goes wrong ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "play",
    [error(500), error(400, "no"), replies.rate_limited(), error(401), [RESET], replies.html()],
    ids=["500", "400", "429", "401", "reset", "html"],
)
@pytest.mark.parametrize("ask", [chat, chat_stream])
def test_the_first_answer_is_kept_when_the_stronger_target_has_none(stage, ask, play):
    running = stage()
    running.disagree()
    running.frontier.script(play, repeat=True)
    answer, text = ask(running)
    assert (text, answer.headers["X-LLR-Verified"]) == (RIGHT, "kept")
    rows = running.rows(answer, 3)
    assert (rows["local"]["verified"], rows["local"]["verified_reason"]) == ("kept", "agreement")
    assert (rows["frontier"]["reason"], rows["frontier"]["outcome"]) == ("escalated", "error")


def test_a_fault_is_sent_when_the_stronger_target_is_down(usual):
    usual.frontier.script(error(503))
    usual.local.script(reply(200, completion("")))
    answer, text = chat(usual, headers={"X-LLR-Explain": "1"})
    assert (text, answer.headers["X-LLR-Verified"]) == ("", "kept")
    assert "does not hold: structure (empty)" in answer.headers["X-LLR-Trace"]
    assert "kept: no stronger target answers" in answer.headers["X-LLR-Trace"]


def test_a_stronger_target_without_a_free_place_is_not_waited_for(tmp_path):
    running = Stage(tmp_path / "router", maxHoldMs=500)
    running.backends["frontier"] = {"maxConcurrency": 1}
    with running:
        running.disagree()
        gate = replies.Gate()
        running.frontier.script([gate, *reply(200, completion(STRONG))])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            busy = pool.submit(running.router.chat, "x", model="frontier")
            assert gate.reached.wait(10)
            answer, text = chat(running)
            assert (text, answer.headers["X-LLR-Verified"]) == (RIGHT, "kept")
            gate.open()
            assert busy.result().status == 200


def test_a_fallback_is_not_judged(usual):
    usual.local.script(error(503))
    answer, text = chat(usual)
    assert (text, answer.headers["X-LLR-Backend"]) == (STRONG, "frontier")
    assert answer.headers["X-LLR-Verified"] is None
    assert answer.headers["X-LLR-Fallback-For"] == "local"


@pytest.mark.parametrize("play", [error(500), [HANG]], ids=["down", "slow"])
def test_an_answer_is_judged_without_an_opinion_that_does_not_come(stage, play):
    running = stage(maxHoldMs=800)
    running.twin.script(play, repeat=True)
    answer, text = chat(running, headers={"X-LLR-Explain": "1"})
    assert (text, answer.headers["X-LLR-Verified"]) == (RIGHT, "kept")
    told = "verify: twin gives no second opinion: http_500" in answer.headers["X-LLR-Trace"]
    assert told or play == [HANG]
    rows = running.rows(answer, 2)
    assert rows["local"]["agreement"] is None
    assert rows["twin"]["outcome"] == ("cancelled" if play == [HANG] else "error")


def test_a_second_opinion_needs_a_free_place(tmp_path):
    """One place for both calls: the opinion comes after the first answer."""
    running = Stage(tmp_path / "router", second=None, samples=2)
    running.backends["local"] = {"maxConcurrency": 1}
    with running:
        running.local.script(reply(200, completion(RIGHT)), reply(200, completion(WRONG)))
        answer, text = chat(running)
        assert (text, answer.headers["X-LLR-Verified"]) == (STRONG, "escalated agreement")
        first, second = running.local.chats
        assert first.finished_at <= second.received_at


def test_the_place_is_free_before_the_judgement(tmp_path):
    """The answer is held for its second opinion, while another request gets the place of the first call."""
    running = Stage(tmp_path / "router", maxHoldMs=15000)
    running.backends["local"] = {"maxConcurrency": 1}
    with running:
        gate = replies.Gate()
        running.twin.script([gate, *reply(200, completion(RIGHT))])
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            held = pool.submit(chat, running)
            assert gate.reached.wait(10)
            wait_until(lambda: running.local.answered, 10, "the first answer")
            assert running.router.chat("hi", model="local").status == 200
            gate.open()
            assert held.result()[1] == RIGHT


# --- disconnects --------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("where", ["local", "twin", "frontier"])
def test_a_disconnect_ends_all_calls(stage, stream, where):
    running = stage(maxHoldMs=60000)
    running.disagree()
    gate = replies.Gate()
    server = getattr(running, where)
    server.script([gate, HANG])
    if where == "local":
        running.twin.script([HANG])
    sock = running.router.raw()
    body = json.dumps(chat_body(QUESTION, stream=stream)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
    sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    assert gate.reached.wait(10)
    sock.close()
    gate.open()
    wait_until(lambda: server.chats and server.chats[-1].closed_at, 3, "the end of the call")
    if where == "local":
        wait_until(lambda: running.twin.chats and running.twin.chats[-1].closed_at, 3, "the end of the opinion")
    count = 2 if where != "frontier" else 3
    rows = wait_until(lambda: (found := running.router.rows())[count - 1 :] and found, 5, "rows")
    assert {row["backend"]: row["outcome"] for row in rows}[where] == "cancelled"
    assert {row["backend"]: row["outcome"] for row in rows}["local"] == "cancelled"
    assert len(rows) == count


# --- who is never escalated ---------------------------------------------------------------------


@pytest.mark.parametrize("ask", [chat, chat_stream])
def test_a_private_request_is_only_observed(usual, ask):
    usual.local.script(*([reply(200, completion(""))] if ask is chat else [sse("")]))
    answer, text = ask(usual, headers={"X-LLR-Sensitivity": "high"})
    assert text == "" and answer.headers["X-LLR-Verified"] is None
    assert usual.calls == (1, 0, 0)
    row = usual.rows(answer, 1)["local"]
    assert (row["verified"], row["fault"], row["doubt"]) == ("observed", "empty", None)


@pytest.mark.parametrize(
    ("members", "headers"),
    [({}, {"X-LLR-Purpose": "background"}), ({"model": "local"}, {}), ({"model": "local/m"}, {})],
    ids=["background", "pin", "model"],
)
def test_these_requests_are_not_judged(usual, members, headers):
    usual.local.script(reply(200, completion("")))
    answer, text = chat(usual, headers=headers, **members)
    assert text == "" and answer.headers["X-LLR-Verified"] is None
    assert usual.calls == (1, 0, 0)
    assert usual.rows(answer, 1)["local"]["verified"] is None


# --- the share ----------------------------------------------------------------------------------


def test_the_daily_share_holds_over_workers_and_after_a_restart(stage):
    running = stage(dailyShare=0.5, second=None, by="structure")
    running.local.text = ""
    running.frontier.text = STRONG
    verdicts = [ask_one(running) for _ in range(30)]
    assert verdicts[:19] == ["escalated structure"] * 19
    assert verdicts.count("escalated structure") == 19, verdicts
    wait_until(lambda: len(escalations(running)) >= verdicts.count("escalated structure"), 10, "rows")
    wait_until(lambda: ask_one(running) == "none", 10, "all workers know of the escalations")
    running.router.terminate()
    running.router.start()
    assert ask_one(running) in ("none", "kept")
    requests = wait_until(lambda: running.router.rows("SELECT * FROM metrics WHERE policy IS NOT NULL"), 5, "rows")
    assert len(escalations(running)) <= max(20, 0.5 * len(requests) + 2)


def ask_one(running: Stage) -> str:
    return running.router.chat(QUESTION).headers["X-LLR-Verified"] or "none"


def escalations(running: Stage) -> list[dict[str, Any]]:
    return running.router.rows("SELECT * FROM metrics WHERE reason = 'escalated'")


# --- tool loops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True], ids=["chat", "own API"])
@pytest.mark.parametrize("stream", [False, True])
def test_an_escalated_tool_loop_stays_with_the_stronger_target(tmp_path, native, stream):
    running = Stage(tmp_path / "router", second=None, workers=2)
    if native:
        running.frontier = Upstream(models=["big"], loaded=["big"], native=True, text=STRONG)
        running.backends["frontier"] = {"type": "ollama", "api": "native", "apiKeyEnv": "", "models": ["big"]}
    with running:
        if native:
            running.router.write_policy(native_frontier(running))
            running.router.sighup()
        running.local.text = ""
        document = called("count", '{"left": 2}')
        running.frontier.script(sse(*as_events(document), finish=False) if stream else reply(200, document))
        messages = chat_body(QUESTION)["messages"]
        first = running.router.post("/v1/chat/completions", tool_body(messages, stream))
        assert first.headers["X-LLR-Verified"] == "escalated structure"
        message = answered(first, stream)
        messages += [message, {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "2"}]
        for _ in range(8):  # both workers get some of them
            again = running.router.post("/v1/chat/completions", tool_body(messages, stream))
            assert again.headers["X-LLR-Backend"] == "frontier"
            assert again.headers["X-LLR-Verified"] is None
        rows = wait_until(lambda: (found := escalations(running))[8:] and found, 10, "rows")
        assert {row["fallback_for"] for row in rows} == {None}
        messages += [{"role": "assistant", "content": "2"}, {"role": "user", "content": QUESTION}]
        running.local.text = RIGHT
        after = running.router.post("/v1/chat/completions", tool_body(messages, stream))
        assert (after.headers["X-LLR-Backend"], after.headers["X-LLR-Verified"]) == ("local", "kept")
        other = [{"role": "user", "content": "Another question"}, *messages[1:3]]
        assert running.router.post("/v1/chat/completions", tool_body(other, stream)).headers["X-LLR-Backend"] == "local"


def test_a_tool_loop_of_the_responses_api_stays_too(stage):
    running = stage(second=None)
    running.local.text = ""
    running.frontier.script(reply(200, called("count", '{"left": 2}')))
    tool = {"type": "function", "name": "count", "parameters": SCHEMA}
    first = running.router.post("/v1/responses", {"input": QUESTION, "tools": [tool]})
    assert first.headers["X-LLR-Verified"] == "escalated structure"
    (call,) = [item for item in first.json["output"] if item["type"] == "function_call"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "2"}
    history = [{"role": "user", "content": QUESTION}, call, result]
    goes_on = {"previous_response_id": first.json["id"], "input": [result]}
    for _ in range(4):
        for body in ({"input": history}, goes_on):
            again = running.router.post("/v1/responses", {**body, "tools": [tool]})
            assert (again.status, again.headers["X-LLR-Backend"]) == (200, "frontier"), again.body


def native_frontier(running: Stage) -> dict[str, Any]:
    policy = running.policy()
    local = {name: value for name, value in policy["backends"]["local"].items() if name != "endpoint"}
    policy["backends"]["frontier"] = {**local, "api": "native", "models": ["big"], "endpoint": running.frontier.url}
    return policy


def tool_body(messages: list[dict[str, Any]], stream: bool) -> dict[str, Any]:
    return {"model": "auto", "messages": messages, "tools": [TOOL], "stream": stream}


def answered(answer: Answer, stream: bool) -> dict[str, Any]:
    if not stream:
        return answer.json["choices"][0]["message"]
    calls: dict[int, dict[str, Any]] = {}
    for one in answer.events:
        for call in (
            (one["choices"][0]["delta"].get("tool_calls") or ()) if isinstance(one, dict) and one["choices"] else ()
        ):
            known = calls.setdefault(
                call["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
            )
            known["id"] = known["id"] or call.get("id") or ""
            for name in ("name", "arguments"):
                known["function"][name] += call["function"].get(name) or ""
    return {"role": "assistant", "content": None, "tool_calls": list(calls.values())}


# --- the life of the router ---------------------------------------------------------------------


def test_a_reload_changes_the_rules(stage):
    running = stage()
    running.disagree()
    assert chat(running)[0].headers["X-LLR-Verified"] == "escalated agreement"
    running.router.write_policy(running.policy(doubt=0.9))
    running.router.sighup()
    wait_until(lambda: chat(running)[0].headers["X-LLR-Verified"] == "kept", 10, "the new policy")
    plain = running.policy()
    del plain["routes"][0]["verify"]
    running.router.write_policy(plain)
    running.router.sighup()
    wait_until(lambda: chat(running)[0].headers["X-LLR-Verified"] is None, 10, "a policy without verify")


def test_a_killed_worker_takes_no_place_with_it(tmp_path):
    running = Stage(tmp_path / "router", workers=1, maxHoldMs=60000)
    running.backends["twin"] = {"maxConcurrency": 1}
    with running:
        gate = replies.Gate()
        running.twin.script([gate, HANG])
        sock = running.router.raw()
        body = json.dumps(chat_body(QUESTION)).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        sock.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert gate.reached.wait(10)
        (pid,) = running.router.worker_pids()
        os.kill(pid, signal.SIGKILL)
        assert sock.recv(100) == b""
        sock.close()
        wait_until(lambda: running.router.worker_pids() not in ([], [pid]), 10, "a new worker")
        wait_until(running.router.answers, 10, "the new worker")
        running.knows_facts()
        answer, _ = chat(running)
        assert answer.headers["X-LLR-Verified"] == "kept"
        assert running.rows(answer, 2)["local"]["agreement"] == 1

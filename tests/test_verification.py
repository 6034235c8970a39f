"""The flow of a judged answer over fake backends: one reply, one record a call, and every way to end."""

from __future__ import annotations

import dataclasses
import json
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from app.errors import BackendServerError, ClientGone, StreamInterrupted
from app.tool_loops import ToolLoops
from app.types import Buffered, Classification, Decision, Plan, Reply, Streamed, Target, Verification, VerificationPlan
from app.verification import verified_reply
from app.web import headers
from tests import build
from tests.fakes.backends import FakeStream, Stage, whole

QUESTION = "How many apples are left when 50 apples are shared by 8 children?"
TAGS = Classification("general", "low", "normal", "text", "any", 10, difficulty=0.1)
RIGHT, WRONG, STRONG = "The answer is 42.", "The answer is 17.", "The answer is 44."


def events(*texts: str, finish: str = "stop") -> list[bytes]:
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return [f"data: {json.dumps(chunk)}\n\n".encode() for chunk in chunks] + [b"data: [DONE]\n\n"]


class Judged:
    """Services over fake backends, with the parts that a verification needs."""

    def __init__(self, *, may_escalate: bool = True, **answers: Any) -> None:
        given = {"local": whole(RIGHT), "twin": whole(RIGHT), "frontier": whole(STRONG), **answers}
        self.stage = Stage({name: [answer] for name, answer in given.items()}, local=frozenset({"local", "twin"}))
        self.shares: list[tuple[str, ...]] = []
        services = self.stage.services
        services.tool_loops = ToolLoops()
        beliefs = services.beliefs
        beliefs.begin_verification = lambda *names: self.shares.append(("begun", *names))
        beliefs.claim_escalation = lambda *names: self.shares.append(("claimed", *names)) or may_escalate
        beliefs.withdraw_escalation = lambda *names: self.shares.append(("withdrawn", *names))
        self.shown: list[Reply] = []

    def ask(self, *, holds: bool = True, stream: bool = False, private: bool = False, **rules: Any) -> Reply:
        targets = (Target("local", "m"), Target("frontier", "big"))
        verification = VerificationPlan(
            rules=Verification(**{"second": "twin", "doubt": 0.3, **rules}),
            holds=holds,
            escalation=targets[1:],
            second=Target("twin", "m") if holds else None,
        )
        decision = Decision(
            route="r", targets=targets, trace=(), primary="local", private=private, verification=verification
        )
        body = {"messages": [{"role": "user", "content": QUESTION}], "stream": stream}
        return verified_reply(Plan(build.request(body), TAGS, decision), self.stage.services, self.shown.append)

    def rows(self) -> dict[str, SimpleNamespace]:
        assert self.stage.in_flight == 0
        return {call.target.backend if hasattr(call, "target") else call.backend: call for call in self.stage.records}


def text_of(reply: Reply) -> bytes:
    return reply.body if isinstance(reply, Buffered) else b"".join(reply.chunks)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("opinion", "verified", "backend"),
    [(RIGHT, "kept", "local"), (WRONG, "escalated agreement", "frontier")],
)
def test_one_answer_and_a_record_for_each_call(stream, opinion, verified, backend):
    make = (lambda text: FakeStream(*events(text))) if stream else whole
    judged = Judged(local=make(RIGHT), twin=whole(opinion), frontier=make(STRONG))
    reply = judged.ask(stream=stream)
    assert (reply.target.backend, headers.verified(reply)) == (backend, verified)
    expected = RIGHT if backend == "local" else STRONG
    assert expected.encode() in text_of(reply)
    rows = judged.rows()
    assert {name: row.kind for name, row in rows.items()} == {"local": "live", "twin": "verify"} | (
        {"frontier": "live"} if backend == "frontier" else {}
    )
    assert judged.shown[0].target.backend == "local"


def test_a_held_stream_is_sent_byte_for_byte():
    pieces = events("The ", "answer ", "is 42.")
    judged = Judged(local=FakeStream(*pieces))
    reply = judged.ask(stream=True)
    assert isinstance(reply, Streamed)
    assert list(reply.chunks) == pieces


def test_a_stream_that_is_too_long_is_released():
    pieces = events(*["word "] * 50)
    judged = Judged(local=FakeStream(*pieces))
    reply = judged.ask(stream=True, max_hold_tokens=10)
    assert headers.verified(reply) == "released"
    assert judged.stage.in_flight == 1
    assert text_of(reply) == b"".join(pieces)
    row = judged.rows()["local"]
    assert (row.verified, row.outcome) == ("released", "ok")
    assert "twin" not in judged.rows()


def test_a_broken_answer_is_sent_as_it_broke_when_no_other_target_answers():
    broken = StreamInterrupted("x", kind="reset")
    judged = Judged(local=FakeStream(*events("The ")[:1], broken), frontier=BackendServerError("down", kind="http_500"))
    reply = judged.ask(stream=True)
    assert isinstance(reply, Streamed)
    assert b"The " in next(reply.chunks)
    with pytest.raises(StreamInterrupted):
        next(reply.chunks)
    assert reply.chunks.failure == "reset"
    row = judged.rows()["local"]
    assert (row.verified, row.outcome, row.error, row.fault) == ("kept", "error", "reset", "cut")


def test_a_share_that_is_used_up_keeps_the_answer():
    judged = Judged(may_escalate=False, twin=whole(WRONG))
    reply = judged.ask()
    assert headers.verified(reply) == "kept"
    assert "frontier" not in judged.rows()
    assert judged.rows()["local"].verified_reason == "agreement"
    assert reply.trace[-1].outcome == "it is kept: the dailyShare of the route is used up"


def test_a_failed_escalation_is_withdrawn():
    judged = Judged(twin=whole(WRONG), frontier=BackendServerError("down", kind="http_500"))
    assert headers.verified(judged.ask()) == "kept"
    assert [name for name, *_ in judged.shares] == ["begun", "claimed", "withdrawn"]


def test_a_stronger_target_with_an_open_circuit_is_not_called():
    judged = Judged(twin=whole(WRONG), frontier=BackendServerError("down", kind="http_500"))
    for _ in range(5):
        assert headers.verified(judged.ask()) == "kept"
    assert judged.stage.called.count("frontier") == 3


def test_an_observed_answer_is_sent_at_once_and_has_its_fault_in_the_record():
    pieces = events("")
    for answer, stream in ((whole(""), False), (FakeStream(*pieces), True)):
        judged = Judged(local=answer)
        reply = judged.ask(holds=False, stream=stream, private=True)
        assert headers.verified(reply) == ""
        assert text_of(reply) == (b"".join(pieces) if stream else answer.body)
        row = judged.rows()["local"]
        assert (row.verified, row.fault, row.doubt) == ("observed", "empty", None)
        assert judged.stage.called == ["local"]


@pytest.mark.parametrize("where", ["local", "twin", "frontier"])
def test_a_disconnect_ends_every_call(where):
    def wait() -> Any:
        gevent.sleep(30)

    judged = Judged(**{"twin": whole(WRONG), where: wait})
    asking = gevent.spawn(judged.ask)
    gevent.sleep(0.02)
    asking.kill(ClientGone)
    gevent.sleep(0.02)
    rows = judged.rows()
    assert rows["local"].outcome == "cancelled" and rows[where].outcome == "cancelled"


def test_the_place_of_the_first_call_is_free_while_its_answer_is_held():
    def wait() -> Any:
        gevent.sleep(30)

    judged = Judged(local=whole("The answer is 42."), twin=wait)
    asking = gevent.spawn(judged.ask)
    gevent.sleep(0.02)
    assert judged.stage.places.in_flight("local") == 0 and judged.stage.places.in_flight("twin") == 1
    asking.kill(ClientGone)
    gevent.sleep(0.02)
    assert judged.stage.in_flight == 0


def test_members_of_a_pool_are_tried_one_after_the_other():
    judged = Judged(twin=whole(WRONG), frontier=BackendServerError("down", kind="http_500"), reserve=whole(STRONG))
    stronger = (Target("frontier", "big", pool="paid"), Target("reserve", "big", pool="paid"))
    plan = VerificationPlan(
        rules=Verification(second="twin", doubt=0.3), holds=True, escalation=stronger, second=Target("twin", "m")
    )
    decision = Decision(
        route="r", targets=(Target("local", "m"), *stronger), trace=(), primary="local", verification=plan
    )
    request = build.request(QUESTION)
    reply = verified_reply(Plan(request, TAGS, decision), judged.stage.services)
    assert (reply.target.backend, reply.target.pool) == ("reserve", "paid")
    assert headers.verified(reply) == "escalated agreement"


def test_a_fallback_is_not_judged():
    judged = Judged(local=BackendServerError("down", kind="http_500"))
    reply = judged.ask()
    assert (reply.target.backend, reply.fallback_for, headers.verified(reply)) == ("frontier", "local", "")
    assert judged.rows()["frontier"].verified is None


def test_tool_calls_of_an_escalated_answer_are_remembered():
    call = {"id": "call_1", "type": "function", "function": {"name": "count", "arguments": "{}"}}
    document = {"choices": [{"message": {"role": "assistant", "content": None, "tool_calls": [call]}}]}
    answer = whole("")
    strong = type(answer)(json.dumps(document).encode(), document)
    judged = Judged(local=whole(""), frontier=strong)
    judged.ask()
    messages = [{"role": "user", "content": QUESTION}, document["choices"][0]["message"]]
    messages.append({"role": "tool", "tool_call_id": "call_1", "content": "2"})
    again = build.request({"messages": messages})
    assert judged.stage.services.tool_loops.mark(again) == dataclasses.replace(again, escalated=True)

"""A request with other members than the client's: the rest of its bytes stays the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.types import Body, ChatRequest, Dialect, Wire
from app.wire import translator
from app.wire.chat import request as chat
from app.wire.chat.members import WithMembers, with_members, without_members
from app.wire.json_body import read_object
from app.wire.messages import request as messages
from app.wire.messages.body import MessagesBody
from app.wire.opinion import opinion_of
from app.wire.responses.body import ResponsesBody
from tests.wire.streams import request as responses_request

DIALECTS = [
    Dialect(),
    Dialect(max_tokens_only=True, system_first=True, reasoning_field="reasoning"),
    Dialect(max_tokens_field="max_completion_tokens", developer_role=True, verbosity=True, reasoning_field=""),
]
HELLO = '"messages": [ {"role": "user", "content": "hello ü \\ud83d\\ude00"} ]'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def chat_body(members: str) -> chat.ChatBody:
    return chat.parse(members.encode())


@pytest.mark.parametrize(
    ("sent", "members", "expected"),
    [
        ("{H}", {"logprobs": True}, '"logprobs":true,"model":"m",H'),
        ('{"model": "x", H}', {"logprobs": True}, '"logprobs":true,"model": "m", H'),
        ('{"model": "x", "seed" : 7 , H}', {"seed": 8}, '"model": "m", "seed" : 8 , H'),
        ('{"model": "x", H, "n": 3}', {"n": 1, "store": False}, '"store":false,"model": "m", H, "n": 1'),
        ('{"seed": 1, "model": "x", H, "seed": 2}', {"seed": 8}, '"seed": 8, "model": "m", H, "seed": 8'),
        ('{"Top_P": 0, "model": "x", H}', {"top_p": 1}, '"top_p":1,"Top_P": 1, "model": "m", H'),
        ('{ "model": "x", H}', {"logprobs": True}, '"logprobs":true, "model": "m", H'),
        (
            '{"model": "x", H, "big": 1e400, "long": 12345678901234567890.10}',
            {"logprobs": True},
            '"logprobs":true,"model": "m", H, "big": 1e400, "long": 12345678901234567890.10',
        ),
        ('{"model": "x", H, "logprobs": null}', {"logprobs": True}, '"model": "m", H, "logprobs": true'),
        ('{"model": "x", "stream": true, H}', {}, '"model": "m", "stream": false, H'),
    ],
)
def test_over_chat(sent: str, members: dict[str, Any], expected: str) -> None:
    sent, expected = sent.replace("H", HELLO), f"{{{expected}}}".replace("H", HELLO)
    for before, after in (("", ""), (" ", "\n")):
        body = WithMembers(chat_body(before + sent + after), members)
        assert body.encode("m", Dialect(), stream=False).decode() == before + expected + after
    assert json.loads(expected).items() >= members.items()
    assert body.chat == {**chat_body(sent).chat, **members}
    assert body.wire is Wire.CHAT
    assert body.original == chat_body(sent).original


def messages_body(**members: Any) -> MessagesBody:
    turns = [{"role": "user", "content": "hello"}]
    received = read_object(json.dumps({"model": "x", "max_tokens": 9, "messages": turns, **members}).encode())
    return MessagesBody(messages.parse(received.document), received)


BODIES: dict[str, Body] = {
    "chat": chat_body(f'{{"model": "x", {HELLO}, "temperature": 0, "max_tokens": 9, "options": {{"top_k": 3}}}}'),
    "developer": chat_body('{"messages": [{"role": "user", "content": "a"}, {"role": "developer", "content": "b"}]}'),
    "tools": chat_body(json.dumps({"messages": [{"role": "user", "content": "a"}], "tools": [TOOL], "seed": 5})),
    "messages": messages_body(system="be brief", temperature=0.3),
    "messages with tools": messages_body(tools=[{"name": "f", "input_schema": {"type": "object"}}], stream=True),
    "responses": ResponsesBody(responses_request(instructions="be brief", temperature=0.1, max_output_tokens=20)),
    "responses with a schema": ResponsesBody(
        responses_request(text={"format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}}})
    ),
    "responses with tools": ResponsesBody(
        responses_request(tools=[{"type": "function", "name": "f", "parameters": {}}], reasoning={"effort": "low"})
    ),
}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("backend", [Wire.CHAT, Wire.OLLAMA])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_all_that_backends_get_beside_the_members_stays_the_same(
    name: str, stream: bool, backend: Wire, dialect: Dialect
) -> None:
    """In every form of clients and backends."""
    body, members = BODIES[name], {"logprobs": True, "seed": 11}
    for wire in {body.wire, Wire.CHAT}:
        sent = WithMembers(body, members, wire)
        before = json.loads(translator(body.wire, backend).request(body, "m", dialect, stream=stream))
        after = json.loads(translator(wire, backend).request(sent, "m", dialect, stream=stream))
        place = after.setdefault("options", {}) if backend is Wire.OLLAMA else after
        assert (after["logprobs"], place["seed"]) == (True, 11)
        first = before.setdefault("options", {}) if backend is Wire.OLLAMA else before
        for document, values in ((before, first), (after, place)):
            document.pop("logprobs", None)
            values.pop("seed", None)
        assert after == before


@pytest.mark.parametrize("name", BODIES)
def test_members_are_taken_out_again(name: str) -> None:
    raw = BODIES[name].encode("m", Dialect(), stream=True)
    members = {"logprobs": True, "top_logprobs": 1}
    assert without_members(with_members(raw, members, BODIES[name].chat), members) == raw


def request(body: Body, **fields: Any) -> ChatRequest:
    return ChatRequest(request_id="r", surface="chat", body=body, model="", stream=True, **fields)


def opinion_body(members: dict[str, Any], *, sample: bool) -> dict[str, Any]:
    body = chat.parse(json.dumps({"messages": [{"role": "user", "content": "a"}], **members}).encode())
    opinion = opinion_of(request(body), sample=sample)
    assert not opinion.stream
    return dict(json.loads(opinion.body.encode("m", Dialect(), stream=False)))


@pytest.mark.parametrize(
    ("members", "sampled"),
    [
        ({}, {"temperature": 0.7, "seed": 1}),
        ({"temperature": 0}, {"temperature": 0.6, "seed": 1}),
        ({"temperature": 0.6, "seed": 41}, {"temperature": 0.6, "seed": 42}),
        ({"temperature": 1.3, "seed": -1}, {"temperature": 1.3, "seed": 0}),
        ({"temperature": None, "seed": None}, {"temperature": 0.7, "seed": 1}),
        ({"seed": 2**31 - 2}, {"temperature": 0.7, "seed": 0}),
        ({"seed": 2**80}, {"temperature": 0.7, "seed": (2**80 + 1) % (2**31 - 1)}),
        ({"temperature": "hot", "seed": "x"}, {"temperature": 0.7, "seed": 1}),
        ({"temperature": True, "seed": False}, {"temperature": 0.7, "seed": 1}),
        ({"top_p": 0.1, "top_k": 1}, {"temperature": 0.7, "seed": 1, "top_p": 0.9, "top_k": 20}),
        ({"top_p": 1, "top_k": 40}, {"temperature": 0.7, "seed": 1, "top_p": 1, "top_k": 40}),
        ({"top_k": -1}, {"temperature": 0.7, "seed": 1, "top_k": -1}),
    ],
)
def test_a_sample_can_differ_from_the_first_answer(members: dict[str, Any], sampled: dict[str, Any]) -> None:
    names = ("temperature", "seed", "top_p", "top_k")
    sample = opinion_body(members, sample=True)
    assert {name: sample[name] for name in names if name in sample} == sampled
    assert sampled["seed"] != members.get("seed")
    other = opinion_body(members, sample=False)  # of another model, with the client's values
    assert {name: other[name] for name in names if name in other} == members


@pytest.mark.parametrize("sample", [True, False])
def test_an_opinion_is_one_whole_reply_that_is_not_stored(sample: bool) -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "n": 4, "store": True, "tools": [TOOL]}
    body = opinion_body(options, sample=sample)
    assert (body["stream"], body["stream_options"], body["n"], body["store"]) == (False, None, 1, False)
    assert body["tools"] == [TOOL]  # a client runs them, and it does not get this answer
    assert body["messages"] == [{"role": "user", "content": "a"}]
    plain = opinion_body({}, sample=sample)
    assert not {"n", "store", "stream", "logprobs"} & plain.keys()


def test_an_opinion_on_a_request_of_the_messages_api_is_a_chat() -> None:
    body = messages_body(system="be brief", stream=True, temperature=0.1)
    opinion = opinion_of(request(body), sample=True)
    sent = json.loads(opinion.body.encode("m", Dialect(), stream=False))
    assert (opinion.wire, opinion.stream, "stream" in sent) == (Wire.CHAT, False, False)
    assert sent["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert (sent["temperature"], sent["seed"], sent["max_tokens"]) == (0.6, 1, 9)


def test_an_opinion_on_a_request_of_the_responses_api_is_a_chat() -> None:
    """Over the Responses API a server would run tools of its own, and store the response."""
    body = ResponsesBody(responses_request(stream=True, store=True, instructions="be brief", temperature=0.2))
    first = request(body, wants_logprobs=True)
    opinion = opinion_of(first, sample=True)
    assert (first.wire, opinion.wire, opinion.wants_logprobs) == (Wire.RESPONSES, Wire.CHAT, False)
    sent = json.loads(opinion.body.encode("m", Dialect(), stream=False))
    assert sent["messages"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]
    assert (sent["temperature"], sent["seed"], "store" in sent, "stream" in sent) == (0.6, 1, False, False)

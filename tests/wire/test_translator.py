"""The table of wire forms: who is translated to whom, and what passes on unchanged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import StreamInterrupted
from app.types import Body, Dialect, JsonDict, Wire
from app.wire import TRANSLATORS, WIRES, sse, translator
from app.wire.chat import request as chat
from app.wire.json_body import read_object
from app.wire.responses.body import ResponsesBody
from app.wire.responses.request import parse
from app.wire.translator import ReplyContext, ThroughChat

CLIENTS = (Wire.CHAT, Wire.RESPONSES)
COMPLETION = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}]}
RESPONSE = {"id": "resp_theirs", "object": "response", "status": "completed", "output": []}
OLLAMA = {"model": "m", "message": {"role": "assistant", "content": "hi"}, "done": True, "done_reason": "stop"}


def body_of(wire: Wire) -> Body:
    if wire is Wire.CHAT:
        return chat.of_text("hello")
    received = read_object(b'{"model": "auto", "input": "hello"}')
    return ResponsesBody(parse(received.document), received=received)


def context(wire: Wire, kept: list[JsonDict] | None = None, **members: Any) -> ReplyContext:
    return ReplyContext(
        body=body_of(wire),
        model="m",
        new_id=lambda prefix: f"{prefix}_1",
        clock=lambda: 1000.0,
        reply_id="resp_ours",
        keep=[].append if kept is None else kept.append,
        **members,
    )


def broken(*pieces: bytes, error_visible: bool = False) -> Iterator[bytes]:
    yield from pieces
    raise StreamInterrupted("the backend's stream broke", error_visible=error_visible)


def test_every_form_is_read() -> None:
    assert set(WIRES) == set(Wire)


@pytest.mark.parametrize("backend", [Wire.CHAT, Wire.OLLAMA])  # who speaks it speaks chat too
@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_reaches_every_backend(client: Wire, backend: Wire) -> None:
    sent = json.loads(translator(client, backend).request(body_of(client), "m", Dialect(), stream=False))
    assert sent["model"] == "m" and "hello" in json.dumps(sent)
    if client is backend or Wire.CHAT in (client, backend):
        assert (client, backend) in TRANSLATORS


@pytest.mark.parametrize(("wire", "document"), [(Wire.CHAT, COMPLETION), (Wire.RESPONSES, RESPONSE)])
def test_equal_forms_pass_bytes_on(wire: Wire, document: JsonDict) -> None:
    kept: list[JsonDict] = []
    body = json.dumps(document, indent=3).encode()
    assert translator(wire, wire).reply(body, document, context(wire, kept)) is body
    assert kept == ([document] if wire is Wire.RESPONSES else [])


@pytest.mark.parametrize("stored", [True, False])
def test_a_reply_says_whether_it_is_kept(stored: bool) -> None:
    raw = translator(Wire.RESPONSES, Wire.CHAT).reply(b"", COMPLETION, context(Wire.RESPONSES, stored=stored))
    response = json.loads(raw)
    assert (response["id"], response["output_text"], response["store"]) == ("resp_ours", "hi", stored)


def test_a_reply_is_kept_before_it_is_written() -> None:
    def keep(response: JsonDict) -> None:
        response["store"] = False  # it could not be

    given = context(Wire.RESPONSES)
    given = ReplyContext(body=given.body, model="m", new_id=given.new_id, clock=given.clock, keep=keep)
    responses = translator(Wire.RESPONSES, Wire.CHAT)
    assert json.loads(responses.reply(b"", COMPLETION, given))["store"] is False
    assert b'"store":false' in b"".join(responses.reply_as_stream(COMPLETION, given))


def test_whose_a_response_is_known_with_its_first_event() -> None:
    kept: list[JsonDict] = []
    created = sse.event({"type": "response.created", "response": RESPONSE}, "response.created")
    delta = sse.event({"type": "response.output_text.delta", "delta": "x", "response": RESPONSE})
    completed = sse.event({"type": "response.completed", "response": RESPONSE}, "response.completed")
    stream = translator(Wire.RESPONSES, Wire.RESPONSES).stream(
        [created, delta, completed], context(Wire.RESPONSES, kept)
    )
    assert next(stream) == created and kept == [RESPONSE]
    assert [*stream] == [delta, completed] and kept == [RESPONSE, RESPONSE]


CHUNK = sse.event({"choices": [{"index": 0, "delta": {"content": "a"}}]})
DELTA = sse.event({"type": "response.output_text.delta", "delta": "a"})
LINE = b'{"message": {"content": "a"}, "done": false}\n'


@pytest.mark.parametrize(
    ("client", "backend", "piece"),
    [
        (Wire.CHAT, Wire.CHAT, CHUNK),
        (Wire.CHAT, Wire.OLLAMA, LINE),
        (Wire.RESPONSES, Wire.CHAT, CHUNK),
        (Wire.RESPONSES, Wire.RESPONSES, DELTA),
        (Wire.RESPONSES, Wire.OLLAMA, LINE),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error_of_the_clients_form(client: Wire, backend: Wire, piece: bytes) -> None:
    events = b"".join(translator(client, backend).stream(broken(piece), context(client)))
    *_, last = [
        document for event in sse.Splitter().feed(events) if (document := sse.json_of(sse.data_of(event) or b""))
    ]
    if client is Wire.CHAT:
        assert last["error"]["message"] == "the backend's stream broke"
    else:
        assert last["type"] == "response.failed"
        assert last["response"]["error"]["message"] == "the backend's stream broke"


def test_an_error_that_a_client_saw_is_not_repeated() -> None:
    for wire in CLIENTS:
        assert [*translator(wire, wire).stream(broken(b": x\n\n", error_visible=True), context(wire))] == [b": x\n\n"]


def test_chat_stands_between_forms_that_know_nothing_of_each_other() -> None:
    between = translator(Wire.RESPONSES, Wire.OLLAMA)
    assert isinstance(between, ThroughChat)
    response = json.loads(between.reply(json.dumps(OLLAMA).encode(), OLLAMA, context(Wire.RESPONSES)))
    assert (response["output_text"], response["status"]) == ("hi", "completed")
    for events in (
        between.stream([json.dumps(OLLAMA).encode() + b"\n"], context(Wire.RESPONSES)),
        between.reply_as_stream(OLLAMA, context(Wire.RESPONSES)),
    ):
        assert b'"text":"hi"' in b"".join(events)

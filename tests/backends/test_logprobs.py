"""Servers are asked for log-probabilities, and clients get the bytes that they would have got without them."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.backends.reply import Stream, Whole
from app.errors import BackendError, BackendRejected, StreamInterrupted
from app.types import BackendConfig, Body, ChatRequest, Target, Timeouts, Wire
from app.wire import translator
from app.wire.answer import Answer
from app.wire.chat import request as chat
from app.wire.json_body import read_object
from app.wire.messages import request as messages
from app.wire.messages.body import MessagesBody
from app.wire.responses import request as responses
from app.wire.responses.body import ResponsesBody
from app.wire.translator import ReplyContext
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import RESET, completion, delta, drip, error, event, gzipped, reply, sse
from tests.fakes.upstream import Upstream
from tests.logs import captured

GIVES = ("llamacpp", "vllm", "ollama")
TARGET = Target("local", "m")
TOLD = "WARNING local gives no log-probabilities: answers are judged without confidence"
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
VALUES = (-0.5, -1.25, -2.0)


@pytest.fixture
def server(upstream: Callable[..., Upstream]) -> Callable[..., Upstream]:
    """A server of a type, whose answers are three tokens."""
    return lambda kind, **options: upstream(
        native=kind == "ollama",
        null_logprobs=kind == "vllm",
        text="one two three",
        **{"logprobs": VALUES, **options},
    )


@pytest.fixture
def backend() -> Iterator[Callable[..., Backend]]:
    opened: list[Backend] = []

    def make(kind: str, url: str, **fields: Any) -> Backend:
        config = BackendConfig(name="local", type=kind, endpoint=url, timeouts=Timeouts(5, 10, 10), **fields)
        opened.append(BACKEND_TYPES[kind](config, {}))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def request(*, wants: bool = True, client: Wire = Wire.CHAT, stream: bool = False, **members: Any) -> ChatRequest:
    body: Body
    if client is Wire.MESSAGES:
        turns = [{"role": "user", "content": "hi"}]
        document = {"messages": turns, "max_tokens": 100, "stream": stream, **members}
        received = read_object(json.dumps(document).encode())
        body = MessagesBody(messages.parse(received.document), received)
    elif client is Wire.RESPONSES:
        raw = json.dumps({"input": "hi", "stream": stream, **members}).encode()
        received = read_object(raw)
        body = ResponsesBody(responses.parse(received.document), received=received)
    else:
        options = {"stream_options": {"include_usage": True}} if stream else {}
        message = {"role": "user", "content": "hi"}
        body = chat.parse(json.dumps({"messages": [message], "stream": stream, **options, **members}).encode())
    return ChatRequest(request_id="r", surface="chat", body=body, model="", stream=stream, wants_logprobs=wants)


def opened(backend: Backend, asked: ChatRequest) -> Whole | Stream:
    backend.get_ready()
    outgoing = backend.prepare(asked, TARGET, stream=asked.stream)
    return backend.open(outgoing, TARGET, stream=asked.stream, private=False)


def sent_to_client(reply_: Whole | Stream, asked: ChatRequest) -> bytes:
    """The bytes that a client gets.  Ids are the same in each run."""
    count = itertools.count(1)
    context = ReplyContext(
        body=asked.body,
        model="m",
        new_id=lambda prefix: f"{prefix}_{next(count)}",
        clock=lambda: 1e9,
        reply_id="resp_1",
    )
    between = translator(asked.wire, reply_.wire)
    if isinstance(reply_, Stream):
        return b"".join(between.stream(reply_, context))
    return between.reply(reply_.body, reply_.document, context)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("client", [Wire.CHAT, Wire.RESPONSES, Wire.MESSAGES])
@pytest.mark.parametrize("kind", GIVES)
def test_the_client_gets_the_same_bytes(
    kind: str, client: Wire, stream: bool, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server(kind)
    local = backend(kind, up.url)
    asking, plain = (request(wants=wants, client=client, stream=stream) for wants in (True, False))
    with captured("llr") as lines:
        reply_, other = opened(local, asking), opened(local, plain)
        reply_.collect()
        assert sent_to_client(reply_, asking) == sent_to_client(other, plain)
    assert (reply_.logprobs, other.logprobs) == (VALUES, ())
    assert reply_.answer == Answer({"role": "assistant", "content": "one two three"}, "stop", VALUES)
    assert reply_.facts.finish == other.facts.finish == "stop"
    assert (reply_.input_tokens, reply_.output_tokens) == (other.input_tokens, other.output_tokens)
    asked, not_asked = [one.native or one.json for one in up.requests if one.json]
    members = {name: asked.pop(name) for name in ("logprobs", "top_logprobs") if name in asked}
    assert members == ({"logprobs": True, "top_logprobs": 1} if kind == "llamacpp" else {"logprobs": True})
    assert asked == not_asked
    assert lines == []


@pytest.mark.parametrize("kind", GIVES)
def test_a_stream_in_pieces_cut_anywhere(
    kind: str, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server(kind)
    local = backend(kind, up.url)
    up.script(lambda received: drip(up.answer(received)), repeat=True)
    asking, plain = (request(wants=wants, stream=True) for wants in (True, False))
    reply_, other = opened(local, asking), opened(local, plain)
    assert sent_to_client(reply_, asking) == sent_to_client(other, plain)
    assert reply_.logprobs == VALUES


@pytest.mark.parametrize("kind", GIVES)
def test_a_gzipped_reply(kind: str, server: Callable[..., Upstream], backend: Callable[..., Backend]) -> None:
    up = server(kind)
    document = completion("one")
    document["choices"][0]["logprobs"] = {"content": [{"token": "one", "logprob": -3}]}
    up.script(gzipped(document))
    asked = request()
    reply_ = opened(backend(kind, up.url), asked)
    assert reply_.logprobs == (-3.0,)
    assert b'logprob"' not in sent_to_client(reply_, asked)


@pytest.mark.parametrize("kind", ["llamacpp", "vllm"])
def test_a_server_that_ignores_stream(
    kind: str, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server(kind)
    document = completion("one")
    document["choices"][0]["logprobs"] = {"content": [{"token": "one", "logprob": -3}]}
    up.script(reply(200, document))
    reply_ = opened(backend(kind, up.url), request(stream=True))
    assert isinstance(reply_, Whole)
    assert reply_.logprobs == (-3.0,)
    left = reply_.document["choices"][0]
    assert left.get("logprobs", "absent") == (None if kind == "vllm" else "absent")
    assert json.loads(reply_.body) == reply_.document


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    "members", [{"logprobs": True}, {"logprobs": True, "top_logprobs": 3}, {"tools": [TOOL]}, {"top_logprobs": 1}]
)
@pytest.mark.parametrize("kind", GIVES)
def test_what_a_client_asks_for_itself_passes_unchanged(
    kind: str,
    members: dict[str, Any],
    stream: bool,
    server: Callable[..., Upstream],
    backend: Callable[..., Backend],
) -> None:
    up = server(kind)
    local = backend(kind, up.url)
    asking, plain = (request(wants=wants, stream=stream, **members) for wants in (True, False))
    with captured("llr") as lines:
        reply_, other = opened(local, asking), opened(local, plain)
        reply_.collect()
        received = sent_to_client(reply_, asking)
        assert received == sent_to_client(other, plain)
    first, second = [one.body for one in up.requests if one.json]
    assert first == second
    assert reply_.logprobs == ()
    assert reply_.answer is not None
    assert reply_.answer.logprobs == (VALUES if members.get("logprobs") else ())
    assert (b'"logprob": -1.25' in received or b'"logprob":-1.25' in received) == bool(members.get("logprobs"))
    assert lines == []


def test_a_client_of_the_responses_api_gets_those_that_it_asks_for(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("ollama")
    include = ["message.output_text.logprobs"]
    asked = request(client=Wire.RESPONSES, include=include)
    reply_ = opened(backend("ollama", up.url), asked)
    (part,) = json.loads(sent_to_client(reply_, asked))["output"][0]["content"]
    assert [entry["logprob"] for entry in part["logprobs"]] == [*VALUES]
    assert reply_.logprobs == ()


def test_a_native_responses_backend_is_not_asked(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("vllm")
    local = backend("vllm", up.url, responses="native")
    with captured("llr") as lines:
        outgoing = local.prepare(request(client=Wire.RESPONSES), TARGET, stream=False)
    assert (outgoing.wire, outgoing.logprobs, b"logprobs" in outgoing.body) == (Wire.RESPONSES, False, False)
    assert lines == []


# --- servers that give none ----------------------------------------------------------------------

REFUSALS = [
    error(400, "logprobs is not supported with this model", type="invalid_request_error"),
    error(400, 'json: unknown field "top_logprobs"'),
    error(422, "body.logprobs: Extra inputs are not permitted"),
    error(500, "logprobs is not supported for models created with logits_all=False"),  # llama-cpp-python
    error(501, "log probabilities are not implemented"),
    reply(
        200, {"error": {"message": "logprobs cannot be combined with this sampler", "type": "invalid_request_error"}}
    ),
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("kind", GIVES)
def test_a_refusal_is_remembered(
    kind: str, refusal: Any, stream: bool, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server(kind)
    local = backend(kind, up.url)
    up.script(refusal, repeat=True, when=lambda received: "logprobs" in received.json)
    asked, plain = request(stream=stream), request(stream=stream, wants=False)
    with captured("llr") as lines:
        for _ in range(3):
            reply_ = opened(local, asked)
            assert sent_to_client(reply_, asked) == sent_to_client(opened(local, plain), plain)
            assert reply_.logprobs == ()
    assert lines == [TOLD]
    assert not local.gives_logprobs
    assert ["logprobs" in (one.native or one.json) for one in up.requests if one.json] == [True] + [False] * 6
    bodies = {one.body for one in up.requests if one.json and "logprobs" not in one.json}
    assert len(bodies) == 1  # the second try is the request without the wish


def test_a_refusal_that_names_it_as_the_parameter(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("vllm")
    local = backend("vllm", up.url)
    up.script(reply(400, {"error": {"message": "Unrecognized request argument", "param": "logprobs"}}))
    with captured("llr") as lines:
        assert opened(local, request()).logprobs == ()
    assert (len(up.requests), lines) == (2, [TOLD])


def test_a_refusal_as_the_first_event_of_a_stream(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("llamacpp")
    local = backend("llamacpp", up.url)
    refused = sse({"error": {"code": 400, "message": "logprobs is not supported with tools + stream"}}, finish=False)
    up.script(refused, when=lambda received: "logprobs" in received.json)
    asked = request(stream=True)
    with captured("llr") as lines:
        assert b"one" in sent_to_client(opened(local, asked), asked)
    assert lines == [TOLD]


@pytest.mark.parametrize("stream", [True, False])
def test_a_refusal_for_another_reason_is_the_clients(
    stream: bool, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    """Also when it quotes a prompt about log-probabilities: the same request without the wish is refused too."""
    up = server("vllm")
    local = backend("vllm", up.url)
    up.script(error(400, "bad schema"), error(400, "cannot parse 'what are logprobs?'"), error(400, "cannot parse it"))
    with captured("llr") as lines:
        for expected in ("bad schema", "cannot parse it"):
            with pytest.raises(BackendRejected) as caught:
                opened(local, request(stream=stream))
            assert caught.value.backend_text == expected
        assert opened(local, request()).logprobs == VALUES
    assert local.gives_logprobs
    assert lines == []


def test_a_clients_own_wish_is_refused_to_the_client(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("vllm")
    local = backend("vllm", up.url)
    up.script(error(400, "logprobs is not supported"))
    with captured("llr") as lines, pytest.raises(BackendRejected):
        opened(local, request(logprobs=True))
    assert (len(up.requests), lines, local.gives_logprobs) == (1, [], True)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("kind", GIVES)
def test_a_server_that_ignores_the_wish(
    kind: str, stream: bool, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    """It is told once, and asked again: another model of the server may give them."""
    up = server(kind, logprobs=())
    local = backend(kind, up.url)
    asked, plain = request(stream=stream), request(stream=stream, wants=False)
    with captured("llr") as lines:
        for _ in range(3):
            reply_ = opened(local, asked)
            assert sent_to_client(reply_, asked) == sent_to_client(opened(local, plain), plain)
    assert lines == [TOLD]
    up.logprobs = VALUES
    reply_ = opened(local, asked)
    sent_to_client(reply_, asked)
    assert reply_.logprobs == VALUES


def test_a_client_that_leaves_early_says_nothing_about_the_server(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("llamacpp", gap_s=0.2)
    reply_ = opened(backend("llamacpp", up.url), request(stream=True))
    with captured("llr") as lines:
        next(iter(reply_))  # type: ignore[call-overload]
        reply_.close()
    assert lines == []


@pytest.mark.parametrize("kind", ["openai", "sarmalink"])
def test_other_types_are_not_asked(kind: str, server: Callable[..., Upstream], backend: Callable[..., Backend]) -> None:
    up = server(kind)
    local = backend(kind, up.url + "/v1")
    with captured("llr") as lines:
        for stream in (True, False):
            asked = request(stream=stream)
            assert b"one two three" in sent_to_client(opened(local, asked), asked) or stream
    assert ["logprobs" in one.json for one in up.requests] == [False, False]
    assert lines == [TOLD]


@pytest.mark.parametrize(
    ("version", "options", "asks"),
    [
        ("0.12.10", {}, False),
        ("0.12.11", {}, True),
        ("0.33.0-rc2", {}, True),
        ("0.9.6", {}, False),
        ("0.33.0", {"api": "openai"}, False),  # its version is not asked for
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_versions_of_ollama(
    version: str, options: dict[str, Any], asks: bool, stream: bool, backend: Callable[..., Backend]
) -> None:
    with Ollama([Model("m")], version=version) as ollama, captured("llr.backends") as lines:
        local = backend("ollama", ollama.url, own=options)
        asked = request(stream=stream)
        reply_ = opened(local, asked)
        assert local.gives_logprobs is asks
        assert b"logprob" not in sent_to_client(reply_, asked)
        assert [bool(one.body.get("logprobs")) for one in ollama.answers] == [asks]
    assert set(reply_.logprobs) == ({-0.25} if asks else set())
    assert lines == ([] if asks else [TOLD])


def test_lines_without_text_are_left_out(backend: Callable[..., Backend]) -> None:
    """An Ollama sends them when a parser holds the text back."""
    with Ollama([Model("m")]) as ollama:
        local = backend("ollama", ollama.url)
        texts = []
        for wants in (True, False):
            asked = request(stream=True, wants=wants)
            texts.append(sent_to_client(opened(local, asked), asked))
    deltas = [[line for line in text.split(b"\n\n") if b'"delta"' in line] for text in texts]
    assert len(deltas[0]) == len(deltas[1])
    assert b'"role":"assistant","content":"read"' in deltas[0][0]


# --- streams that break --------------------------------------------------------------------------


def with_logprobs(text: str, value: float = -1.0) -> dict[str, Any]:
    document = delta(text)
    document["choices"][0]["logprobs"] = {"content": [{"token": text, "logprob": value}]}
    return document


@pytest.mark.parametrize("kind", ["llamacpp", "ollama"])
@pytest.mark.parametrize(
    ("steps", "error_kind"),
    [
        (sse(with_logprobs("one"), with_logprobs(" two"), RESET, finish=False), "reset"),
        (sse(with_logprobs("one"), with_logprobs(" two"), finish=False), "truncated"),
        (
            sse(with_logprobs("one"), with_logprobs(" two"), 0.1, {"error": {"message": "died"}}, finish=False),
            "error_event",
        ),
    ],
)
def test_a_stream_that_breaks(
    kind: str, steps: Any, error_kind: str, server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server(kind)
    up.script(steps)
    reply_ = opened(backend(kind, up.url), request(stream=True))
    reply_.collect()
    with pytest.raises(StreamInterrupted) as caught:
        for piece in reply_:  # type: ignore[union-attr]
            assert b"logprob" not in piece
    assert caught.value.kind == error_kind
    assert reply_.answer == Answer({"role": "assistant", "content": "one two"}, None, (-1.0, -1.0))


def test_an_event_that_breaks_off_is_not_sent(server: Callable[..., Upstream], backend: Callable[..., Backend]) -> None:
    up = server("llamacpp")
    half = event(with_logprobs("two"))[:-40]
    up.script(sse(with_logprobs("one"), half, RESET, finish=False))
    reply_ = opened(backend("llamacpp", up.url), request(stream=True))
    pieces = []
    with pytest.raises(StreamInterrupted):
        for piece in reply_:  # type: ignore[union-attr]
            pieces.append(piece)
    assert b"".join(pieces) == event(delta("one"))


def test_an_error_before_the_first_event_is_a_failure(
    server: Callable[..., Upstream], backend: Callable[..., Backend]
) -> None:
    up = server("llamacpp")
    up.script(sse({"error": {"message": "no memory"}}, finish=False))
    with pytest.raises(BackendError) as caught:
        opened(backend("llamacpp", up.url), request(stream=True))
    assert (caught.value.kind, len(up.requests)) == ("error_event", 1)

"""Log-probabilities of a real small model are asked for and cut out again, over the backend classes of the router.

make test-model
"""

from __future__ import annotations

import http.client
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from app.backends.llamacpp import LlamaCppBackend
from app.backends.reply import Stream, Whole
from app.types import BackendConfig, ChatRequest, Target, Timeouts, Wire
from app.wire import sse, translator
from app.wire.answer import logprobs_in
from app.wire.chat import request as chat
from app.wire.opinion import opinion_of
from app.wire.responses import request as responses
from app.wire.responses.body import ResponsesBody
from app.wire.translator import ReplyContext
from demo.model_server import MODEL
from tests.logs import captured
from tests.servers.test_model import model_server

pytestmark = pytest.mark.model

TARGET = Target("local", MODEL)
OPTIONS: dict[str, Any] = {"temperature": 0, "seed": 1, "max_tokens": 16}
QUESTIONS = ["What is the capital of France?", "Write three emoji and the word naïve."]
# Members that differ between two calls: identifiers and times.
_OWN = re.compile(rb'"(?:id|created|created_at|completed_at)":\s*(?:"[^"]*"|\d+)|,?\s*"timings":\s*\{[^}]*\}')


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with model_server(tmp_path_factory.mktemp("model")) as address:
        yield address


@pytest.fixture(scope="module")
def backend(address: str) -> Iterator[LlamaCppBackend]:
    timeouts = Timeouts(5, 60, 60)
    one = LlamaCppBackend(BackendConfig(name="local", type="llamacpp", endpoint=address, timeouts=timeouts), {})
    yield one
    one.close()


def asked(question: str, *, stream: bool, wants: bool, **members: Any) -> ChatRequest:
    options = {"stream_options": {"include_usage": True}} if stream else {}
    message = {"role": "user", "content": question}
    document = {"messages": [message], "stream": stream, **OPTIONS, **options, **members}
    body = chat.parse(json.dumps(document).encode())
    return ChatRequest(request_id="r", surface="chat", body=body, model="", stream=stream, wants_logprobs=wants)


def opened(backend: LlamaCppBackend, request: ChatRequest) -> Whole | Stream:
    outgoing = backend.prepare(request, TARGET, stream=request.stream)
    reply = backend.open(outgoing, TARGET, stream=request.stream, private=False)
    reply.collect()
    return reply


def received(reply: Whole | Stream, request: ChatRequest) -> bytes:
    """The bytes that a client gets, without identifiers and times."""
    count = itertools.count(1)
    context = ReplyContext(
        body=request.body,
        model=MODEL,
        new_id=lambda prefix: f"{prefix}_{next(count)}",
        clock=lambda: 1e9,
        reply_id="resp_1",
    )
    between = translator(request.wire, reply.wire)
    if isinstance(reply, Stream):
        raw = b"".join(between.stream(reply, context))
    else:
        raw = between.reply(reply.body, reply.document, context)
    return _OWN.sub(b"", raw)


def direct(address: str, question: str, *, stream: bool) -> tuple[str, list[float]]:
    """The text and the log-probabilities of a call without the router."""
    message = {"role": "user", "content": question}
    document = {"model": MODEL, "messages": [message], "stream": stream, "logprobs": True, "top_logprobs": 1}
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(document | OPTIONS))
        raw = connection.getresponse().read()
    finally:
        connection.close()
    if not stream:
        (choice,) = json.loads(raw)["choices"]
        return choice["message"]["content"], logprobs_in(choice["logprobs"]["content"])
    events = [sse.json_of(line[6:]) for line in raw.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events if event for choice in event["choices"]]
    texts = [choice["delta"].get("content") or "" for choice in choices]
    values = [logprobs_in(choice["logprobs"]["content"]) for choice in choices if choice.get("logprobs")]
    return "".join(texts), [*itertools.chain(*values)]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_numbers_are_those_of_a_direct_call(
    question: str, stream: bool, address: str, backend: LlamaCppBackend
) -> None:
    request = asked(question, stream=stream, wants=True)
    reply = opened(backend, request)
    raw = received(reply, request)
    text, values = direct(address, question, stream=stream)
    assert reply.answer is not None
    assert reply.answer.message["content"] == text != ""
    assert [*reply.answer.logprobs] == pytest.approx(values, abs=1e-3)
    assert values
    assert b"logprob" not in raw


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_client_gets_the_bytes_of_a_call_without(question: str, stream: bool, backend: LlamaCppBackend) -> None:
    with captured("llr") as lines:
        first, second = (asked(question, stream=stream, wants=wants) for wants in (True, False))
        assert received(opened(backend, first), first) == received(opened(backend, second), second)
    assert lines == []


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_of_the_responses_api(stream: bool, backend: LlamaCppBackend) -> None:
    fields = {"input": QUESTIONS[0], "temperature": 0, "max_output_tokens": 16, "stream": stream}
    body = ResponsesBody(responses.parse(fields))
    raws = []
    for wants in (True, False):
        request = ChatRequest(
            request_id="r", surface="responses", body=body, model="", stream=stream, wants_logprobs=wants
        )
        reply = opened(backend, request)
        raws.append(received(reply, request))
        assert bool(reply.logprobs) is wants
    assert raws[0] == raws[1]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_asks_gets_its_own(stream: bool, backend: LlamaCppBackend) -> None:
    members = {"logprobs": True, "top_logprobs": 3}
    first, second = (asked(QUESTIONS[0], stream=stream, wants=wants, **members) for wants in (True, False))
    reply = opened(backend, first)
    raw = received(reply, first)
    assert raw == received(opened(backend, second), second)
    assert raw.count(b'"top_logprobs"') >= 5
    assert reply.answer is not None
    assert reply.answer.logprobs and not reply.logprobs


def test_second_opinions(backend: LlamaCppBackend) -> None:
    """Samples of the same model differ from its answer now and then, and need no stream."""
    request = asked("Write one sentence about the sea.", stream=True, wants=True)
    first = opened(backend, request)
    received(first, request)
    opinion = opinion_of(request, sample=True)
    assert (opinion.stream, opinion.wire) == (False, Wire.CHAT)
    second, again = opened(backend, opinion), opened(backend, opinion_of(request, sample=False))
    assert isinstance(second, Whole)
    assert second.answer and again.answer and first.answer
    assert second.answer.message["content"] != first.answer.message["content"]
    assert again.answer.message == first.answer.message  # the client's temperature of 0 and its seed

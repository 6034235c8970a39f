"""Streams through real processes: token by token, byte for byte, fallback before the first event, hang-ups."""

from __future__ import annotations

import concurrent.futures
import json
import time

import pytest

from tests.e2e.server import chat_body, content, parse_events
from tests.fakes import replies

pytestmark = pytest.mark.e2e


def two(local, cloud) -> dict:
    return {
        "backends": {
            "local": {"type": "ollama", "endpoint": local.url, "models": ["m:1"]},
            "cloud": {"type": "openai", "endpoint": f"{cloud.url}/v1", "model": "big"},
        },
        "routes": [{"default": "local", "fallback": "cloud"}],
    }


@pytest.fixture(params=[False, True], ids=["v1", "native"])
def native(request):
    return request.param


only_v1 = pytest.mark.parametrize("native", [False], ids=["v1"])  # what native servers say is translated


@pytest.fixture
def house(upstream, router, native):
    local, cloud = upstream(native=native), upstream()
    return local, cloud, router(two(local, cloud), workers=1, env={"OPENAI_API_KEY": "key-for-tests"})


def test_tokens_arrive_one_by_one(house):
    local, _, router = house
    gate = [replies.Gate() for _ in range(5)]
    local.script(replies.sse(*(step for number in range(5) for step in (f"t{number}", gate[number]))))
    with router.stream() as stream:
        for number in range(5):  # each token is here while the backend still waits to send the next
            assert f"t{number}".encode() in stream.until(f"t{number}".encode())
            gate[number].open()
        assert stream.read().endswith(b"data: [DONE]\n\n")


@only_v1
def test_bytes_pass_unchanged(house):
    local, _, router = house
    odd = (
        b': hello\r\n\r\ndata:{"choices":[{"delta":{"content":"\\u00e9\xc3\xa9"}}],"x":1e400}\r\n\r\nevent: x\nid: 3\n'
    )
    rest = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}],"big":12345678901234567890123}\n\ndata: [DONE]\n\n'
    local.script(replies.sse(odd, rest, finish=False))
    with router.stream() as stream:
        assert stream.read() == odd + rest


@only_v1
def test_a_missing_done_is_added_behind_a_finish_reason(house):
    local, _, router = house
    end = replies.event(replies.delta(finish="stop"))
    local.script(replies.sse("all", end, finish=False))
    with router.stream() as stream:
        body = stream.read()
    assert body.endswith(end + b"data: [DONE]\n\n")


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(replies.error(500, "no"), id="500"),
        pytest.param(replies.html(), id="html"),
        pytest.param(replies.sse({"error": {"message": "oom"}}, finish=False), id="error-event-first"),
        pytest.param(replies.sse(finish=False), id="empty-stream"),
        pytest.param([replies.RESET], id="reset"),
    ],
)
def test_a_fallback_before_the_first_event_is_invisible(house, fault):
    local, cloud, router = house
    local.script(fault, repeat=True)  # a kept connection that dies is tried once more
    cloud.script(replies.sse("from ", "cloud"))
    with router.stream() as stream:
        body = stream.read()
    assert stream.status == 200
    assert stream.headers["X-LLR-Backend"] == "cloud" and stream.headers["X-LLR-Fallback-For"] == "local"
    assert content(parse_events(body)) == "from cloud"
    assert b"error" not in body


@pytest.mark.parametrize("end", [replies.CLOSE, replies.RESET], ids=["close", "reset"])
def test_a_stream_that_breaks_ends_with_an_error_event(house, end):
    local, cloud, router = house
    local.script(replies.sse("begun", end, finish=False))
    with router.stream() as stream:
        body = stream.read()
    last = parse_events(body)[-1]
    assert set(last["error"]) == {"message", "type", "param", "code"}
    assert b"[DONE]" not in body and b"begun" in body
    assert not cloud.chats
    row = router.wait_request_rows(stream.headers["X-LLR-Request-Id"], 1)[0]
    assert (row["outcome"], row["ok"]) == ("error", 0) and row["ttfb_ms"] is not None


@pytest.mark.parametrize("end", [replies.CLOSE, replies.RESET, b""], ids=["close", "reset", "end of body"])
def test_an_event_that_is_cut_in_the_middle_does_not_hide_the_error(house, end):
    """Every event that the client gets is JSON, so that it reads the last one."""
    local, _, router = house
    begun = replies.Gate()
    local.script(replies.sse("begun", begun, b'data: {"choices":[{"ind', end, finish=False))
    with router.stream() as stream:
        first = stream.until(b"begun")
        begun.open()
        events = parse_events(first + stream.read())
    assert content(events) == "begun"
    assert set(events[-1]["error"]) == {"message", "type", "param", "code"}


def test_a_backends_own_error_event_passes_and_ends_the_stream(house):
    local, _, router = house
    error = {"error": {"message": "gpu fell over", "type": "server_error", "param": None, "code": "oom"}}
    begun = replies.Gate()
    local.script(replies.sse("begun", begun, error, finish=False))
    with router.stream() as stream:
        first = stream.until(b"begun")
        begun.open()
        body = first + stream.read()
    assert parse_events(body)[-1] == error
    assert body.count(b"error") == body.count(json.dumps(error)[2:7].encode())


def test_plain_json_in_answer_to_a_stream(house):
    local, _, router = house
    local.script(replies.reply(200, replies.completion("whole")))
    with router.stream() as stream:
        events = parse_events(stream.read())
    assert content(events) == "whole"
    assert stream.headers["Content-Type"].startswith("text/event-stream")


@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streaming"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
def test_a_client_that_leaves_a_silent_backend_frees_it(house, stream, path):
    local, cloud, router = house
    local.script([replies.Gate()])
    body = chat_body("hello", stream=stream) if "chat" in path else {"input": "hello", "stream": stream}
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw)}\r\n\r\n"
    client = router.raw(head.encode() + raw)
    asked = local.wait_requests(1)[0]
    left = time.monotonic()
    client.close()
    local.wait_hangup(5, asked)
    assert time.monotonic() - left < 2
    row = router.wait_rows(1)[0]
    assert (row["outcome"], row["error"]) == ("cancelled", None)
    assert not cloud.chats


def test_a_client_that_leaves_in_mid_stream_frees_the_backend(house):
    local, _, router = house
    local.script(replies.sse("begun", replies.Gate(), "never"))
    with router.stream() as stream:
        stream.until(b"begun")
    asked = local.chats[0]
    local.wait_hangup(5, asked)
    row = router.wait_rows(1)[0]
    assert row["outcome"] == "cancelled" and row["ttfb_ms"] is not None


def test_300_streams_at_once_none_lost_none_mixed(upstream, router, native):
    local, cloud = upstream(native=native), upstream()
    running = router(two(local, cloud), workers=2)
    count, tokens, gap = 300, 30, 0.5

    def answer(request):
        name = request.json["messages"][-1]["content"]
        return replies.sse(*(step for number in range(tokens) for step in (f"{name}.{number} ", gap)))

    local.script(answer, repeat=True)

    def one(number: int) -> str:
        with running.stream(f"s{number}", timeout=60) as stream:
            body = stream.read()
        assert body.endswith(b"data: [DONE]\n\n")
        return content(parse_events(body))

    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        texts = list(pool.map(one, range(count)))
    assert texts == ["".join(f"s{n}.{token} " for token in range(tokens)) for n in range(count)]
    rows = running.wait_rows(count)
    assert len(rows) == count and {row["outcome"] for row in rows} == {"ok"}

"""The fake does what its scripts say: checked with plain sockets, so that no client library hides a byte."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.fakes import replies
from tests.fakes.replies import CLOSE, DONE, HANG, RESET, Gate, completion, cut, drip, error, reply, sse
from tests.fakes.upstream import Upstream, black_hole_url, refused_url

ASK = {"model": "m", "messages": [{"role": "user", "content": "one two"}]}


@pytest.fixture
def up():
    with Upstream() as running:
        yield running


class Client:
    """A socket with one request on it."""

    def __init__(self, up: Upstream) -> None:
        self.sock = socket.create_connection((up.host, up.port), timeout=5)

    def ask(self, body=ASK, path="/v1/chat/completions", method="POST", headers="") -> Client:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n{headers}\r\n"
        self.sock.sendall(head.encode() + data)
        return self

    def all(self) -> bytes:
        """Everything until the server closes; a reset raises ConnectionResetError."""
        data = b""
        while piece := self.sock.recv(65536):
            data += piece
        return data

    def until(self, mark: bytes) -> bytes:
        data = b""
        while mark not in data:
            piece = self.sock.recv(65536)
            assert piece, f"closed before {mark!r}: {data!r}"
            data += piece
        return data

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


def post(up: Upstream, body=ASK, path="/v1/chat/completions", headers=None):
    """(status, headers, body) through http.client, which checks the framing."""
    connection = http.client.HTTPConnection(up.host, up.port, timeout=5)
    try:
        connection.request("POST", path, json.dumps(body), headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def get(up: Upstream, path: str):
    connection = http.client.HTTPConnection(up.host, up.port, timeout=5)
    try:
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


def raw(up: Upstream, *steps, **options) -> bytes:
    """The exact bytes of one scripted answer."""
    up.script([*steps], **options)
    with Client(up).ask(headers="Connection: close\r\n") as client:
        return client.all()


# --- the proper answers ---


def test_echoes_the_last_user_text(up):
    parts = [{"type": "text", "text": "from parts"}]
    messages = [{"role": "user", "content": "old"}, {"role": "assistant", "content": "x"}]
    status, headers, body = post(up, {"model": "m", "messages": [*messages, {"role": "user", "content": parts}]})
    document = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert document["choices"][0]["message"] == {"role": "assistant", "content": "from parts"}
    assert (document["model"], document["usage"]["completion_tokens"]) == ("m", 2)


def stream_events(body: bytes) -> list[bytes]:
    return [line.removeprefix(b"data: ") for line in body.split(b"\n\n") if line]


@pytest.mark.parametrize("wanted", [True, False])
def test_streams_with_usage_only_when_asked(up, wanted):
    options = {"stream_options": {"include_usage": True}} if wanted else {}
    status, headers, body = post(up, {**ASK, "stream": True, **options})
    *events, done = stream_events(body)
    documents = [json.loads(each) for each in events]
    text = "".join(d["choices"][0]["delta"].get("content", "") for d in documents if d["choices"])
    assert (status, headers["Content-Type"], headers["Transfer-Encoding"]) == (200, "text/event-stream", "chunked")
    assert (text, done) == ("one two", b"[DONE]")
    assert [d["usage"]["completion_tokens"] for d in documents if "usage" in d] == ([2] if wanted else [])


def test_tokens_and_text_can_be_set(up):
    up.tokens, up.text = 3, "ignored"
    _, _, body = post(up, {**ASK, "stream": True})
    assert len(stream_events(body)) == 1 + 3 + 1 + 1  # role, tokens, finish, [DONE]


def test_discovery(up):
    up.models, up.loaded = ["a", "b:7b"], ["a"]
    assert [model["name"] for model in get(up, "/api/tags")["models"]] == ["a", "b:7b"]
    assert [model["name"] for model in get(up, "/api/ps")["models"]] == ["a"]
    assert [model["id"] for model in get(up, "/v1/models")["data"]] == ["a", "b:7b"]
    assert get(up, "/api/version") == {"version": up.version}
    assert get(up, "/nothing")["error"]["message"] == "no such path: /nothing"


def test_an_ollama_says_which_models_it_hands_on_and_keeps_what_it_would_have_handed_on(up):
    up.models, up.remote = ["a:latest", "b:7b"], {"a:latest": "https://ollama.com:443"}
    said = {entry["name"]: entry.get("remote_host") for entry in get(up, "/api/tags")["models"]}
    assert said == {"a:latest": "https://ollama.com:443", "b:7b": None}
    for name, host in (("a", "https://ollama.com:443"), ("library/A:latest", "https://ollama.com:443"), ("b:7b", None)):
        status, _, body = post(up, {"model": name}, "/api/show")
        assert (status, json.loads(body).get("remote_host")) == (200, host)
    assert post(up, {"model": "c"}, "/api/show")[0] == 404
    for model in ("a", "A@sha256:00", "b:7b", "c"):
        post(up, {**ASK, "model": model})
    assert [json.loads(body)["model"] for body in up.handed_on] == ["a", "A@sha256:00"]


def test_a_bad_body_is_a_400(up):
    with Client(up).ask(b"{not json", headers="Connection: close\r\n") as client:
        assert client.all().startswith(b"HTTP/1.1 400 ")


# --- what it records ---


def test_records_what_arrived(up):
    with Client(up) as client:
        begin = time.monotonic()
        client.ask(headers="X-Twice: 1\r\nx-twice: 2\r\n").until(b"one two")
        client.ask(b'{"odd": 1}', path="/v1/other?x=1").until(b"no such path")
        first, second = up.requests
        assert first.client_port == client.sock.getsockname()[1]
    assert (first.method, first.path, first.json, first.model) == ("POST", "/v1/chat/completions", ASK, "m")
    assert [pair for pair in first.headers if pair[0].lower() == "x-twice"] == [("X-Twice", "1"), ("x-twice", "2")]
    assert first.header("X-TWICE") == "1"
    assert (first.connection, first.nth, second.connection, second.nth) == (0, 0, 0, 1)
    assert (second.path, second.body) == ("/v1/other?x=1", b'{"odd": 1}')
    assert begin <= first.received_at <= first.finished_at <= second.received_at
    assert up.chats == [first]


def test_reads_chunked_requests(up):
    with Client(up) as client:
        client.sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
        body = json.dumps(ASK).encode()
        client.sock.sendall(replies.chunk(body[:10]) + replies.chunk(body[10:]) + replies.LAST_CHUNK)
        client.until(b"one two")
    assert up.requests[0].json == ASK


# --- scripts ---


def test_scripts_are_used_in_order_then_the_default(up):
    up.script(error(503), reply(200, "second"))
    answers = [post(up) for _ in range(3)]
    assert [answer[0] for answer in answers] == [503, 200, 200]
    assert answers[1][2] == b"second"
    assert json.loads(answers[2][2])["choices"][0]["message"]["content"] == "one two"


def test_scripts_by_model_path_and_predicate(up):
    up.script(reply(418), model="tea", repeat=True)
    up.script(reply(500), path="/api/tags")
    up.script(reply(404), when=lambda request: request.header("X-Lost"), path="*")
    assert [post(up, {**ASK, "model": "tea"})[0] for _ in range(2)] == [418, 418]
    assert post(up, {}, "/api/tags")[0] == 500
    assert post(up, {}, "/api/tags")[0] == 200
    assert post(up, ASK, headers={"X-Lost": "1"})[0] == 404
    assert post(up)[0] == 200


def test_a_script_may_be_a_function_of_the_request(up):
    up.script(lambda request: reply(200, request.json["messages"][0]["content"].upper()))
    assert post(up)[2] == b"ONE TWO"


def test_reset_forgets(up):
    up.script(error(500), repeat=True)
    up.at_accept(CLOSE)
    up.reset()
    assert post(up)[0] == 200
    assert len(up.requests) == 1


def test_a_mistake_in_a_script_is_shown_by_stop():
    up = Upstream()
    up.start()
    up.script(lambda _: 1 / 0)
    with Client(up).ask() as client:
        assert client.all() == b""
    with pytest.raises(ZeroDivisionError):
        up.stop()


# --- framing ---


def test_content_length_chunked_and_close_delimited(up):
    assert raw(up, *reply(200, "hello")).endswith(b"\r\nContent-Length: 5\r\n\r\nhello")
    assert raw(up, *reply(200, "hello", framing="chunked")).endswith(b"chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    up.script(reply(200, "hello", framing="close"))
    with Client(up).ask() as client:
        assert client.all().endswith(b"Connection: close\r\n\r\nhello")


@pytest.mark.parametrize("framing", ["length", "chunked", "close"])
def test_streams_in_every_framing(up, framing):
    up.script(sse("a", 0.01, "b", framing=framing))
    status, headers, body = post(up)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    assert body.endswith(DONE) and len(stream_events(body)) == 4


def test_raw_pieces_are_sent_as_they_are(up):
    up.script(sse(b": comment\r\n", b"data: {}\r\n\r\n", finish=False))
    assert post(up)[2] == b": comment\r\ndata: {}\r\n\r\n"


def test_error_event_first(up):
    up.script(sse(replies.error_document("no memory"), finish=False))
    assert json.loads(stream_events(post(up)[2])[0])["error"]["message"] == "no memory"


def test_a_5_mb_line(up):
    up.script(sse("x" * 5_000_000))
    assert len(post(up)[2]) > 5_000_000


def test_gzip_html_redirect_cookie_and_retry_after(up):
    up.script(
        replies.gzipped(completion("packed")),
        replies.html(),
        replies.redirect("http://elsewhere.test/x", 308),
        reply(200, "{}", [("Set-Cookie", "a=1")]),
        replies.rate_limited(7),
    )
    packed, page, moved, cookie, limited = [post(up) for _ in range(5)]
    assert packed[1]["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed[2]))["choices"][0]["message"]["content"] == "packed"
    assert (page[0], page[1]["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert (moved[0], moved[1]["Location"]) == (308, "http://elsewhere.test/x")
    assert cookie[1]["Set-Cookie"] == "a=1"
    assert (limited[0], limited[1]["Retry-After"]) == (429, "7")


def test_cut_content_length(up):
    up.script(cut(reply(200, completion("long enough")), -10))
    with pytest.raises(http.client.IncompleteRead) as caught:
        post(up)
    assert caught.value.expected == 10


def test_cut_chunked_stream(up):
    up.script(sse("a", CLOSE, finish=False))
    with Client(up).ask() as client:
        data = client.all()
    assert b'"content": "a"' in data and not data.endswith(replies.LAST_CHUNK)


def test_ended_properly_but_early(up):
    up.script(sse("a", finish=False))
    assert b"[DONE]" not in post(up)[2]  # http.client saw the last chunk


def test_reset_in_a_stream(up):
    gate = Gate()
    up.script(sse("a", gate, RESET, finish=False))
    with Client(up).ask() as client:
        client.until(b'"content": "a"')
        gate.open()
        with pytest.raises(ConnectionResetError):
            client.all()
    assert not up.requests[0].hung_up


def test_bad_chunk_size(up):
    up.script(replies.bad_chunk_size())
    with pytest.raises((http.client.HTTPException, ValueError)):
        post(up)


def test_drip_sends_single_bytes(up):
    whole = raw(up, *sse("ab"))
    up.script(drip(sse("ab"), 0.0005))
    sizes = []
    data = b""
    with Client(up).ask() as client:
        while not data.endswith(replies.LAST_CHUNK):
            piece = client.sock.recv(65536)
            data += piece
            sizes.append(len(piece))
    assert data == whole
    assert sorted(sizes)[len(sizes) // 2] == 1


# --- time ---


def test_delays_before_and_after_the_head(up):
    before, after = Gate(), Gate()
    up.script([before, *replies.pause_after_head(reply(200, "body"), after)])
    with Client(up).ask() as client:
        assert before.reached.wait(5)
        before.open()
        assert b"body" not in client.until(b"\r\n\r\n")
        assert after.reached.wait(5)
        after.open()
        assert client.until(b"body") == b"body"


def test_seconds_between_pieces(up):
    up.script(sse("a", 0.2, "b"))
    with Client(up).ask() as client:
        client.until(b'"a"')
        begin = time.monotonic()
        client.until(b'"b"')
    assert 0.1 < time.monotonic() - begin < 2


def test_headers_then_hang_and_the_clients_hang_up(up):
    up.script(replies.pause_after_head(reply(200, "body"), HANG))
    with Client(up).ask() as client:
        client.until(b"\r\n\r\n")
        request = up.requests[0]
        assert (up.busy, up.open_connections, request.closed_at) == (1, 1, None)
        left_at = time.monotonic()
    assert up.wait_hangup() is request
    assert request.hung_up and 0 <= request.closed_at - left_at < 1
    up.wait_quiet()
    up.wait(lambda: up.open_connections == 0)


def test_leaving_after_the_answer_is_no_hang_up(up):
    with Client(up).ask() as client:
        client.until(b"one two")
    up.wait(lambda: up.requests[0].closed_at)
    assert not up.requests[0].hung_up
    with pytest.raises(TimeoutError):
        up.wait_hangup(0.05)


def test_a_hang_up_while_a_large_answer_is_written(up):
    up.script(lambda _: [replies.head(200, []), *([b"x" * 65536] * 10_000)])
    with Client(up).ask() as client:
        client.until(b"xxx")
    request = up.wait_hangup()
    assert request.sent < 655_360_000  # the socket's backpressure reaches the script


# --- connections ---


def test_keep_alive_that_dies_on_reuse(up):
    up.stale_after_first()
    with Client(up) as client:
        client.ask().until(b"one two")
        client.ask()
        assert client.all() == b""
    assert post(up)[0] == 200
    assert [(r.connection, r.nth) for r in up.requests] == [(0, 0), (0, 1), (1, 0)]


def test_keep_alive_closed_while_idle(up):
    up.script([*reply(200, "x"), CLOSE])
    with Client(up).ask() as client:
        assert client.all().endswith(b"x")


def test_accept_then_hang_reset_close(up):
    up.at_accept(HANG, times=1)
    with Client(up).ask() as client:
        client.sock.settimeout(0.1)
        with pytest.raises(TimeoutError):
            client.all()
    up.at_accept(RESET, times=1)
    with pytest.raises(ConnectionResetError), Client(up) as client:  # as early as in connect()
        client.all()
    up.at_accept(CLOSE)
    with Client(up) as client:
        assert client.all() == b""
    up.at_accept(None)
    assert post(up)[0] == 200
    assert len(up.requests) == 1


def test_answer_before_the_body_is_read(up):
    up.script([*error(413, "too big"), CLOSE], early=True)
    with Client(up) as client:
        client.sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 100000000\r\n\r\n" + b"x" * 1000)
        assert client.until(b"too big").startswith(b"HTTP/1.1 413 ")
    assert up.requests[0].body == b""


def test_early_answer_may_keep_the_connection(up):
    up.script(reply(200, "early"), early=True)
    with Client(up) as client:
        client.ask().until(b"early")
        client.ask().until(b"one two")
    assert [r.connection for r in up.requests] == [0, 0]


def test_stop_refuses_and_start_recovers():
    up = Upstream()
    up.start()
    port = up.port
    with Client(up).ask() as idle:
        idle.until(b"one two")
        up.stop()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((up.host, port), timeout=5)
        assert idle.sock.recv(1) == b""
    up.start()
    assert up.port == port
    assert post(up)[0] == 200
    up.stop()
    up.stop()  # twice is fine


def test_stop_while_gates_wait():
    gate = Gate()
    with Upstream() as up:
        up.script([gate])
        with Client(up).ask() as client:
            assert gate.reached.wait(5)
            up.stop()
            assert client.all() == b""
    gate.open()


def test_refused_and_black_hole():
    for url, wrong in ((refused_url(), ConnectionRefusedError), (black_hole_url(), TimeoutError)):
        with url as address:
            port = int(address.rpartition(":")[2])
            with pytest.raises(wrong):
                socket.create_connection(("127.0.0.1", port), timeout=0.3)


def test_many_streams_at_once(up):
    up.tokens, up.gap_s = 10, 0.02
    results = []

    def one(number: int) -> None:
        model = f"m{number}"
        results.append(post(up, {**ASK, "model": model, "stream": True})[2].count(model.encode() + b'"'))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(300)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert results == [12] * 300


def test_runs_as_a_process():
    command = [sys.executable, "-m", "tests.fakes.upstream", "--tokens", "4", "--models", "a,b"]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as process:
        try:
            up = Upstream(port=int(process.stdout.readline()))  # not started: only its address
            assert json.loads(post(up)[2])["usage"]["completion_tokens"] == 4
            assert len(get(up, "/api/tags")["models"]) == 2
        finally:
            os.kill(process.pid, signal.SIGTERM)
        assert process.wait(5) == 0

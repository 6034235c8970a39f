"""Backends that misbehave, through a real gunicorn with two workers.

For each fault: the right fallback, or the right status and envelope; one row a call; one attempt; nothing left open.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import content, wait_until
from tests.e2e.stage import Stage
from tests.fakes import replies
from tests.fakes.replies import (
    CLOSE,
    DONE,
    HANG,
    RESET,
    Play,
    completion,
    cut,
    delta,
    drip,
    error,
    error_document,
    event,
    pause_after_head,
    reply,
    sse,
    usage,
)
from tests.fakes.upstream import Upstream, black_hole_url, refused_url

pytestmark = pytest.mark.e2e

SAID = completion("from the backend", "m")
GZIP = [("Content-Encoding", "gzip")]


@dataclass(frozen=True)
class Fault:
    """What a backend does before it has answered, and what becomes of the call."""

    name: str
    play: Play = ()
    kind: str = r"[a-z0-9_]+"  # of the row
    status: int = 502  # for the client when there is no fallback
    early: bool = False  # played before the request's body is read
    elsewhere: bool = False  # the fault lies at the endpoint, not in `play`: nothing is counted at the fake
    backend: dict[str, Any] = field(default_factory=dict)


def http(status: int, steps: Play, **options: Any) -> Fault:
    return Fault(f"http_{status}", steps, f"http_{status}", **options)


FAULTS = [
    # no connection, no answer
    Fault("refused", kind="refused", elsewhere=True),
    Fault("no_such_host", elsewhere=True, backend={"endpoint": "http://no-such-host.invalid:11434"}),
    Fault("black_hole", kind="timeout", status=504, elsewhere=True),
    Fault("accept_then_hang", kind="timeout", status=504, elsewhere=True),
    Fault("accept_then_close", elsewhere=True),
    Fault("accept_then_reset", elsewhere=True),
    Fault("silence", [HANG], "timeout", 504),
    Fault("headers_then_hang", pause_after_head(reply(200, SAID), HANG), "timeout", 504),
    Fault("stream_headers_then_hang", pause_after_head(sse("x"), HANG), "timeout", 504),
    Fault("comments_then_hang", sse(b": queued\n\n", HANG), "timeout", 504),
    Fault("close_before_answer", [CLOSE]),
    Fault("reset_before_answer", [RESET]),
    Fault("half_a_head", [b"HTTP/1.1 200 OK\r\nContent-Ty", CLOSE]),
    Fault("no_http", [b"SSH-2.0-OpenSSH_9.9\r\n", CLOSE]),
    # broken bodies
    Fault("truncated_json", cut(reply(200, SAID), -10)),
    Fault("truncated_json_by_reset", [*cut(reply(200, SAID), -10)[:-1], 0.05, RESET]),
    Fault("truncated_chunked_json", cut(reply(200, SAID, framing="chunked"), -10)),
    Fault("truncated_unframed_json", cut(reply(200, SAID, framing="close"), -10)),
    Fault("truncated_json_then_hang", cut(reply(200, SAID), -10, HANG), "timeout", 504),
    Fault("bad_chunk_size", replies.bad_chunk_size()),
    Fault("negative_chunk_size", replies.bad_chunk_size(b"-5")),
    Fault("malformed_json", reply(200, b'{"choices": [}')),
    Fault("json_that_is_no_object", reply(200, b"[1, 2]")),
    Fault("json_without_choices", reply(200, b"{}")),
    Fault("empty_body", reply(200, b"")),
    Fault("no_content", [b"HTTP/1.1 204 No Content\r\n\r\n"]),
    Fault("html_with_200", replies.html()),
    Fault("html_named_json", reply(200, "<html>Sign in</html>")),
    Fault("no_gzip_under_gzip", reply(200, b"this is not gzip", GZIP)),
    Fault("truncated_gzip", reply(200, gzip.compress(json.dumps(SAID).encode())[:-15], GZIP)),
    Fault("error_with_200", reply(200, error_document("no memory"))),
    Fault("error_event_first", sse(error_document("no memory"), finish=False)),
    Fault("error_event_after_comment", sse(b": hello\r\n\r\n", error_document("no memory"))),
    Fault("stream_without_event", sse(finish=False)),
    Fault("stream_cut_before_an_event", sse(b'data: {"choi', CLOSE, finish=False)),
    # statuses
    *(http(status, error(status)) for status in (408, 409, 425, 500, 502, 503, 504, 529)),
    *(http(status, error(status)) for status in (401, 403, 404)),
    http(429, replies.rate_limited(), status=429),
    Fault("overloaded_503", error(503, "busy", [("Retry-After", "1")]), "http_503"),
    Fault("html_503", replies.html(503), "http_503"),
    Fault("hanging_500", pause_after_head(error(500), HANG), "http_500"),
    Fault("early_503", [*error(503), CLOSE], "http_503", early=True),
    Fault("early_500_kept_open", error(500), "http_500", early=True),
    *(http(status, lambda _, status=status: replies.redirect(TRAP.url + "/v1/chat/completions", status))
      for status in (301, 302, 303, 307, 308)),
]  # fmt: skip
TRAP = Upstream()  # where the redirects lead: must never be called

INTERRUPTED = {
    "reset": [0.05, RESET],
    "close": [CLOSE],
    "silence": [HANG],
    "end_without_done": [],
    "bad_chunk": [],
    "half_an_event": [b'data: {"choices": [{"index": 0, "del', CLOSE],
}


def interrupted(name: str) -> list[replies.Step]:
    """A stream that says `one two` and then breaks."""
    steps = sse("one", " two", *INTERRUPTED[name], finish=False)
    if name == "bad_chunk":
        steps[-1:] = [b"zz\r\nrubbish\r\n", CLOSE]
    return steps


FINE_STREAMS = {
    "crlf": b"data: " + json.dumps(delta("he", "m")).encode() + b"\r\n\r\n" + DONE.replace(b"\n", b"\r\n"),
    "comments_and_fields": b": hi\n\nid: 1\nretry: 5\nevent: x\n" + event(delta("he", "m")) + b":\n\n" + DONE,
    "no_space_after_colon": event(delta("he", "m")).replace(b"data: ", b"data:") + DONE,
    "unknown_fields": event({**delta("he", "m"), "x_timings": {"big": 12345678901234567890}}) + DONE,
    "umlauts": event(delta("grüße 🙂", "m")) + DONE,
    "usage": event(delta("he", "m", finish="stop")) + event({"choices": [], "usage": usage(7, 3)}) + DONE,
    "tool_calls": event(delta(model="m", tool_calls=[{"index": 0, "function": {"name": "f"}}])) + DONE,
}
FRAMINGS = ("chunked", "close", "length")
ODD_STREAMS = ("huge_line", "trickle", "gzip_stream", "no_done_after_finish")
FINE_BODIES = {
    "gzip_body": replies.gzipped(SAID),
    "chunked_body": reply(200, SAID, framing="chunked"),
    "unframed_body": reply(200, SAID, framing="close"),
    "trickling_body": drip(reply(200, SAID, framing="chunked"), 0.001),
    "json_with_charset": reply(200, SAID, content_type="application/json; charset=utf-8"),
    "json_without_type": reply(200, SAID, content_type=None),
    "unknown_fields_body": reply(200, {**SAID, "x_big": 12345678901234567890, "timings": {"a": 1.5}}),
    "large_body": reply(200, completion("x" * 3_000_000, "m")),
}
CLIENT_MISTAKES = (400, 405, 413, 415, 422)
OTHERS = (
    "stale_close",
    "stale_reset",
    "cookies",
    "private_key",
    "slow_head",
    "named_model",
    "error_mid_stream",
    "leaks",
)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(TRAP)
        backends: dict[str, dict[str, Any]] = {fault.name: fault.backend for fault in FAULTS}
        backends["refused"] = {"endpoint": stack.enter_context(refused_url())}
        backends["black_hole"] = {"endpoint": stack.enter_context(black_hole_url())}
        for name, end in (("hang", HANG), ("close", CLOSE), ("reset", RESET)):
            fake = stack.enter_context(Upstream())
            fake.at_accept(end)
            backends[f"accept_then_{name}"] = {"endpoint": fake.url}
        more = [*(f"cut_{name}" for name in INTERRUPTED), *FINE_STREAMS, *ODD_STREAMS, *FINE_BODIES, *OTHERS]
        backends |= {name: {} for name in [*more, *(f"mistake_{status}" for status in CLIENT_MISTAKES)]}
        backends["private_key"] = {"type": "openai", "apiKeyEnv": "SECRET_KEY"}
        environment = {"SECRET_KEY": SECRET, "LLR_COOLDOWN": "1"}
        yield stack.enter_context(Stage(tmp_path_factory.mktemp("faults"), backends, env=environment))


SECRET = "sk-test-0123456789abcdefghij"
by_name = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


def play(stage: Stage, fault: Fault) -> int:
    """Sets the scene for a fault; how many calls its backend has seen so far."""
    if fault.name == "black_hole" and not sys.platform.startswith("linux"):
        pytest.skip("the accept queue is filled in Linux's way")
    if not fault.elsewhere:
        stage.up.reset()
        stage.up.script(fault.play, path=stage.path(fault.name), repeat=True, early=fault.early)
    return len(stage.calls(fault.name))


def check_rows(stage: Stage, answer: Any, fault: Fault, *, stream: bool) -> None:
    """One row for the failed call and one for the fallback."""
    failed, answered = stage.rows(answer, 2)
    assert (failed["backend"], failed["outcome"], failed["ok"]) == (fault.name, "error", 0)
    assert re.fullmatch(fault.kind, failed["error"]), failed["error"]
    assert len(failed["error"]) < 32
    assert failed["fallback_for"] is None
    assert (answered["backend"], answered["outcome"], answered["ok"]) == ("spare", "ok", 1)
    assert answered["fallback_for"] == fault.name
    assert failed["stream"] == answered["stream"] == int(stream)


# --- before an answer: the fallback is invisible ------------------------------------------------


@by_name
def test_falls_back(stage: Stage, fault: Fault):
    seen = play(stage, fault)
    answer = stage.ask(fault.name)
    assert (answer.status, answer.text) == (200, "from spare")
    assert answer.headers["X-LLR-Backend"] == "spare"
    assert answer.headers["X-LLR-Fallback-For"] == fault.name
    check_rows(stage, answer, fault, stream=False)
    assert len(stage.calls(fault.name)) - seen == (0 if fault.elsewhere else 1)


@by_name
def test_falls_back_in_a_stream(stage: Stage, fault: Fault):
    seen = play(stage, fault)
    with stage.stream(fault.name) as stream:
        events = stream.events()
    assert (stream.status, content(events), events[-1]) == (200, "from spare", "[DONE]")
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    assert stream.headers["X-LLR-Fallback-For"] == fault.name
    check_rows(stage, stream, fault, stream=True)
    assert len(stage.calls(fault.name)) - seen == (0 if fault.elsewhere else 1)


@by_name
@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
def test_alone_it_is_an_error_with_an_envelope(stage: Stage, fault: Fault, streaming: bool):
    play(stage, fault)
    answer = stage.ask(fault.name, alone=True, stream=streaming)
    assert answer.status == fault.status, answer.body
    assert fault.name in answer.error["message"]  # every backend tried is named
    assert answer.error["message"].count("\n") == 0 and "Traceback" not in answer.error["message"]
    assert answer.headers["Content-Type"].startswith("application/json")
    (row,) = stage.rows(answer, 1)
    assert (row["backend"], row["outcome"], row["ok"]) == (fault.name, "error", 0)
    assert re.fullmatch(fault.kind, row["error"]), row["error"]


def test_redirects_led_nowhere(stage: Stage):
    assert stage.router.running
    assert TRAP.connections == 0


# --- after the first event: no fallback, an honest end ------------------------------------------


def check_interrupted(events: list[Any]) -> dict[str, Any]:
    """The text came through, then exactly one error event, and no sign of a proper end."""
    assert content(events) == "one two"
    errors = [each["error"] for each in events if isinstance(each, dict) and "error" in each]
    assert len(errors) == 1 and events[-1] == {"error": errors[0]}, events
    assert "[DONE]" not in events
    assert not any(choice.get("finish_reason") for each in events for choice in each.get("choices", ()))
    return errors[0]


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_stream_that_breaks_ends_with_an_error(stage: Stage, name: str):
    backend, spare = f"cut_{name}", len(stage.spare.chats)
    stage.up.script(interrupted(name), path=stage.path(backend))
    with stage.stream(backend) as stream:
        problem = check_interrupted(stream.events())
    assert stream.status == 200
    assert set(problem) == {"message", "type", "param", "code"}
    (row,) = stage.rows(stream, 1)
    assert (row["backend"], row["outcome"], row["ok"]) == (backend, "error", 0)
    assert len(stage.spare.chats) == spare


def test_a_backends_own_error_event_is_passed_on_once(stage: Stage):
    steps = sse("one", " two", error_document("out of memory", code="oom"), finish=False)
    stage.up.script(steps, path=stage.path("error_mid_stream"))
    with stage.stream("error_mid_stream") as stream:
        problem = check_interrupted(stream.events())
    assert (problem["message"], problem["code"]) == ("out of memory", "oom")
    (row,) = stage.rows(stream, 1)
    assert (row["outcome"], row["ok"]) == ("error", 0)


# --- unusual, and fine --------------------------------------------------------------------------


def check_ok(stage: Stage, answer: Any, backend: str) -> dict[str, Any]:
    assert answer.status == 200
    assert answer.headers["X-LLR-Backend"] == backend
    assert answer.headers["X-LLR-Fallback-For"] is None
    (row,) = stage.rows(answer, 1)
    assert (row["backend"], row["outcome"], row["ok"], row["error"]) == (backend, "ok", 1, None)
    return row


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("name", FINE_STREAMS)
def test_a_stream_passes_byte_for_byte(stage: Stage, name: str, framing: str):
    body = FINE_STREAMS[name]
    stage.up.script(sse(body, finish=False, framing=framing), path=stage.path(name))
    with stage.stream(name) as stream:
        assert stream.read() == body
    row = check_ok(stage, stream, name)
    if name == "usage":
        assert (row["input_tokens"], row["output_tokens"]) == (7, 3)


def test_a_5_mb_line(stage: Stage):
    body = event(delta("x" * 5_000_000, "m")) + DONE
    stage.up.script(sse(body, finish=False), path=stage.path("huge_line"))
    with stage.stream("huge_line") as stream:
        assert stream.read() == body
    check_ok(stage, stream, "huge_line")


def test_a_byte_by_byte_trickle(stage: Stage):
    body = event(delta("grüße", "m")) + event(delta(" zwei", "m")) + DONE
    stage.up.script(drip(sse(body, finish=False), 0.001), path=stage.path("trickle"))
    with stage.stream("trickle") as stream:
        assert stream.read() == body
    check_ok(stage, stream, "trickle")


def test_a_gzip_stream_is_unpacked(stage: Stage):
    body = event(delta("packed", "m")) + DONE
    steps = sse(gzip.compress(body), finish=False, headers=GZIP)
    stage.up.script(steps, path=stage.path("gzip_stream"))
    with stage.stream("gzip_stream") as stream:
        assert stream.read() == body
    assert stream.headers["Content-Encoding"] is None
    check_ok(stage, stream, "gzip_stream")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_end_without_done_after_a_finish_reason_is_an_end(stage: Stage, framing: str):
    body = event(delta("he", "m")) + event(delta(model="m", finish="stop"))
    steps = sse(body, finish=False, framing=framing)
    stage.up.script(steps, path=stage.path("no_done_after_finish"))
    with stage.stream("no_done_after_finish") as stream:
        assert stream.read() == body + DONE
    check_ok(stage, stream, "no_done_after_finish")


@pytest.mark.parametrize("name", FINE_BODIES)
def test_a_body_passes(stage: Stage, name: str):
    stage.up.script(FINE_BODIES[name], path=stage.path(name))
    answer = stage.ask(name)
    check_ok(stage, answer, name)
    expected = SAID if name != "large_body" else completion("x" * 3_000_000, "m")
    assert expected.items() <= answer.json.items()
    if name == "unknown_fields_body":
        assert b'"x_big": 12345678901234567890' in answer.body and answer.json["timings"] == {"a": 1.5}
    assert answer.headers["Content-Encoding"] is None


# --- the client's own mistakes ------------------------------------------------------------------


@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
@pytest.mark.parametrize("status", CLIENT_MISTAKES)
def test_the_clients_mistake_passes_through(stage: Stage, status: int, streaming: bool):
    name, spare = f"mistake_{status}", len(stage.spare.chats)
    document = error_document("temperature must be at most 2", type="invalid_request_error", code="bad_value")
    document["error"] |= {"param": "temperature", "x_extra": 1}
    for _ in range(5):  # never held against the backend
        stage.up.script(reply(status, document), path=stage.path(name))
        answer = stage.ask(name, stream=streaming)
        assert (answer.status, answer.json) == (status, document)
    (row,) = stage.rows(answer, 1)
    assert (row["backend"], row["outcome"], row["error"]) == (name, "error", f"http_{status}")
    assert len(stage.spare.chats) == spare
    check_ok(stage, stage.ask(name), name)


def test_a_model_the_client_named_may_be_missing(stage: Stage):
    document = error_document("model 'nope' not found", type="not_found_error", code="model_not_found")
    for _ in range(8):  # no cool-down
        stage.up.script(reply(404, document), path=stage.path("named_model"))
        answer = stage.router.chat("hi", model="named_model/nope")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert stage.calls("named_model")[-1].model == "nope"
    check_ok(stage, stage.ask("named_model"), "named_model")


# --- connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
@pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])
def test_a_stale_connection_is_retried_once_on_a_fresh_one(stage: Stage, end: replies.End, streaming: bool):
    name = f"stale_{end.name.lower()}"
    path = stage.path(name)
    stage.up.script([end], path=path, when=lambda request: request.nth > 0, repeat=True)
    before = len(stage.calls(name))
    for _ in range(8):
        answer = stage.ask(name, stream=streaming)
        check_ok(stage, answer, name)
    calls = stage.calls(name)[before:]
    assert sum(request.nth == 0 for request in calls) == 8, [(r.connection, r.nth) for r in calls]
    assert any(request.nth > 0 for request in calls), "no connection was kept: nothing was tested"


def test_a_cookie_is_neither_kept_nor_passed_on(stage: Stage):
    steps = reply(200, SAID, [("Set-Cookie", "session=secret; Path=/")])
    stage.up.script(*[steps] * 6, path=stage.path("cookies"))
    for _ in range(6):
        answer = stage.ask("cookies", headers={"Cookie": "mine=1", "Authorization": "Bearer client-key"})
        assert answer.headers["Set-Cookie"] is None
    for request in stage.calls("cookies"):
        assert request.header("Cookie") is None
        assert request.header("Authorization") is None


@pytest.mark.parametrize("status", [400, 401, 403, 500])
def test_our_key_never_shows(stage: Stage, status: int):
    path = "/private_key/chat/completions"
    stage.up.script(error(status, f"wrong key {SECRET}", code=SECRET), path=path)
    answer = stage.ask("private_key", alone=True)
    assert answer.status == (400 if status == 400 else 502)
    assert SECRET.encode() not in answer.body
    request = next(r for r in reversed(stage.up.chats) if r.path.endswith(path))
    assert request.header("Authorization") == f"Bearer {SECRET}"
    assert SECRET not in stage.router.log_text()


def test_a_head_that_trickles_is_no_way_round_the_deadline(stage: Stage):
    """Every line of it comes within the deadline, the end of it never does."""
    steps: list[replies.Step] = [b"HTTP/1.1 200 OK\r\n"]
    for number in range(90):
        steps += [b"X-Line-%d: x\r\n" % number, 0.1]
    stage.up.script(steps, path=stage.path("slow_head"))
    answer = stage.ask("slow_head", timeout=5)
    assert answer.text == "from spare"


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
def test_nothing_leaks(stage: Stage):
    """Every fault four times over: as many descriptors as before, and no connection still talking."""
    pids = stage.router.worker_pids()

    def everything() -> None:
        for fault in FAULTS:
            if fault.status != 504 and not fault.elsewhere and fault.name != "hanging_500":
                stage.up.script(fault.play, fault.play, path=stage.path("leaks"), early=fault.early)
                stage.ask("leaks", alone=True)
                with stage.stream("leaks", alone=True) as stream:
                    stream.read()
        for name in INTERRUPTED:
            if name != "silence":
                stage.up.script(interrupted(name), path=stage.path("leaks"))
                with stage.stream("leaks", alone=True) as stream:
                    stream.read()

    stage.up.reset()
    everything()
    before = descriptors(pids)
    for _ in range(3):
        everything()
    stage.up.wait_quiet()
    wait_until(lambda: descriptors(pids) <= before + 4, 5, f"descriptors to fall to {before}, now {descriptors(pids)}")
    assert stage.router.worker_pids() == pids  # nobody died on the way


def test_the_log_is_quiet(stage: Stage):
    """After all that: no traceback, no prompt text, and both workers still there."""
    log = stage.router.log_text()
    assert "Traceback" not in log
    assert "word word" not in log
    assert len(stage.router.worker_pids()) == 2

"""Backends that misbehave, through a real gunicorn with two workers.

For each fault: the right fallback, or the right status and envelope; one row a call; one attempt; nothing left open.
Every scene is played once at the start, many at the same time; the tests then look at what came of it.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import ROOT, Answer, content, parse_events, wait_until
from tests.e2e.stage import HASTY, Stage
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
from tests.fakes.upstream import Received, Upstream, black_hole_url, refused_url

pytestmark = pytest.mark.e2e

SAID = completion("from the backend", "m")
GZIP = [("Content-Encoding", "gzip")]
SECRET = "sk-test-0123456789abcdefghij"
INSIDE, COUNTS = ROOT / "tests/faults/inside", "counts"  # the workers' own count of their greenlets, once a second
TRAP = Upstream()  # where the redirects lead: must never be called


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


def hangs(name: str, play: Play = (), **options: Any) -> Fault:
    return Fault(name, play, "timeout", 504, backend={"timeouts": HASTY}, **options)


def http(code: int, play: Play, status: int = 502) -> Fault:
    return Fault(f"http_{code}", play, f"http_{code}", status)


def moved(status: int) -> Callable[[Any], list[replies.Step]]:
    return lambda _: replies.redirect(TRAP.url + "/v1/chat/completions", status)


FAULTS = [
    # no connection, no answer
    Fault("refused", kind="refused", elsewhere=True),
    Fault("no_such_host", elsewhere=True, backend={"endpoint": "http://no-such-host.invalid:11434"}),
    hangs("black_hole", elsewhere=True),
    hangs("accept_then_hang", elsewhere=True),
    Fault("accept_then_close", elsewhere=True),
    Fault("accept_then_reset", elsewhere=True),
    hangs("silence", [HANG]),
    hangs("headers_then_hang", pause_after_head(reply(200, SAID), HANG)),
    hangs("stream_headers_then_hang", pause_after_head(sse("x"), HANG)),
    hangs("comments_then_hang", sse(b": queued\n\n", HANG)),
    Fault("close_before_answer", [CLOSE]),
    Fault("reset_before_answer", [RESET]),
    Fault("half_a_head", [b"HTTP/1.1 200 OK\r\nContent-Ty", CLOSE]),
    Fault("no_http", [b"SSH-2.0-OpenSSH_9.9\r\n", CLOSE]),
    # broken bodies
    Fault("truncated_json", cut(reply(200, SAID), -10)),
    Fault("truncated_json_by_reset", [*cut(reply(200, SAID), -10)[:-1], 0.05, RESET]),
    Fault("truncated_chunked_json", cut(reply(200, SAID, framing="chunked"), -10)),
    Fault("truncated_unframed_json", cut(reply(200, SAID, framing="close"), -10)),
    hangs("truncated_json_then_hang", cut(reply(200, SAID), -10, HANG)),
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
    Fault("error_event_before_content_was_sent_on", sse(event(delta("one")) + event(error_document()), finish=False)),
    Fault("error_event_after_comment", sse(b": hello\r\n\r\n", error_document("no memory"))),
    Fault("stream_without_event", sse(finish=False)),
    Fault("stream_cut_before_an_event", sse(b'data: {"choi', CLOSE, finish=False)),
    # statuses
    *(http(code, error(code)) for code in (408, 409, 425, 500, 502, 503, 504, 529)),
    *(http(code, error(code)) for code in (401, 403)),
    http(404, error(404, "model 'm' not found")),  # else an Ollama is asked over /v1
    http(429, replies.rate_limited(0), status=429),  # with a time, it would be passed over afterwards
    Fault("html_503", replies.html(503), "http_503"),
    Fault("hanging_500", pause_after_head(error(500), HANG), "http_500", backend={"timeouts": HASTY}),
    Fault("early_503", [*error(503), CLOSE], "http_503", early=True),
    Fault("early_500_kept_open", error(500), "http_500", early=True),
    *(http(code, moved(code)) for code in (301, 302, 303, 307, 308)),
]
SUDDEN = [fault for fault in FAULTS if not fault.elsewhere and "timeouts" not in fault.backend]  # end by themselves

INTERRUPTED: dict[str, list[replies.Step]] = {
    "reset": [0.05, RESET],
    "close": [CLOSE],
    "silence": [HANG],
    "end_without_done": [],
    "bad_chunk": [],
    "half_an_event": [b'data: {"choices": [{"index": 0, "del', CLOSE],
    "error_event": [0.3, event(error_document("out of memory", code="oom"))],  # by then " two" was sent on
    "error_event_then_hang": [0.3, event(error_document("out of memory", code="oom")), HANG],
}


def interrupted(name: str) -> list[replies.Step]:
    """A stream that says `one two` and then breaks."""
    steps = sse("one", " two", *INTERRUPTED[name], finish=False)
    if name == "bad_chunk":
        steps[-1:] = [b"zz\r\nrubbish\r\n", CLOSE]
    return steps


FRAMINGS = ("chunked", "close", "length")
EVENTS = {
    "crlf": event(delta("he", "m")).replace(b"\n", b"\r\n") + DONE.replace(b"\n", b"\r\n"),
    "comments_and_fields": b": hi\n\nid: 1\nretry: 5\nevent: x\n" + event(delta("he", "m")) + b":\n\n" + DONE,
    "no_space_after_colon": event(delta("he", "m")).replace(b"data: ", b"data:") + DONE,
    "unknown_fields": event({**delta("he", "m"), "x_timings": {"big": 12345678901234567890}}) + DONE,
    "beyond_ascii": event(delta("grüße 🙂", "m")) + DONE,
    "usage": event(delta("he", "m", finish="stop")) + event({"choices": [], "usage": usage(7, 3)}) + DONE,
    "tool_calls": event(delta(model="m", tool_calls=[{"index": 0, "function": {"name": "f"}}])) + DONE,
    "no_done_after_finish": event(delta("he", "m")) + event(delta(model="m", finish="stop")),
    "5_mb_line": event(delta("x" * 5_000_000, "m")) + DONE,
}
STREAMS: dict[str, tuple[Play, bytes]] = {  # what is sent, and what the client reads
    **{
        f"{name}_{framing}": (sse(body, finish=False, framing=framing), body)
        for name, body in EVENTS.items()
        for framing in FRAMINGS
    },
    "trickle": (drip(sse(EVENTS["beyond_ascii"], finish=False), 0.001), EVENTS["beyond_ascii"]),
    "gzip": (sse(gzip.compress(EVENTS["usage"]), finish=False, headers=GZIP), EVENTS["usage"]),
}
ENDLESS = {"usage": usage(10**400, 10**400)}
LARGE = completion("x" * 3_000_000, "m")
BODIES: dict[str, tuple[Play, dict[str, Any]]] = {
    "gzip_body": (replies.gzipped(SAID), SAID),
    "chunked_body": (reply(200, SAID, framing="chunked"), SAID),
    "unframed_body": (reply(200, SAID, framing="close"), SAID),
    "trickling_body": (drip(reply(200, SAID, framing="chunked"), 0.001), SAID),
    "json_with_charset": (reply(200, SAID, content_type="application/json; charset=utf-8"), SAID),
    "json_without_type": (reply(200, SAID, content_type=None), SAID),
    "unknown_fields_body": (reply(200, {**SAID, "x_big": 12345678901234567890, "timings": {"a": 1.5}}), SAID),
    "large_body": (reply(200, LARGE), LARGE),
    "endless_usage": (reply(200, {**SAID, **ENDLESS}), ENDLESS),
}
MISTAKES = (400, 405, 413, 415, 422)
MISTAKE = error_document("temperature must be at most 2", type="invalid_request_error", code="bad_value")
MISTAKE["error"] |= {"param": "temperature", "x_extra": 1}
OTHERS = ("stale_close", "stale_reset", "cookies", "private_key", "slow_head", "named_model", "leaks")


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "native"])
def stage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with ExitStack() as stack:
        stack.enter_context(TRAP)
        backends: dict[str, dict[str, Any]] = {fault.name: dict(fault.backend) for fault in FAULTS}
        backends["refused"]["endpoint"] = stack.enter_context(refused_url())
        backends["black_hole"]["endpoint"] = stack.enter_context(black_hole_url())
        for name, end in (("hang", HANG), ("close", CLOSE), ("reset", RESET)):
            fake = stack.enter_context(Upstream())
            fake.at_accept(end)
            backends[f"accept_then_{name}"]["endpoint"] = fake.url
        more = [*(f"cut_{name}" for name in INTERRUPTED), *STREAMS, *BODIES, *OTHERS]
        backends |= {name: {} for name in [*more, *(f"mistake_{status}" for status in MISTAKES)]}
        backends["private_key"] = {"type": "openai", "apiKeyEnv": "SECRET_KEY"}
        backends |= {f"{name}_{way}": {"timeouts": HASTY} for name in ALL_FAILED for way in ("buffered", "stream")}
        backends["endless_usage"]["price"] = {"input": 1, "output": 2}
        backends["slow_head"] = backends["cut_silence"] = {"timeouts": HASTY}
        folder = tmp_path_factory.mktemp("faults")
        (folder / COUNTS).mkdir()
        environment = {"SECRET_KEY": SECRET, "LLR_COOLDOWN": "1", "PYTHONPATH": str(INSIDE)}
        environment["COUNTS_FOLDER"] = str(folder / COUNTS)
        yield stack.enter_context(Stage(folder, backends, env=environment, native=request.param))


Played = dict[str, Any]  # by scene: what came back, or the exception


@pytest.fixture(scope="module")
def played(stage: Stage) -> Played:
    """All scenes, a few at a time."""
    scenes: dict[str, Callable[[], Any]] = {}
    for fault in FAULTS:
        scenes[fault.name] = lambda fault=fault: play_fault(stage, fault)
    for name in INTERRUPTED:
        scenes[f"cut_{name}"] = lambda name=name: play(stage, f"cut_{name}", interrupted(name), stream=True)
    for name, (steps, _) in STREAMS.items():
        scenes[name] = lambda name=name, steps=steps: play(stage, name, steps, stream=True)
    for name, (steps, _) in BODIES.items():
        scenes[name] = lambda name=name, steps=steps: play(stage, name, steps)
    for status in MISTAKES:
        scenes[f"mistake_{status}"] = lambda status=status: play_mistake(stage, status)

    def safely(scene: Callable[[], Any]) -> Any:
        try:
            return scene()
        except Exception as error:
            return error

    with ThreadPoolExecutor(10) as pool:
        return dict(zip(scenes, pool.map(safely, scenes.values()), strict=True))


def play(stage: Stage, name: str, steps: Play, **body: Any) -> Answer:
    stage.up.script(steps, path=stage.path(name))
    return stage.ask(name, **body)


WAYS = ("routed", "routed_stream", "alone", "alone_stream")


def play_fault(stage: Stage, fault: Fault) -> dict[str, tuple[Answer, list[Received]]]:
    """Each way's answer, and the requests that the faulty backend saw."""
    stage.up.script(fault.play, path=stage.path(fault.name), repeat=True, early=fault.early)
    answers = {}
    for way in WAYS:
        before = len(stage.calls(fault.name))
        answer = stage.ask(fault.name, alone=way.startswith("alone"), stream=way.endswith("stream"))
        answers[way] = (answer, stage.calls(fault.name)[before:])
    return answers


def play_mistake(stage: Stage, status: int) -> list[Answer]:
    """More of them than failures that open a circuit, then an ordinary request."""
    name = f"mistake_{status}"

    def is_wrong(request: Received) -> bool:
        return request.json.get("seed") == 7

    stage.up.script(reply(status, MISTAKE), path=stage.path(name), when=is_wrong, repeat=True)
    return [*(stage.ask(name, stream=number % 2 == 1, seed=7) for number in range(8)), stage.ask(name)]


def result(played: Played, name: str) -> Any:
    if name == "black_hole" and not sys.platform.startswith("linux"):
        pytest.skip("its accept queue is filled in Linux's way")
    if isinstance(played[name], Exception):
        raise played[name]
    return played[name]


# --- before an answer: the fallback is invisible ------------------------------------------------

each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
streaming_or_not = pytest.mark.parametrize("streaming", [False, True], ids=["buffered", "stream"])


@each_fault
@streaming_or_not
def test_falls_back(stage: Stage, played: Played, fault: Fault, streaming: bool):
    answer, calls = result(played, fault.name)["routed_stream" if streaming else "routed"]
    assert answer.status == 200, answer.body
    if streaming:
        assert (content(answer.events), answer.events[-1]) == ("from spare", "[DONE]")
        assert answer.headers["Content-Type"].startswith("text/event-stream")
    else:
        assert answer.text == "from spare"
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Fallback-For"]) == ("spare", fault.name)
    check_attempts(calls, fault)
    failed, answered = stage.rows(answer, 2)
    check_failed(failed, fault)
    assert (answered["backend"], answered["outcome"], answered["ok"]) == ("spare", "ok", 1)
    assert (failed["fallback_for"], answered["fallback_for"]) == (None, fault.name)
    assert failed["stream"] == answered["stream"] == int(streaming)


@each_fault
@streaming_or_not
def test_alone_it_is_an_error_with_an_envelope(stage: Stage, played: Played, fault: Fault, streaming: bool):
    answer, calls = result(played, fault.name)["alone_stream" if streaming else "alone"]
    assert answer.status == fault.status, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    assert fault.name in answer.error["message"]  # every backend tried is named
    assert "\n" not in answer.error["message"] and "Traceback" not in answer.error["message"]
    check_attempts(calls, fault)
    check_failed(stage.only_row(answer), fault)


def check_attempts(calls: list[Received], fault: Fault) -> None:
    """One; two where a kept connection may have died of old age, the second on a fresh one."""
    if not fault.elsewhere and fault.name.endswith("before_answer") and calls[0].nth > 0:
        calls = calls[1:]
        assert [request.nth for request in calls] == [0]
    assert len(calls) == (0 if fault.elsewhere else 1)


def check_failed(row: dict[str, Any], fault: Fault) -> None:
    assert (row["backend"], row["outcome"], row["ok"]) == (fault.name, "error", 0)
    assert re.fullmatch(fault.kind, row["error"]), row["error"]
    assert len(row["error"]) < 32


ALL_FAILED = {  # what the first and the second backend do, and what the client hears
    "both_fail": (error(500), error(503), 502, "all_backends_failed"),
    "both_limited": (replies.rate_limited(7), replies.rate_limited(3), 429, "rate_limit_exceeded"),
    "both_time_out": ([HANG], [HANG], 504, "all_backends_failed"),
    "one_times_out": ([HANG], error(500), 502, "all_backends_failed"),
    "one_limited": (replies.rate_limited(7), error(500), 502, "all_backends_failed"),
}


@pytest.mark.parametrize("name", ALL_FAILED)
@streaming_or_not
def test_when_all_fail_each_is_named(stage: Stage, name: str, streaming: bool):
    first, second, status, code = ALL_FAILED[name]
    backend, marker = f"{name}_{'stream' if streaming else 'buffered'}", f"{name} {streaming}"
    stage.up.script(first, path=stage.path(backend))
    stage.spare.script(second, when=lambda request: request.json.get("user") == marker)
    answer = stage.ask(backend, stream=streaming, user=marker)
    assert (answer.status, answer.error["code"]) == (status, code)
    assert backend in answer.error["message"] and "spare" in answer.error["message"]
    assert answer.headers["Retry-After"] == ("3" if status == 429 else None)
    rows = stage.rows(answer, 2)
    assert [(row["backend"], row["outcome"], row["fallback_for"]) for row in rows] == [
        (backend, "error", None),
        ("spare", "error", backend),
    ]


@pytest.mark.usefixtures("played")
def test_redirects_led_nowhere():
    assert TRAP.connections == 0


# --- after the first event: no fallback, an honest end ------------------------------------------


@pytest.mark.parametrize("name", INTERRUPTED)
def test_a_stream_that_breaks_ends_with_an_error(stage: Stage, played: Played, name: str):
    answer = result(played, f"cut_{name}")
    assert (answer.status, answer.headers["X-LLR-Backend"]) == (200, f"cut_{name}")
    *blocks, last = [block for block in answer.body.split(b"\n\n") if block]
    events = parse_events(b"\n\n".join(blocks))
    assert content(events) == "one two"
    assert not any(choice["finish_reason"] for each in events for choice in each["choices"])
    (problem,) = parse_events(last)
    assert set(problem) == {"error"} and set(problem["error"]) == {"message", "type", "param", "code"}
    if name.startswith("error_event"):  # the backend's own words, once
        assert (problem["error"]["message"], problem["error"]["code"]) == ("out of memory", "oom")
    row = stage.only_row(answer)
    assert (row["backend"], row["outcome"], row["ok"]) == (f"cut_{name}", "error", 0)
    assert row["error"] == "timeout" if name == "silence" else re.fullmatch("[a-z0-9_]{3,31}", row["error"])


# --- unusual, and fine --------------------------------------------------------------------------


def check_ok(stage: Stage, answer: Answer, backend: str) -> dict[str, Any]:
    assert answer.status == 200
    assert (answer.headers["X-LLR-Backend"], answer.headers["X-LLR-Fallback-For"]) == (backend, None)
    assert answer.headers["Content-Encoding"] is None
    row = stage.only_row(answer)
    assert (row["backend"], row["outcome"], row["ok"], row["error"]) == (backend, "ok", 1, None)
    return row


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_passes_byte_for_byte(stage: Stage, played: Played, name: str):
    answer, sent = result(played, name), STREAMS[name][1]
    row = check_ok(stage, answer, name)
    if stage.up.native:  # the router writes the events
        assert (content(answer.events), answer.events[-1]) == (content(parse_events(sent)), "[DONE]")
    else:
        assert answer.body == (sent if DONE.strip() in sent else sent + DONE)
    if name.startswith(("usage", "gzip")):
        assert (row["input_tokens"], row["output_tokens"]) == (7, 3)


@pytest.mark.parametrize("name", BODIES)
def test_a_body_passes(stage: Stage, played: Played, name: str):
    answer = result(played, name)
    check_ok(stage, answer, name)
    if stage.up.native:  # the router writes the document
        assert answer.text == json.loads(json.dumps({**SAID, **BODIES[name][1]}))["choices"][0]["message"]["content"]
        return
    assert BODIES[name][1].items() <= answer.json.items()
    if name == "unknown_fields_body":
        assert b'"x_big": 12345678901234567890' in answer.body and answer.json["timings"] == {"a": 1.5}


# --- the client's own mistakes ------------------------------------------------------------------


@pytest.mark.parametrize("status", MISTAKES)
def test_the_clients_mistake_passes_through(stage: Stage, played: Played, status: int):
    *answers, last = result(played, f"mistake_{status}")
    for answer in answers:
        assert (answer.status, answer.json) == (status, MISTAKE)
        row = stage.only_row(answer)
        assert (row["backend"], row["outcome"], row["error"]) == (f"mistake_{status}", "error", f"http_{status}")
    check_ok(stage, last, f"mistake_{status}")  # it was not held against the backend


def test_a_model_the_client_named_may_be_missing(stage: Stage):
    document = error_document("model 'nope' not found", type="not_found_error", code="model_not_found")
    stage.up.script(*[reply(404, document)] * 8, path=stage.path("named_model"))
    for _ in range(8):
        answer = stage.router.chat("hi", model="named_model/nope")
        assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert stage.calls("named_model")[-1].model == "nope"
    check_ok(stage, stage.ask("named_model"), "named_model")


# --- connections --------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [CLOSE, RESET], ids=["close", "reset"])
@streaming_or_not
def test_a_stale_connection_is_retried_once_on_a_fresh_one(stage: Stage, end: replies.End, streaming: bool):
    name = f"stale_{end.name.lower()}"
    stage.up.script([end], path=stage.path(name), when=lambda request: request.nth > 0, repeat=True)
    before = len(stage.calls(name))
    answers = [stage.ask(name, stream=streaming) for _ in range(8)]
    for answer in answers:
        check_ok(stage, answer, name)
    calls = stage.calls(name)[before:]
    assert sum(request.nth == 0 for request in calls) == 8, [(r.connection, r.nth) for r in calls]
    assert any(request.nth > 0 for request in calls), "no connection was kept: nothing was tested"


def test_cookies_and_credentials_stay_where_they_are(stage: Stage):
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
    request = next(request for request in reversed(stage.up.chats) if request.path.endswith(path))
    assert request.header("Authorization") == f"Bearer {SECRET}"
    assert SECRET not in stage.router.log_text()


def test_a_head_that_trickles_is_no_way_round_the_deadline(stage: Stage):
    """Every line of it comes within the deadline, the end of it never does."""
    steps: list[replies.Step] = [b"HTTP/1.1 200 OK\r\n"]
    for number in range(90):
        steps += [b"X-Line-%d: x\r\n" % number, 0.1]
    stage.up.script(steps, path=stage.path("slow_head"))
    assert stage.ask("slow_head", timeout=5).text == "from spare"


def descriptors(pids: list[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def greenlets(stage: Stage, pids: list[int]) -> int:
    """How many there are, counted from now on."""
    now = time.time()
    files = [stage.router.folder / COUNTS / str(pid) for pid in pids]
    wait_until(lambda: all(file.exists() and file.stat().st_mtime > now for file in files), 20, "a count of greenlets")
    return sum(int(file.read_text()) for file in files)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts descriptors in /proc")
@pytest.mark.usefixtures("played")
def test_nothing_leaks(stage: Stage):
    """Faults four times over: as many descriptors and greenlets as before, no connection still talking, and nobody
    died."""
    pids = stage.router.worker_pids()

    def some_of_everything() -> None:
        for fault in SUDDEN:
            stage.up.script(fault.play, fault.play, path=stage.path("leaks"), early=fault.early)
            stage.ask("leaks", alone=True)
            stage.ask("leaks", alone=True, stream=True)
        for name in INTERRUPTED:
            if name != "silence":
                stage.up.script(interrupted(name), path=stage.path("leaks"))
                stage.ask("leaks", alone=True, stream=True)

    some_of_everything()
    before, waiting = descriptors(pids), greenlets(stage, pids)
    for _ in range(3):
        some_of_everything()
    stage.up.wait_quiet()
    wait_until(lambda: descriptors(pids) <= before + 4, 5, f"descriptors to fall to {before}, now {descriptors(pids)}")
    wait_until(lambda: greenlets(stage, pids) <= waiting + 4, 60, f"greenlets to be {waiting} again")
    assert stage.router.worker_pids() == pids


@pytest.mark.usefixtures("played")
def test_the_log_stays_quiet(stage: Stage):
    """After all that: no traceback, no prompt text."""
    log = stage.router.log_text()
    assert "Traceback" not in log
    assert "word word" not in log

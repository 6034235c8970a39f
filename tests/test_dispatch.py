"""Dispatching to fake backends: order, what stops it, one record a call, the privacy gate, disconnects, places."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import weakref
from typing import Any

import gevent
import pytest

from app.backends.reply import StoredDocument
from app.call import Call
from app.dispatch import dispatch
from app.errors import (
    AllBackendsFailed,
    BackendDenied,
    BackendError,
    BackendProtocol,
    BackendRateLimited,
    BackendRejected,
    BackendServerError,
    BackendTimeout,
    BackendUnavailable,
    CannotServe,
    CapabilityMissing,
    ClientGone,
    ModelNotLoaded,
    NoPlace,
    PrivacyViolation,
    PromptTooLong,
    ServerBusy,
    StreamInterrupted,
)
from app.places import Place
from app.types import (
    Buffered,
    Classification,
    Decision,
    Kind,
    Lane,
    ModelFacts,
    Plan,
    Price,
    Reason,
    Reply,
    StoredRequest,
    Streamed,
    Target,
    Why,
    Wire,
)
from app.wire.chat.errors import error_document
from tests import build
from tests.fakes.backends import FakeStream, Stage, whole

TAGS = Classification("code", "low", "normal", "text", "any", 10)


def decision(*names: str, private: bool = False, primary: str | None = None, reason: str = "route") -> Decision:
    targets = tuple(Target(name, f"{name}-model") for name in names)
    first = primary or names[0]
    return Decision(route="r1", targets=targets, trace=(), primary=first, reason=reason, private=private)


def run(stage: Stage, *names: str, stream: bool = False, **fields: Any) -> Reply:
    """`fields` are those of `decision`."""
    return dispatch(Plan(build.request(stream=stream), TAGS, decision(*names, **fields)), stage.services)


def lines(stage: Stage) -> list[tuple[Any, ...]]:
    """What each record says of how it went."""
    return [(call.backend, call.outcome, call.error, call.fallback_for) for call in stage.records]


def drained(reply: Reply) -> bytes:
    assert isinstance(reply, Streamed)
    return b"".join(reply.chunks)


# --- what a backend keeps ------------------------------------------------------------------------

LOOKUP = StoredRequest(request_id="req-1", method="GET", path="/resp_1", keeper=Target("a", "m"), private=False)


def look_up(stage: Stage, request: StoredRequest = LOOKUP) -> Reply:
    kept = Decision(
        route="stored", targets=(request.keeper,), trace=(), primary="a", reason="continuation", private=request.private
    )
    return dispatch(Plan(request, None, kept), stage.services)


def test_a_lookup_is_a_call_with_a_record_of_its_own_kind() -> None:
    document = {"id": "resp_1", "usage": {"input_tokens": 3, "output_tokens": 4}}
    stage = Stage({"a": [StoredDocument(b"{}", document)]}, prices={"a": Price(1, 1)})
    reply = look_up(stage)
    assert isinstance(reply, Buffered) and reply.document == document and reply.wire is Wire.RESPONSES
    (call,) = stage.records
    assert (call.kind, call.route, call.surface, call.reason) == ("stored", "stored", "responses", "continuation")
    assert (call.outcome, call.sent_bytes, call.destination, call.stream) == ("ok", 0, "fake", False)
    assert (call.input_tokens, call.output_tokens, call.cost_usd, call.finish) == (None, None, None, None)
    assert {getattr(call, name) for name in ("task", "complexity", "sensitivity", "tokens", "difficulty")} == {None}
    assert stage.in_flight == 0


def test_a_private_lookup_stops_at_the_gate() -> None:
    stage = Stage({"a": []})
    with pytest.raises(AllBackendsFailed):
        look_up(stage, dataclasses.replace(LOOKUP, private=True))
    assert stage.called == [] and lines(stage) == [("a", "error", "privacy", None)]
    stage = Stage({"a": [StoredDocument(b"{}", {})]}, local=frozenset({"a"}))
    look_up(stage, dataclasses.replace(LOOKUP, private=True))
    assert stage.called == ["a"]


def test_a_lookup_loads_no_model() -> None:
    stage = Stage({"a": [StoredDocument(b"{}", {})]})
    stage.backends["a"].must_load = lambda _: True  # type: ignore[method-assign]  # the seam of the backend
    stage.backends["a"].load = lambda *_: pytest.fail("loaded")  # type: ignore[method-assign]
    look_up(stage)
    assert [call.load_ms for call in stage.records] == [None]


def test_a_call_waits_for_the_load_of_its_model() -> None:
    """The gate is passed before it, and again after it; the load of a private request tells no prompt."""
    stage = Stage({"home": []}, local=frozenset({"home"}))
    home, steps = stage.backends["home"], []
    home.must_load = lambda _: True  # type: ignore[method-assign]
    home.load = lambda model: steps.append(f"load {model}")  # type: ignore[method-assign]
    home.host_of_model = lambda model: steps.append(f"gate {model}") or ""  # type: ignore[method-assign]
    run(stage, "home", private=True)
    assert steps == ["gate home-model", "load home-model", "gate home-model"]
    home.host_of_model = lambda _: "ollama.com:443"  # type: ignore[method-assign]
    steps.clear()
    with pytest.raises(AllBackendsFailed):
        run(stage, "home", private=True)
    assert steps == []


def test_a_load_that_fails_fails_the_call() -> None:
    stage = Stage({"a": [], "b": []})
    stage.backends["a"].must_load = lambda _: True  # type: ignore[method-assign]
    stage.backends["a"].load = lambda _: _raise(BackendTimeout("did not load"))  # type: ignore[method-assign]
    assert run(stage, "a", "b").target.backend == "b"
    assert lines(stage) == [("a", "error", "timeout", None), ("b", "ok", None, "a")]
    assert stage.called == ["b"]


def _raise(error: Exception) -> None:
    raise error


def test_a_lookup_waits_for_a_place_and_gives_it_back() -> None:
    stage = Stage({"a": [StoredDocument(b"{}", {})]}, limits={"a": 1})
    place = stage.places.take([Target("a", "m")])
    with pytest.raises(AllBackendsFailed):
        look_up(stage)
    assert lines(stage) == [("a", "error", "busy", None)]
    stage.places.release(place)
    look_up(stage)
    assert stage.in_flight == 0


def test_a_lookup_is_counted_by_the_circuit() -> None:
    stage = Stage({"a": [BackendTimeout("late")] * 3 + [StoredDocument(b"{}", {})]})
    for _ in range(3):
        with pytest.raises(AllBackendsFailed):
            look_up(stage)
    assert stage.circuits.unhealthy() == {"a"}
    look_up(stage)  # the only backend that can answer is tried all the same
    assert stage.circuits.unhealthy() == frozenset()


def test_a_client_that_leaves_ends_a_lookup() -> None:
    stage = Stage({"a": [ClientGone()]})
    with pytest.raises(ClientGone):
        look_up(stage)
    assert lines(stage) == [("a", "cancelled", None, None)] and stage.in_flight == 0


# --- order --------------------------------------------------------------------------------------


def test_the_first_target_answers_and_no_other_is_asked() -> None:
    answer = whole("hello")
    stage = Stage({"a": [answer], "b": []})
    reply = run(stage, "a", "b")
    assert isinstance(reply, Buffered)
    assert (reply.body, reply.document) == (answer.body, answer.document)
    assert (reply.target, reply.decision.route, reply.fallback_for) == (Target("a", "a-model"), "r1", None)
    assert stage.called == ["a"]
    assert lines(stage) == [("a", "ok", None, None)]


PASSED_ON = [
    (BackendUnavailable("x"), "refused"),
    (BackendUnavailable("x", kind="dns"), "dns"),
    (BackendUnavailable("KEY is not set", kind="no_key"), "no_key"),
    (BackendTimeout("x"), "timeout"),
    (BackendProtocol("x"), "protocol"),
    (BackendProtocol("x", kind="reset"), "reset"),
    (BackendRateLimited("x"), "http_429"),
    (BackendServerError("x", kind="http_503"), "http_503"),
    (BackendServerError("x", kind="http_408"), "http_408"),
    (BackendDenied("x", kind="http_401"), "http_401"),
    (BackendDenied("x", kind="http_404"), "http_404"),
]


@pytest.mark.parametrize("error, kind", PASSED_ON, ids=[kind for _, kind in PASSED_ON])
@pytest.mark.parametrize("stream", [False, True], ids=["buffered", "streaming"])
def test_what_goes_on_to_the_next_target(error: BackendError, kind: str, stream: bool) -> None:
    answer = FakeStream(b"data: 1\n\n") if stream else whole()
    stage = Stage({"a": [error], "b": [answer], "c": []})
    reply = run(stage, "a", "b", "c", stream=stream)
    assert (reply.target.backend, reply.fallback_for) == ("b", "a")
    if stream:
        assert drained(reply) == b"data: 1\n\n"
    assert stage.called == ["a", "b"]
    assert lines(stage) == [("a", "error", kind, None), ("b", "ok", None, "a")]
    assert [call.backend_failed for call in stage.records] == [error.backend_failed, False]
    assert stage.in_flight == 0


def test_each_backend_is_tried_once_in_order() -> None:
    order: list[str] = []

    def fails(name: str) -> Any:
        def answer() -> Any:
            order.append(name)
            raise BackendTimeout("late")

        return answer

    stage = Stage({name: [fails(name)] for name in "abc"})
    with pytest.raises(AllBackendsFailed):
        run(stage, "c", "a", "b")
    assert order == ["c", "a", "b"]
    assert lines(stage) == [
        ("c", "error", "timeout", None),
        ("a", "error", "timeout", "c"),
        ("b", "error", "timeout", "c"),
    ]


def test_a_shifted_primary_is_no_fallback_and_a_fallback_that_went_first_is_one() -> None:
    stage = Stage({"slow": [], "fast": [BackendTimeout("x")]})
    reply = run(stage, "fast", "slow", primary="slow", reason="spill")
    assert reply.fallback_for == "fast"
    assert lines(stage) == [("fast", "error", "timeout", None), ("slow", "ok", None, "fast")]
    assert [call.reason for call in stage.records] == ["spill", "fallback"]


@pytest.mark.parametrize("names", ["ab", "a"], ids=["another answers", "all fail"])
def test_a_failed_call_leaves_nothing_for_the_garbage_collector(names: str) -> None:
    """An error that holds its frames, which hold the error, would hold the request too, until somebody looks."""
    errors = [BackendTimeout("slow")]
    left = weakref.ref(errors[0])

    def fail() -> None:
        raise errors.pop()

    stage = Stage({"a": [fail], "b": [whole()]})
    gc.disable()
    try:
        with contextlib.suppress(AllBackendsFailed):
            run(stage, *names)
        assert not errors and left() is None
    finally:
        gc.enable()


def test_the_clients_own_mistake_ends_it() -> None:
    error = BackendRejected("answered 400", kind="http_400", status=400, document={"error": {"message": "no"}})
    stage = Stage({"a": [BackendTimeout("x")], "b": [error], "c": []})
    with pytest.raises(BackendRejected) as caught:
        run(stage, "a", "b", "c")
    assert caught.value is error
    assert caught.value.target == ("b", "b-model")
    assert lines(stage) == [("a", "error", "timeout", None), ("b", "error", "http_400", "a")]
    assert [call.backend_failed for call in stage.records] == [True, False]
    assert stage.circuits.states() == {"a": "closed", "b": "closed"}


# --- refusals by a model that cannot serve the request -------------------------------------------


def too_long(tokens: int | None = None, window: int | None = None) -> PromptTooLong:
    return PromptTooLong("answered 400", tokens=tokens, window=window, backend_text="my secret is too long")


def lacking(model: str, capability: str) -> CapabilityMissing:
    return CapabilityMissing("answered 400", lacks=[(model, capability)], backend_text="my secret")


@pytest.mark.parametrize("error", [too_long(9, 5), too_long(), lacking("m", "tools")], ids=lambda error: error.kind)
def test_another_model_may_serve_the_request(error: BackendError) -> None:
    stage = Stage({"a": [error], "b": [whole()]})
    reply = run(stage, "a", "b")
    assert (reply.target.backend, reply.failed) == ("b", f"a:{error.kind}")
    assert lines(stage) == [("a", "error", error.kind, None), ("b", "ok", None, "a")]
    assert stage.circuits.states() == {"a": "closed", "b": "closed"}


@pytest.mark.parametrize(
    ("declared", "facts", "is_called"),
    [
        (8, None, False),
        (9, None, True),
        (None, None, True),
        (None, ModelFacts(window=8, loaded=True), False),
        (None, ModelFacts(window=8), False),
        (None, ModelFacts(window=8, loaded=False), True),  # a belief
        (9, ModelFacts(window=8, loaded=True), False),
        (8, ModelFacts(window=9, loaded=True), False),
        (None, ModelFacts(loaded=True), True),
    ],
)
@pytest.mark.parametrize("is_unhealthy", [False, True])
def test_a_window_that_is_too_small_by_the_count_is_not_tried(
    declared: int | None, facts: ModelFacts | None, is_called: bool, is_unhealthy: bool
) -> None:
    failing = [BackendTimeout("late")] * 3 if is_unhealthy else []
    stage = Stage({"a": [too_long(9, 5)], "b": [*failing, whole()], "c": [whole()]})
    for _ in failing:
        with pytest.raises(AllBackendsFailed):
            run(stage, "b")
    before, windows = len(stage.backends["b"].calls), {"*": declared} if declared else {}
    stage.backends["b"].config = dataclasses.replace(stage.backends["b"].config, context_windows=windows)
    stage.facts = {"b": {"b-model:latest": facts}} if facts else {}
    if is_unhealthy:
        stage.backends["c"].answers = [too_long(9, 5)]
        with contextlib.suppress(PromptTooLong):
            run(stage, "a", "b", "c")
    else:
        reply = run(stage, "a", "b", "c")
        assert reply.target.backend == ("b" if is_called else "c")
        skipped = [step.outcome for step in reply.trace if "skipped" in step.outcome]
        assert skipped == ([] if is_called else ["b skipped: 9 tokens, its window holds 8"])
    assert len(stage.backends["b"].calls) - before == is_called


NOBODY = [
    ([too_long(9, 5), too_long(9, 7)], "context_length_exceeded", 7),
    ([too_long(9, 7), too_long(9, 5)], "context_length_exceeded", 7),
    ([too_long(), too_long(9, 5)], "context_length_exceeded", 5),
    ([lacking("x", "vision"), too_long(9, 5)], "context_length_exceeded", 5),
    ([too_long(9, 5), lacking("x", "vision")], "context_length_exceeded", 5),
    ([lacking("x", "vision"), lacking("y", "tools")], "unsupported_by_models", None),
]


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize(("errors", "code", "window"), NOBODY)
def test_no_model_can_serve_the_request(
    errors: list[BackendError], code: str, window: int | None, private: bool
) -> None:
    stage = Stage({"a": errors[:1], "b": errors[1:]}, local=frozenset("ab"))
    with pytest.raises(CannotServe) as caught:
        run(stage, "a", "b", private=private)
    error = caught.value
    assert (error.status, error.code) == (400, code)
    assert [step.outcome for step in error.trace] == [
        f"{name} failed: {each.kind}" for name, each in zip("ab", errors, strict=True)
    ]
    told = str(error_document(error))
    assert "secret" not in told
    if code == "unsupported_by_models":
        assert "x does not support vision; y does not support tools" in told
    elif private:
        assert f"It has 9 tokens, and {window} fit" in told
    else:
        assert error.window == window


def test_a_target_that_failed_may_serve_the_request_later() -> None:
    stage = Stage({"a": [too_long(9, 5)], "b": [BackendTimeout("late")]})
    with pytest.raises(AllBackendsFailed):
        run(stage, "a", "b")


# --- busy servers -------------------------------------------------------------------------------


def test_a_busy_server_is_passed_over_until_it_wants_calls_again() -> None:
    stage = Stage({"a": [ServerBusy("answered 503 (busy)", retry_after_s=5.0), whole()], "b": []})
    assert run(stage, "a", "b").target.backend == "b"
    assert run(stage, "a", "b").target.backend == "b"
    stage.now += 5
    assert run(stage, "a", "b").target.backend == "a"
    assert lines(stage) == [
        ("a", "error", "http_503", None), ("b", "ok", None, "a"), ("b", "ok", None, "a"), ("a", "ok", None, None),
    ]  # fmt: skip
    assert not any(call.backend_failed for call in stage.records)


def test_a_busy_server_is_tried_when_nothing_else_is_left() -> None:
    stage = Stage({"a": [ServerBusy("answered 503 (busy)", retry_after_s=5.0), whole()], "b": [BackendTimeout("late")]})
    with pytest.raises(AllBackendsFailed):
        run(stage, "a", "b")
    assert run(stage, "a", "b").target.backend == "a"
    assert stage.called.count("b") == 2


def test_a_busy_server_is_tried_before_an_unhealthy_one() -> None:
    stage = Stage({"ill": [], "busy": []})
    stage.circuits.note(build.record(backend="busy", outcome="error", error="http_429", busy=True, retry_after_s=9.0))
    for _ in range(3):
        stage.circuits.note(build.record(backend="ill", outcome="error", error="timeout", backend_failed=True))
    assert run(stage, "ill", "busy").target.backend == "busy"


# --- nobody answered ----------------------------------------------------------------------------

TIMEOUT, REFUSED = BackendTimeout("did not answer in time"), BackendUnavailable("connection refused at http://x")
LIMITED = [BackendRateLimited("answered 429", retry_after_s=wait) for wait in (30.0, 7.0)]
ALL_FAILED = [
    ([TIMEOUT, TIMEOUT], 504, "timeout_error", "all_backends_failed", None),
    ([TIMEOUT, REFUSED], 502, "server_error", "all_backends_failed", None),
    ([REFUSED, REFUSED], 502, "server_error", "all_backends_failed", None),
    (LIMITED, 429, "rate_limit_error", "rate_limit_exceeded", 7.0),
    ([LIMITED[0], TIMEOUT], 502, "server_error", "all_backends_failed", None),
    ([BackendRateLimited("x"), LIMITED[0]], 429, "rate_limit_error", "rate_limit_exceeded", 1.0),
    ([BackendRateLimited("x")], 429, "rate_limit_error", "rate_limit_exceeded", 1.0),
    ([NoPlace("x")], 503, "server_error", "busy", 1.0),
    ([ServerBusy("x", retry_after_s=9.0), LIMITED[0]], 503, "server_error", "busy", 9.0),
    ([ServerBusy("x"), REFUSED], 502, "server_error", "all_backends_failed", None),
]


@pytest.mark.parametrize("errors, status, type_, code, wait", ALL_FAILED)
def test_all_failed(errors: list[BackendError], status: int, type_: str, code: str, wait: float | None) -> None:
    names = "ab"[: len(errors)]
    stage = Stage({name: [error] for name, error in zip(names, errors, strict=True)})
    with pytest.raises(AllBackendsFailed) as caught:
        run(stage, *names)
    failed = caught.value
    assert (failed.status, failed.type, failed.code, failed.retry_after_s) == (status, type_, code, wait)
    assert len(stage.records) == len(errors)


def test_the_message_names_each_backend_and_what_happened() -> None:
    stage = Stage(
        {"a": [REFUSED], "b": [BackendServerError("answered 500", kind="http_500", backend_text="CUDA out of memory")]}
    )
    with pytest.raises(AllBackendsFailed) as caught:
        run(stage, "a", "b")
    assert caught.value.message == (
        "a: connection refused at http://x; b: answered 500: CUDA out of memory"
    )  # fmt: skip


def test_the_clients_mistake_in_a_private_request_is_worded_by_us() -> None:
    """The backend's document may quote the prompt."""
    quoting = {"message": "no: my secret", "code": "my secret"}
    error = BackendRejected(
        "answered 422",
        kind="http_422",
        status=422,
        document={"error": quoting},
        backend_text="my secret",
        code="my secret",
    )
    stage = Stage({"a": [error]}, local=frozenset({"a"}))
    with pytest.raises(BackendRejected) as caught:
        run(stage, "a", private=True)
    assert (caught.value.status, caught.value.document, caught.value.target) == (422, None, ("a", "a-model"))
    assert "secret" not in json.dumps(error_document(caught.value)) and "answered 422" in caught.value.message
    assert lines(stage) == [("a", "error", "http_422", None)]


def test_what_a_backend_said_of_a_private_request_is_not_repeated() -> None:
    error = BackendServerError("answered 500", kind="http_500", backend_text="cannot parse 'my secret'")
    stage = Stage({"a": [error]}, local=frozenset("a"))
    with pytest.raises(AllBackendsFailed) as caught:
        run(stage, "a", private=True)
    assert caught.value.message == "a: answered 500"


# --- one record a call --------------------------------------------------------------------------


def test_a_record_says_it_all() -> None:
    stage = Stage({"a": [whole(tokens=(1000, 500))]}, prices={"a": Price(2.0, 10.0)})
    run(stage, "a")
    (call,) = stage.records
    assert (call.request_id, call.kind, call.backend, call.model) == ("req-1", "live", "a", "a-model")
    assert (call.route, call.surface, call.stream, call.task, call.complexity) == ("r1", "chat", False, "code", "low")
    assert (call.input_tokens, call.output_tokens, call.cost_usd) == (1000, 500, 0.007)
    assert call.ttfb_ms is None
    assert 0 <= call.latency_ms < 1000
    assert call.ts_ms > 1_600_000_000_000


@pytest.mark.parametrize(
    "price, tokens, cost",
    [
        (None, (10, 10), None),
        (Price(0, 0), (10, 10), 0.0),
        (Price(0, 0), None, 0.0),
        (Price(1, 0), (10, 10), 0.00001),
        (Price(1, 2), None, None),
    ],
)
def test_cost_is_unknown_rather_than_wrong(price: Price | None, tokens: Any, cost: float | None) -> None:
    stage = Stage({"a": [whole(tokens=tokens)]}, prices={"a": price} if price else None)
    run(stage, "a")
    assert stage.records[0].cost_usd == cost


def test_a_stream_is_recorded_when_it_ends() -> None:
    stream = FakeStream(b"1", b"2", b"3", tokens=(7, 9))
    stage = Stage({"a": [stream]}, prices={"a": Price(1_000_000, 0)})
    reply = run(stage, "a", stream=True)
    assert isinstance(reply, Streamed)
    assert stage.records == []
    assert stage.in_flight == 1
    assert list(reply.chunks) == [b"1", b"2", b"3"]
    (call,) = stage.records
    assert (call.outcome, call.stream, call.input_tokens, call.output_tokens) == ("ok", True, 7, 9)
    assert call.cost_usd == 7.0
    assert call.ttfb_ms is not None
    assert 0 <= call.ttfb_ms <= call.latency_ms + 1
    assert list(reply.chunks) == []
    reply.chunks.close()  # type: ignore[attr-defined]
    assert len(stage.records) == 1
    assert stage.in_flight == 0


def test_a_whole_answer_to_a_streaming_request_is_buffered() -> None:
    stage = Stage({"a": [whole()]})
    reply = run(stage, "a", stream=True)
    assert isinstance(reply, Buffered)
    assert (stage.records[0].stream, stage.records[0].ttfb_ms) == (True, None)
    assert stage.backends["a"].calls[0][2] is True


def test_a_stream_that_breaks_is_the_backends_failure_and_no_fallback_follows() -> None:
    stage = Stage({"a": [FakeStream(b"1", StreamInterrupted("cut", kind="truncated"))], "b": []})
    reply = run(stage, "a", "b", stream=True)
    assert isinstance(reply, Streamed)
    assert next(reply.chunks) == b"1"
    with pytest.raises(StreamInterrupted):
        next(reply.chunks)
    assert lines(stage) == [("a", "error", "truncated", None)]
    assert stage.records[0].backend_failed
    assert stage.called == ["a"]
    reply.chunks.close()  # type: ignore[attr-defined]
    assert (len(stage.records), stage.in_flight) == (1, 0)


@pytest.mark.parametrize("read", [0, 1, 2], ids=["before a byte", "in the middle", "before the end is seen"])
def test_a_stream_closed_before_its_end_is_cancelled_and_closed(read: int) -> None:
    stream = FakeStream(b"1", b"2", tokens=(1, 2))
    stage = Stage({"a": [stream]})
    reply = run(stage, "a", stream=True)
    assert isinstance(reply, Streamed)
    for _ in range(read):
        next(reply.chunks)
    reply.chunks.close()  # type: ignore[attr-defined]
    reply.chunks.close()  # type: ignore[attr-defined]
    assert stream.closed >= 1
    assert lines(stage) == [("a", "cancelled", None, None)]
    assert not stage.records[0].backend_failed
    assert stage.in_flight == 0
    assert stage.circuits.states() == {"a": "closed"}


@pytest.mark.parametrize("error", [ClientGone(), GeneratorExit(), KeyboardInterrupt(), ValueError("bug")])
def test_whatever_breaks_a_stream_from_our_side_closes_it(error: BaseException) -> None:
    stream = FakeStream(b"1", error)
    stage = Stage({"a": [stream]})
    reply = run(stage, "a", stream=True)
    assert isinstance(reply, Streamed)
    next(reply.chunks)
    with pytest.raises(type(error)):
        next(reply.chunks)
    assert stream.closed == 1
    assert lines(stage) == [("a", "cancelled", None, None)]
    assert stage.in_flight == 0


# --- disconnects and bugs while waiting ---------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_cancelled_and_nothing_else_is_tried(stream: bool) -> None:
    stage = Stage({"a": [BackendTimeout("x")], "b": [ClientGone()], "c": []})
    with pytest.raises(ClientGone):
        run(stage, "a", "b", "c", stream=stream)
    assert lines(stage) == [("a", "error", "timeout", None), ("b", "cancelled", None, "a")]
    assert stage.called == ["a", "b"]
    assert stage.in_flight == 0


def test_a_bug_in_a_backend_is_recorded_and_not_taken_for_its_failure() -> None:
    stage = Stage({"a": [ZeroDivisionError()], "b": []})
    with pytest.raises(ZeroDivisionError):
        run(stage, "a", "b")
    assert lines(stage) == [("a", "error", "internal", None)]
    assert not stage.records[0].backend_failed
    assert stage.in_flight == 0


# --- privacy ------------------------------------------------------------------------------------


def test_a_private_request_reaches_no_backend_that_is_not_local() -> None:
    """Whatever was decided: the gate stands just before the call."""
    stage = Stage({"cloud": [], "home": []}, local=frozenset({"home"}))
    reply = run(stage, "cloud", "home", private=True)
    assert reply.target.backend == "home"
    assert reply.decision.private
    assert stage.called == ["home"]
    assert lines(stage) == [("cloud", "error", "privacy", None), ("home", "ok", None, "cloud")]
    assert not stage.records[0].backend_failed
    assert stage.backends["home"].calls[0][3] is True


def test_locality_is_asked_at_the_call_not_at_the_decision() -> None:
    stage = Stage({"a": [BackendTimeout("x")], "b": []}, local=frozenset("ab"))
    leave = stage.backends["a"].answers[0]

    def moves_away() -> Any:
        stage.local = frozenset("a")
        assert isinstance(leave, BaseException)
        raise leave

    stage.backends["a"].answers[0] = moves_away
    with pytest.raises(AllBackendsFailed) as caught:
        run(stage, "a", "b", private=True)
    assert stage.called == ["a"]
    assert caught.value.message == "a: x; b: the request is private and this backend is not local: not called"
    assert isinstance(caught.value.failures[1][1], PrivacyViolation)


def test_a_cloud_model_of_a_local_backend_is_not_called_either() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}))
    there = Decision(
        route="r", targets=(Target("home", "gpt-oss:120b-cloud"),), trace=(), primary="home", private=True
    )  # fmt: skip
    with pytest.raises(AllBackendsFailed):
        dispatch(Plan(build.request(), TAGS, there), stage.services)
    assert stage.called == []


def to(stage: Stage, *models: str, private: bool = True) -> Any:
    """A request for these models of `home`, in this order."""
    targets = tuple(Target("home", model) for model in models)
    decision = Decision(route="r", targets=targets, trace=(), primary="home", private=private)
    return dispatch(Plan(build.request(), TAGS, decision), stage.services)


def test_a_private_request_asks_the_server_last_and_goes_on_to_the_next_target() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}), limits={"home": 1})
    home = stage.backends["home"]
    places: list[int] = []

    def host_of_model(model: str) -> str:
        places.append(stage.in_flight)
        return "ollama.com:443" if model == "moved" else ""

    home.host_of_model = host_of_model  # type: ignore[method-assign]  # the seam of the backend
    assert to(stage, "moved", "own").target.model == "own"
    assert places == [1, 1], "it has its place already: waiting for one takes longer than the answer holds"
    assert [call[1].model for call in home.calls] == ["own"]
    assert [(call.model, call.error, call.destination, call.backend_failed) for call in stage.records] == [
        ("moved", "privacy", None, False),
        ("own", None, None, False),
    ]
    assert stage.in_flight == 0


def test_a_request_that_is_not_private_asks_nothing() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}))
    stage.backends["home"].host_of_model = lambda _: pytest.fail("asked")  # type: ignore[method-assign]
    assert to(stage, "moved", private=False).target.model == "moved"


def test_a_server_that_does_not_say_gets_no_private_request_and_keeps_its_circuit() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}))

    def host_of_model(model: str) -> str:
        raise PrivacyViolation(f"it did not say where it runs {model}")

    stage.backends["home"].host_of_model = host_of_model  # type: ignore[method-assign]
    for _ in range(5):
        with pytest.raises(AllBackendsFailed):
            to(stage, "m")
    assert stage.called == []
    assert stage.circuits.unhealthy() == frozenset()
    assert to(stage, "m", private=False).target.model == "m"


def test_a_server_that_cannot_be_reached_to_be_asked_is_left_alone_like_one_that_cannot_be_called() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}))

    def host_of_model(_: str) -> str:
        raise BackendUnavailable("connection refused")

    stage.backends["home"].host_of_model = host_of_model  # type: ignore[method-assign]
    for _ in range(3):
        with pytest.raises(AllBackendsFailed):
            to(stage, "m")
    assert stage.circuits.unhealthy() == {"home"}


def test_the_row_names_the_host_that_runs_the_model() -> None:
    stage = Stage({"home": []}, local=frozenset({"home"}))
    stage.model_hosts = {"home": {"moved:latest": "ollama.com:443", "own:latest": ""}}
    for model in ("moved", "own", "unknown", "kimi:cloud"):
        to(stage, model, private=False)
    assert [(call.model, call.destination) for call in stage.records] == [
        ("moved", "ollama.com:443"),
        ("own", None),
        ("unknown", None),
        ("kimi:cloud", "fake"),
    ]


def test_a_request_that_is_not_private_may_go_anywhere() -> None:
    stage = Stage({"cloud": []})
    assert run(stage, "cloud").target.backend == "cloud"
    assert stage.backends["cloud"].calls[0][3] is False


# --- what left this machine ---------------------------------------------------------------------


def test_a_row_says_where_a_request_went_and_how_much_of_it() -> None:
    stage = Stage({"cloud": [BackendTimeout("x")], "home": []}, local=frozenset({"home"}))
    run(stage, "cloud", "home")
    sent = len(b'{"model":"cloud-model","messages": [{"role": "user", "content": "hello"}]}')
    assert [(call.backend, call.destination, call.sent_bytes) for call in stage.records] == [
        ("cloud", "fake", sent),
        ("home", None, sent - 1),
    ]


def test_what_was_never_sent_has_no_destination() -> None:
    stage = Stage({"cloud": [], "busy": [], "home": []}, local=frozenset({"home"}), limits={"busy": 1})
    stage.places.take([Target("busy", "m")])
    run(stage, "cloud", "home", private=True)
    run(stage, "busy", "home")
    assert [(call.error, call.destination, call.sent_bytes) for call in stage.records if call.error] == [
        ("privacy", None, None),
        ("busy", None, None),
    ]


# --- circuits -----------------------------------------------------------------------------------


def open_circuit(stage: Stage, name: str) -> None:
    for _ in range(3):
        stage.circuits.note(build.record(backend=name, outcome="error", error="timeout", backend_failed=True))


def test_an_open_circuit_is_tried_last() -> None:
    stage = Stage({"a": [], "b": [BackendTimeout("x")], "c": [BackendTimeout("x")]})
    open_circuit(stage, "a")
    reply = run(stage, "a", "b", "c")
    assert reply.target.backend == "a"
    assert lines(stage) == [("b", "error", "timeout", "a"), ("c", "error", "timeout", "a"), ("a", "ok", None, None)]
    assert [call.reason for call in stage.records] == ["cooling", "fallback", "fallback"]
    assert stage.circuits.states()["a"] == "closed"


def test_when_all_circuits_are_open_the_first_is_tried_first() -> None:
    stage = Stage({"a": [BackendTimeout("x")], "b": []})
    for name in "ab":
        open_circuit(stage, name)
    assert run(stage, "a", "b").target.backend == "b"
    assert [call.backend for call in stage.records] == ["a", "b"]


def test_after_the_cooldown_one_request_is_the_trial() -> None:
    stage = Stage({"a": [], "b": []})
    seen = []

    def meanwhile() -> Any:
        other = dispatch(Plan(build.request(request_id="other"), TAGS, decision("a", "b")), stage.services)
        seen.append(other.target.backend)
        return FakeStream(b"1")

    stage.backends["a"].answers = [meanwhile, whole()]
    open_circuit(stage, "a")
    stage.now += 10
    trial = dispatch(Plan(build.request(request_id="trial", stream=True), TAGS, decision("a", "b")), stage.services)
    assert (trial.target.backend, seen) == ("a", ["b"])
    assert run(stage, "a", "b").target.backend == "a"  # the trial's stream has begun: that is answer enough
    drained(trial)


def test_a_trial_stream_that_breaks_opens_the_circuit_again() -> None:
    stage = Stage({"a": [FakeStream(b"1", StreamInterrupted("broke"))], "b": []})
    open_circuit(stage, "a")
    stage.now += 10
    trial = dispatch(Plan(build.request(request_id="trial", stream=True), TAGS, decision("a", "b")), stage.services)
    with pytest.raises(StreamInterrupted):
        drained(trial)
    assert stage.circuits.states()["a"] == "open"


def test_a_circuit_that_opens_during_the_request_counts_at_once() -> None:
    stage = Stage({"a": [BackendTimeout("x")], "b": [], "c": []})

    def fails_b() -> Any:
        open_circuit(stage, "b")
        raise BackendTimeout("x")

    stage.backends["a"].answers = [fails_b]
    assert run(stage, "a", "b", "c").target.backend == "c"


# --- places -------------------------------------------------------------------------------------


def test_a_busy_backend_passes_the_request_on_and_is_not_to_blame() -> None:
    stage = Stage({"a": [], "b": []}, limits={"a": 1})
    held = stage.places.take([Target("a", "m")])
    reply = run(stage, "a", "b")
    assert (reply.target.backend, reply.fallback_for) == ("b", "a")
    assert lines(stage) == [("a", "error", "busy", None), ("b", "ok", None, "a")]
    assert not stage.records[0].backend_failed
    assert stage.called == ["b"]
    stage.places.release(held)
    assert run(stage, "a", "b").target.backend == "a"


@pytest.mark.parametrize(
    ("kind", "lane"),
    [(Kind.LIVE, Lane.AGENT), (Kind.SHADOW, Lane.BACKGROUND), (Kind.PROBE, Lane.BACKGROUND)],
)
def test_calls_without_a_client_wait_in_the_background_lane(kind: Kind, lane: Lane) -> None:
    stage = Stage({"a": []}, limits={"a": 1}, first_byte_s=5.0)
    held = stage.places.take([Target("a", "a-model")])
    plan = Plan(build.request(lane=Lane.AGENT), TAGS, decision("a"))
    call = Call(plan, [Target("a", "a-model")], Why(route="r", reason=Reason.ROUTE), stage.services, kind=kind)
    waiting = gevent.spawn(call.make)
    gevent.sleep(0)
    assert stage.places.own("a")[1] == tuple(int(one == lane) for one in Lane)
    assert held
    stage.places.release(held)
    call.end(waiting.get())
    assert stage.records[0].lane == lane


def full(*names: str, first_byte_s: float = 5.0, **longest_wait_ms: float) -> tuple[Stage, dict[str, Place]]:
    """Backends with one place each, which is taken; and `spare`, which has no limit."""
    stage = Stage(
        {name: [] for name in (*names, "spare")},
        limits=dict.fromkeys(names, 1),
        longest_wait_ms=longest_wait_ms,
        first_byte_s=first_byte_s,
        local=frozenset(names),
    )
    held = {name: place for name in names if (place := stage.places.take([Target(name, f"{name}-model")]))}
    return stage, held


def test_who_would_wait_too_long_does_not_begin_to_wait() -> None:
    """The plan may be older than the queue.  A call that does not wait makes no record; the first one has the basis."""
    stage, _ = full("a", a=0.5)
    reply = run(stage, "a", "spare")
    assert (reply.target.backend, reply.fallback_for, reply.failed) == ("spare", "a", "a:busy")
    assert lines(stage) == [("spare", "ok", None, "a")]
    assert stage.records[0].wait_ms is None
    assert "a has no free place within 0 ms: 1 ahead" in [step.outcome for step in reply.trace]


def test_who_has_waited_for_the_longest_wait_goes_on() -> None:
    stage, _ = full("a", a=20)
    assert run(stage, "a", "spare").target.backend == "spare"
    assert lines(stage) == [("a", "error", "busy", None), ("spare", "ok", None, "a")]
    assert stage.records[0].wait_ms > 0


def released_soon(stage: Stage, place: Place) -> None:
    gevent.spawn_later(0.05, stage.places.release, place)


@pytest.mark.parametrize("longest_ms", [0.5, 20], ids=["does not wait", "goes on"])
def test_with_no_other_target_it_waits_for_the_first_byte_deadline(longest_ms: float) -> None:
    """Private requests too."""
    stage, held = full("a", a=longest_ms)
    released_soon(stage, held["a"])
    reply = run(stage, "a", private=True)
    assert (reply.target.backend, reply.fallback_for, reply.failed) == ("a", None, "")
    assert lines(stage) == [("a", "ok", None, None)]
    assert stage.records[0].wait_ms > 0


def test_when_all_places_are_taken_the_first_free_one_counts() -> None:
    stage, held = full("a", "b", a=0.5, b=0.5)
    released_soon(stage, held["b"])
    reply = run(stage, "a", "b")
    assert (reply.target.backend, reply.failed) == ("b", "")
    assert [(call.backend, call.outcome) for call in stage.records] == [("b", "ok")]
    assert stage.in_flight == 2 - 1


def test_who_waits_while_the_last_target_fails_is_served_in_the_end() -> None:
    stage, held = full("a", a=0.5)
    stage.backends["spare"].answers = [BackendTimeout("late")]
    released_soon(stage, held["a"])
    reply = run(stage, "a", "spare")
    assert (reply.target.backend, reply.failed) == ("a", "spare:timeout")
    assert [(call.backend, call.outcome) for call in stage.records] == [("spare", "error"), ("a", "ok")]


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_when_no_place_becomes_free_the_client_is_told_to_come_again(names: tuple[str, ...]) -> None:
    stage, _ = full(*names, first_byte_s=0.03, a=0.5, b=0.5)
    with pytest.raises(AllBackendsFailed) as caught:
        run(stage, *names)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "busy", 1.0)
    assert caught.value.refusal == "busy"
    assert {call.error for call in stage.records} == {"busy"}


@pytest.mark.parametrize(
    "answer",
    [whole(), BackendTimeout("x"), BackendRejected("x", status=400), ClientGone(), ZeroDivisionError()],
    ids=["answer", "failure", "rejection", "client gone", "bug"],
)
def test_a_place_is_given_back_however_the_call_ends(answer: Any) -> None:
    stage = Stage({"a": [answer]}, limits={"a": 1})
    for _ in range(3):
        with contextlib.suppress(BackendError, AllBackendsFailed, ClientGone, ZeroDivisionError):
            run(stage, "a")
    assert stage.in_flight == 0
    assert [call.error for call in stage.records].count("busy") == 0


def test_a_stream_holds_its_place_until_it_ends() -> None:
    stage = Stage({"a": [lambda: FakeStream(b"1")]}, limits={"a": 1})
    first = run(stage, "a", stream=True)
    with pytest.raises(AllBackendsFailed):
        run(stage, "a", stream=True)
    drained(first)
    assert drained(run(stage, "a", stream=True)) == b"1"


# --- pools --------------------------------------------------------------------------------------


def pooled(*names: str, patience_ms: float | None = None, **fields: Any) -> Decision:
    """A decision for members of one pool; the names behind "/" stand outside of it."""
    made = decision(*(name.strip("/") for name in names), **fields)
    pools = [None if name.startswith("/") else "gpu" for name in names]
    targets = [dataclasses.replace(target, pool=pool) for target, pool in zip(made.targets, pools, strict=True)]
    targets[0] = dataclasses.replace(targets[0], patience_ms=patience_ms)
    return dataclasses.replace(made, targets=tuple(targets))


def run_pool(stage: Stage, *names: str, **fields: Any) -> Reply:
    return dispatch(Plan(build.request(), TAGS, pooled(*names, **fields)), stage.services)


def test_a_call_on_a_pool_takes_the_first_member_with_a_free_place() -> None:
    stage = Stage({"a": [], "b": [], "c": []}, limits={"a": 1, "b": 1, "c": 1})
    held = [stage.places.take([Target(name, "m")]) for name in "ab"]
    reply = run_pool(stage, "a", "b", "c")
    assert (reply.target.backend, reply.target.pool, reply.fallback_for) == ("c", "gpu", None)
    assert lines(stage) == [("c", "ok", None, None)]
    assert [call.reason for call in stage.records] == ["route"]
    stage.places.release(held[1])
    assert run_pool(stage, "a", "b", "c").target.backend == "b"


def test_without_limits_it_takes_the_member_with_the_fewest_calls() -> None:
    stage = Stage({"a": [], "b": [], "c": []})
    for name in "aab":
        stage.places.take([Target(name, "m")])
    assert run_pool(stage, "a", "b", "c").target.backend == "c"
    assert run_pool(stage, "a", "b").target.backend == "b"
    assert run_pool(stage, "a", "b", "c", patience_ms=0.0).target.backend == "a"  # this member is meant


def test_a_call_waits_for_its_own_member_and_then_for_all() -> None:
    stage = Stage({"a": [], "b": []}, limits={"a": 1, "b": 1})
    held = stage.places.take([Target("a", "m")])
    assert run_pool(stage, "a", "b", patience_ms=1.0).target.backend == "b"
    gevent.spawn_later(0.02, stage.places.release, held)
    assert run_pool(stage, "a", "b", patience_ms=10_000.0).target.backend == "a"
    assert [call.wait_ms is not None for call in stage.records] == [True, True]


def test_a_call_that_passes_over_a_full_member_does_not_wait() -> None:
    stage = Stage({"a": [], "b": []}, limits={"a": 1, "b": 1})
    stage.places.take([Target("a", "m")])
    for patience_ms in (None, 0.0):
        assert run_pool(stage, "a", "b", patience_ms=patience_ms).target.backend == "b"
    assert [call.wait_ms for call in stage.records] == [None, None]


def test_when_no_member_has_a_place_the_next_target_gets_the_request() -> None:
    stage = Stage({"a": [], "b": [], "cloud": []}, limits={"a": 1, "b": 1})
    for name in "ab":
        stage.places.take([Target(name, "m")])
    reply = run_pool(stage, "a", "b", "/cloud")
    assert (reply.target.backend, reply.target.pool, reply.fallback_for) == ("cloud", None, "a")
    assert lines(stage) == [("a", "error", "busy", None), ("cloud", "ok", None, "a")]


def test_a_member_that_failed_is_replaced_by_the_others_in_turn() -> None:
    stage = Stage({"a": [BackendTimeout("x")], "b": [BackendTimeout("x")], "c": [], "cloud": []})
    reply = run_pool(stage, "a", "b", "c", "/cloud")
    assert (reply.target.backend, reply.fallback_for) == ("c", "a")
    assert lines(stage) == [("a", "error", "timeout", None), ("b", "error", "timeout", "a"), ("c", "ok", None, "a")]
    assert [call.reason for call in stage.records] == ["route", "fallback", "fallback"]
    assert stage.in_flight == 0


def test_the_first_member_replaces_the_one_that_had_a_free_place_and_failed() -> None:
    stage = Stage({"a": [], "b": [BackendTimeout("x")]}, limits={"a": 1, "b": 1})
    held = stage.places.take([Target("a", "m")])
    stage.backends["b"].answers = [lambda: _release_and_fail(stage, held)]
    reply = run_pool(stage, "a", "b")
    assert (reply.target.backend, reply.fallback_for) == ("a", "b")
    assert lines(stage) == [("b", "error", "timeout", None), ("a", "ok", None, "b")]


def _release_and_fail(stage: Stage, held: Any) -> Any:
    stage.places.release(held)
    raise BackendTimeout("x")


def test_members_with_an_open_circuit_are_tried_last() -> None:
    stage = Stage({"a": [], "b": [BackendTimeout("x")], "c": [BackendTimeout("x")]})
    open_circuit(stage, "a")
    reply = run_pool(stage, "a", "b", "c")
    assert reply.target.backend == "a"
    assert [call.backend for call in stage.records] == ["b", "c", "a"]


def test_only_a_call_to_a_half_open_member_is_its_trial() -> None:
    stage = Stage({"a": [], "b": []})
    open_circuit(stage, "a")
    stage.now += 10
    stage.places.take([Target("a", "m")])
    assert run_pool(stage, "b", "a").target.backend == "b"
    assert stage.circuits.states()["a"] == "half-open"
    assert run_pool(stage, "a", "b", patience_ms=0.0).target.backend == "a"
    assert stage.circuits.states()["a"] == "closed"


def test_the_gate_holds_for_each_member() -> None:
    """`cloud` was local when the request was decided."""
    stage = Stage({"cloud": [], "home": []}, local=frozenset({"home"}))
    reply = run_pool(stage, "cloud", "home", private=True)
    assert (reply.target.backend, stage.called) == ("home", ["home"])
    assert lines(stage) == [("cloud", "error", "privacy", None), ("home", "ok", None, "cloud")]


# --- loads --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loaded, load_ms", [(None, None), (True, None), (False, 0)])
def test_a_load_whose_time_is_unknown_is_marked(loaded: bool | None, load_ms: int | None) -> None:
    stage = Stage({"a": [whole()]})
    stage.facts = {"a": {"a-model:latest": ModelFacts(loaded=loaded)}}
    run(stage, "a")
    assert [call.load_ms for call in stage.records] == [load_ms]


def test_a_probe_ends_before_it_loads_a_model() -> None:
    """It may have waited for its place since it was planned."""
    stage = Stage({"a": [whole()]})
    stage.facts = {"a": {"a-model:latest": ModelFacts(loaded=False)}}
    plan, why = Plan(build.request(), TAGS, decision("a")), Why(route="r1", reason=Reason.PROBE)
    with pytest.raises(ModelNotLoaded):
        Call(plan, plan.decision.targets, why, stage.services, kind=Kind.PROBE).make()
    assert stage.called == []
    assert lines(stage) == [("a", "error", "not_loaded", None)]
    assert (stage.in_flight, stage.circuits.unhealthy()) == (0, frozenset())


@pytest.mark.parametrize(
    "facts, is_called",
    [
        ({"window": 500}, True),
        ({"window": 499}, False),
        ({"window": 499, "refuses": True}, True),
        ({"window": 9, "refuses": True}, True),
        ({"window": 499, "loaded": False}, True),
    ],
    ids=str,
)
def test_a_prompt_is_not_cut_by_a_window_that_the_model_got_since_the_decision(
    facts: dict[str, Any], is_called: bool
) -> None:
    stage = Stage({"a": [whole()], "b": [whole()]})
    stage.facts = {"a": {"a-model:latest": ModelFacts(**facts)}}
    plan = Plan(build.request(), dataclasses.replace(TAGS, tokens=500), decision("a", "b"))
    dispatch(plan, stage.services)
    assert stage.called == (["a"] if is_called else ["b"])
    if not is_called:
        assert [call.error for call in stage.records] == ["too_long", None]
        with pytest.raises(PromptTooLong, match="too long for a-model at a: about 500 tokens in, its learned window"):
            dispatch(dataclasses.replace(plan, decision=decision("a")), stage.services)

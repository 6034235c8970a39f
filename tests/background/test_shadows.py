"""Shadow calls and probes: what is sampled, what never is, that they are bounded, and how answers are compared."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.background.shadows import ShadowCalls
from app.dispatch import dispatch
from app.errors import BackendTimeout, StreamInterrupted
from app.types import (
    ABTest,
    Basis,
    CallRecord,
    Classification,
    Decision,
    ModelFacts,
    Observations,
    Plan,
    Policy,
    Queue,
    Route,
    Streamed,
    Target,
)
from tests import build
from tests.fakes.backends import FakeStream, Stage, config, whole

TAGS = Classification("code", "low", "normal", "text", "qwen-coder", 500)
AB = ABTest(enabled=True, sample_rate=0.25, candidates={"a": "b"})


def policy(ab: ABTest = AB, **of_b: Any) -> Policy:
    backends = {"a": config("a", models=("am",)), "b": config("b", **{"models": ("bm",), **of_b})}
    return Policy(backends=backends, routes=(Route(label="default", match={}, backend="a"),), ab=ab)


def decision(**fields: Any) -> Decision:
    known: dict[str, Any] = {"route": "r1", "targets": (Target("a", "am"), Target("b", "bm")), "trace": ()}
    return Decision(**{**known, "primary": "a", **fields})


class Bench:
    """A Shadow in immediate mode over fake backends `a` and `b`."""

    def __init__(self, rules: Policy | None = None, *answers: Any, local: str = "", dice: float = 0.0) -> None:
        self.stage = Stage({"a": [whole()], "b": list(answers)}, local=frozenset(local))
        self.now = 50.0
        self.dice = dice
        self.shadow = ShadowCalls(rules or policy(), lambda: self.dice, lambda: self.now)

    def offer(self, *, call: CallRecord | None = None, tags: Classification = TAGS, **fields: Any) -> list[str]:
        plan = Plan(build.request(stream=True), tags, decision(**fields))
        done = call or build.record(backend="a", request_id="req-1")
        if self.shadow.samples(plan, done.target, done.why):
            self.shadow.offer(plan, done, whole(), self.stage.services)
        return self.stage.called

    def dispatch(self, *live: Any, stream: bool = False, question: str = "What is 2 + 2?") -> list[CallRecord]:
        """Answer a request with `a`, whose calls are sampled, and return the records of its calls."""
        self.stage.backends["a"].answers = list(live)
        self.stage.services.shadows = self.shadow
        body = {"messages": [{"role": "user", "content": question}], "stream": stream}
        reply = dispatch(Plan(build.request(body), TAGS, decision()), self.stage.services)
        with contextlib.suppress(StreamInterrupted):
            b"".join(reply.chunks) if isinstance(reply, Streamed) else reply.body
        return self.stage.records

    def measure(self, skipped: Target | None = Target("b", "bm"), **fields: Any) -> list[CallRecord]:  # noqa: B008
        plan = Plan(build.request(stream=True), TAGS, decision(skipped=skipped, **fields))
        self.shadow.probe(plan, self.stage.services)
        return self.stage.records


# --- A/B samples --------------------------------------------------------------------------------


def test_a_sample_is_mirrored_buffered_and_marked() -> None:
    bench = Bench()
    assert bench.offer() == ["b"]
    ((request, target, stream, private),) = bench.stage.backends["b"].calls
    assert (request.request_id, target, stream, private) == ("req-1", Target("b", "bm"), False, False)
    (call,) = bench.stage.records
    assert (call.kind, call.backend, call.model, call.route) == ("shadow", "b", "bm", "r1")
    assert (call.outcome, call.stream, call.fallback_for, call.request_id) == ("ok", False, None, "req-1")
    assert (call.input_tokens, call.output_tokens) == (3, 5)
    assert call.live_ts_ms == build.record().times.ts_ms, "the report finds the live call by it"
    assert bench.stage.in_flight == 0


@pytest.mark.parametrize("dice, mirrored", [(0.0, True), (0.2499, True), (0.25, False), (0.99, False)])
def test_the_sample_rate_is_a_share(dice: float, mirrored: bool) -> None:
    assert bool(Bench(dice=dice).offer()) is mirrored


@pytest.mark.parametrize("rate, mirrored", [(0.0, False), (1.0, True)])
def test_none_and_all(rate: float, mirrored: bool) -> None:
    bench = Bench(policy(dataclasses.replace(AB, sample_rate=rate)), dice=0.0 if rate == 0 else 0.999999)
    assert bool(bench.offer()) is mirrored


@pytest.mark.parametrize(
    "call",
    [
        {"outcome": "error"},
        {"outcome": "cancelled"},
        {"backend": "b"},
        {"backend": "c"},
    ],
    ids=str,
)
def test_only_live_successes_of_a_primary_are_sampled(call: dict[str, Any]) -> None:
    assert Bench().offer(call=build.record(**{"backend": "a", **call})) == []


def test_a_shadow_call_is_not_sampled() -> None:
    bench = Bench(policy(dataclasses.replace(AB, candidates={"a": "b", "b": "a"})))
    bench.dispatch(whole())
    assert bench.stage.called == ["a", "b"]


def test_a_primary_that_stood_in_for_another_is_not_sampled() -> None:
    assert Bench().offer(primary="b") == []


@pytest.mark.parametrize(
    "ab", [ABTest(), dataclasses.replace(AB, enabled=False), dataclasses.replace(AB, candidates={})]
)
def test_without_a_trial_nothing_is_mirrored(ab: ABTest) -> None:
    assert Bench(policy(ab)).offer() == []


@pytest.mark.parametrize("local, mirrored", [("", False), ("a", False), ("b", True), ("ab", True)])
def test_a_private_request_goes_to_a_local_candidate_or_to_none(local: str, mirrored: bool) -> None:
    bench = Bench(local=local)
    assert bool(bench.offer(private=True)) is mirrored
    assert [private for *_, private in bench.stage.backends["b"].calls] == [True] * mirrored
    assert len(bench.stage.records) == mirrored, "a refusal is no call"


def test_a_private_request_goes_to_no_cloud_model() -> None:
    assert Bench(policy(models=("x:cloud",)), local="ab").offer(private=True) == []
    assert Bench(policy(models=("x:cloud",)), local="ab").offer() == ["b"]


def test_the_candidates_own_model_is_asked() -> None:
    bench = Bench(policy(families={"qwen-coder": "qc"}))
    bench.offer()
    assert bench.stage.backends["b"].calls[0][1] == Target("b", "qc")


def test_a_candidate_without_a_model_or_room_is_left_out() -> None:
    assert Bench(policy(models=())).offer() == []
    assert Bench(policy(context_windows={"*": 499})).offer() == []
    assert Bench(policy(context_windows={"*": 500})).offer() == ["b"]


@pytest.mark.parametrize(
    "facts, needs, mirrored",
    [
        ({"window": 499}, (), False),
        ({"window": 499, "loaded": False}, (), False),
        ({"window": 499, "refuses": True}, (), True),
        ({"window": 500}, (), True),
        ({"capabilities": frozenset(("completion",))}, ("completion",), True),
        ({"capabilities": frozenset(("completion",))}, ("completion", "tools"), False),
        ({"capabilities": frozenset(("embedding",))}, ("completion",), False),
        ({"loaded": False}, ("completion",), True),
    ],
    ids=str,
)
def test_a_candidate_whose_model_cannot_serve_the_request_is_left_out(
    facts: dict[str, Any], needs: tuple[str, ...], mirrored: bool
) -> None:
    bench = Bench()
    bench.stage.facts = {"b": {"bm:latest": ModelFacts(**facts)}}
    known: dict[str, Any] = {"policy": "p", "asked_model": "", "output_tokens": 0, "measured": False, "targets": ()}
    basis = Basis(**known, needs=frozenset(needs), observations=Observations())
    assert bool(bench.offer(basis=basis)) is mirrored


def test_a_candidate_that_fails_is_recorded_and_nobody_else_hears_of_it() -> None:
    bench = Bench(None, BackendTimeout("late"))
    bench.offer()
    (call,) = bench.stage.records
    assert (call.kind, call.outcome, call.error, call.backend_failed) == ("shadow", "error", "timeout", True)


# --- comparing the answers ----------------------------------------------------------------------


def streamed(
    *texts: str, end: bytes = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
) -> FakeStream:
    events = [f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode() for text in texts]
    return FakeStream(*events, end)


@pytest.mark.parametrize("live", [whole("4"), streamed("4"), streamed("", "4", "")], ids=["whole", "stream", "pieces"])
@pytest.mark.parametrize("candidate, agreement", [("4", 1), ("The answer is 4.", 1), ("5", 0)])
def test_both_answers_are_judged(live: Any, candidate: str, agreement: float) -> None:
    bench = Bench(None, whole(candidate))
    first, shadow = bench.dispatch(copy.deepcopy(live), stream=isinstance(live, FakeStream))
    assert (first.kind, first.doubt, first.agreement) == ("live", None, None)
    assert (shadow.kind, shadow.agreement, shadow.fault) == ("shadow", agreement, None)
    assert 0 < shadow.doubt < 1
    assert 0 < shadow.live_doubt < 1


def test_the_same_answer_has_the_same_doubt() -> None:
    _, shadow = Bench(None, whole("4")).dispatch(whole("4"))
    assert shadow.doubt == shadow.live_doubt


def test_an_answer_with_a_fault_is_of_no_use() -> None:
    _, shadow = Bench(None, whole("")).dispatch(whole("4"))
    assert (shadow.doubt, shadow.fault) == (1.0, "empty")
    assert shadow.live_doubt < 1
    _, shadow = Bench(None, whole("4")).dispatch(whole(""))
    assert (shadow.live_doubt, shadow.fault) == (1.0, None)


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_too_long_is_not_judged(stream: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.wire.answer.MOST_BYTES", 200)
    monkeypatch.setattr("app.backends.reply.MOST_BYTES", 200)
    text = "x" * 200
    _, shadow = Bench(None, whole("4")).dispatch(streamed(text, text) if stream else whole(text), stream=stream)
    assert (shadow.outcome, shadow.doubt, shadow.live_doubt, shadow.agreement) == ("ok", None, None, None)


def test_the_answer_of_a_call_that_is_not_sampled_is_not_collected() -> None:
    bench, stream = Bench(dice=0.9), streamed("4")
    bench.dispatch(stream, stream=True)
    assert (bench.stage.called, stream.collector) == (["a"], None)


def test_a_sampled_stream_that_breaks_has_no_shadow_call() -> None:
    bench, stream = Bench(), FakeStream(b"data: {}\n\n", StreamInterrupted("broken", kind="truncated"))
    bench.dispatch(stream, stream=True)
    assert (bench.stage.called, stream.collector is None) == (["a"], False)


# --- measuring a primary that is skipped --------------------------------------------------------


def test_a_skipped_primary_is_measured_by_a_probe() -> None:
    bench = Bench()
    (call,) = bench.measure()
    assert (call.kind, call.backend, call.stream, call.outcome) == ("probe", "b", False, "ok")


def test_nothing_skipped_nothing_measured() -> None:
    assert Bench().measure(None) == []


def test_measurements_are_two_seconds_apart() -> None:
    bench, counts = Bench(), []
    for now in (50.0, 50.0, 51.999, 52.0, 53.0, 54.0):
        bench.now = now
        counts.append(len(bench.measure()))
    assert counts == [1, 1, 1, 2, 2, 3]


def test_each_backend_is_measured_by_itself() -> None:
    bench = Bench()
    bench.measure()
    assert [call.backend for call in bench.measure(Target("a", "am"))] == ["b", "a"]


def test_a_measurement_that_fails_is_not_the_last_one() -> None:
    bench = Bench(None, BackendTimeout("late"))
    bench.measure()
    bench.now += 2
    assert [call.outcome for call in bench.measure()] == ["error", "error"]


@pytest.mark.parametrize(
    "facts, measured",
    [({}, True), ({"loaded": True}, True), ({"loaded": False}, False), ({"loaded": False, "size_bytes": 1}, False)],
    ids=str,
)
def test_a_measurement_loads_no_model(facts: dict[str, Any], measured: bool) -> None:
    bench = Bench()
    bench.stage.facts = {"b": {"bm:latest": ModelFacts(**facts)}}
    assert bool(bench.measure()) is measured


def test_the_server_is_asked_anew_whether_the_model_is_loaded() -> None:
    bench = Bench()

    def look() -> None:
        bench.stage.facts = {"b": {"bm:latest": ModelFacts(loaded=False)}}

    bench.stage.backends["b"].look = look  # type: ignore[method-assign]
    assert bench.measure() == []


def test_nothing_is_measured_at_a_server_that_does_not_tell() -> None:
    bench = Bench()

    def look() -> None:
        raise BackendTimeout("late")

    bench.stage.backends["b"].look = look  # type: ignore[method-assign]
    assert bench.measure() == []


def test_a_measurement_waits_for_no_place() -> None:
    bench = Bench()
    bench.stage.queues = {("b", "*"): Queue(1, (0, 0, 0))}
    assert bench.measure() == []


def test_mirrored_calls_wait_in_the_last_lane() -> None:
    bench = Bench()
    bench.offer()
    bench.measure()
    assert [call.lane for call in bench.stage.records] == ["background", "background"]


def test_a_private_request_measures_only_what_is_local() -> None:
    bench = Bench(local="a")
    (call,) = bench.measure(private=True)
    assert (call.outcome, call.error) == ("error", "privacy")
    assert bench.stage.called == []


# --- in the background --------------------------------------------------------------------------


class Blocked:
    """An answer that waits until it is let go."""

    def __init__(self) -> None:
        self.go = Event()
        self.waiting = 0

    def __call__(self) -> Any:
        self.waiting += 1
        self.go.wait(10)
        return whole()


def test_at_most_four_at_once_and_the_rest_is_dropped() -> None:
    blocked = Blocked()
    bench = Bench(None, blocked)
    bench.shadow.start()
    for _ in range(10):
        bench.offer()
        gevent.idle()
    assert (blocked.waiting, bench.stage.records) == (4, [])
    blocked.go.set()
    gevent.wait(timeout=10)
    assert len(bench.stage.records) == 4
    bench.offer()
    gevent.wait(timeout=10)
    assert len(bench.stage.records) == 5
    bench.shadow.stop()


def test_one_measurement_of_a_backend_at_a_time() -> None:
    blocked = Blocked()
    bench = Bench(None, blocked)
    bench.shadow.start()
    for _ in range(5):
        bench.measure()
        gevent.idle()
        bench.now += 10
    assert blocked.waiting == 1
    blocked.go.set()
    gevent.wait(timeout=10)
    bench.measure()
    gevent.wait(timeout=10)
    assert blocked.waiting == 2
    bench.shadow.stop()


def test_stopping_ends_what_is_under_way_and_frees_its_place() -> None:
    bench = Bench(None, Blocked())
    bench.shadow.start()
    bench.offer()
    gevent.idle()
    assert bench.stage.in_flight == 1
    bench.shadow.stop()
    assert bench.stage.in_flight == 0

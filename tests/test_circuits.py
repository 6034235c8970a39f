"""Circuits, with the clock passed in."""

from __future__ import annotations

from typing import Any

import pytest

from app.circuits import Circuits
from tests import build
from tests.logs import captured


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A Health and its clock; `b` is the backend under test."""

    def __init__(self, first_s: float = 10.0) -> None:
        self.clock = Clock()
        self.circuits = Circuits(self.clock, first_s)

    def at(self, seconds: float) -> None:
        self.clock.now = 1000.0 + seconds

    def ok(self, request_id: str = "x", **fields: Any) -> None:
        self.circuits.note(build.record(backend="b", request_id=request_id, **fields))

    def fails(self, times: int = 1, request_id: str = "x", **fields: Any) -> None:
        known = {"outcome": "error", "error": "timeout", "backend_failed": True}
        for _ in range(times):
            self.circuits.note(build.record(backend="b", request_id=request_id, **{**known, **fields}))

    def is_busy(self, retry_after_s: float, request_id: str = "x") -> None:
        self.fails(1, request_id, error="http_429", busy=True, backend_failed=False, retry_after_s=retry_after_s)

    @property
    def unhealthy(self) -> bool:
        assert self.circuits.unhealthy() <= {"b"}
        return "b" in self.circuits.unhealthy()

    @property
    def state(self) -> str:
        return self.circuits.states()["b"]

    def admits(self, request_id: str = "t") -> bool:
        return self.circuits.admit("b", request_id)


def opened(seconds: float = 0.0) -> Bench:
    """A circuit that opened at 0, looked at some seconds later."""
    bench = Bench()
    bench.fails(3)
    bench.at(seconds)
    return bench


def test_a_backend_never_called_is_well() -> None:
    bench = Bench()
    assert bench.admits()
    assert bench.circuits.unhealthy() == frozenset()
    assert bench.circuits.states() == {}


def test_three_failures_in_a_row_open_for_ten_seconds() -> None:
    bench = Bench()
    bench.fails(2)
    assert (bench.unhealthy, bench.state, bench.admits()) == (False, "closed", True)
    bench.fails()
    assert (bench.unhealthy, bench.state, bench.admits()) == (True, "open", False)
    bench.at(9.999)
    assert (bench.unhealthy, bench.state, bench.admits()) == (True, "open", False)
    bench.at(10)
    assert (bench.unhealthy, bench.state) == (False, "half-open")


def test_a_success_between_failures_starts_the_count_again() -> None:
    bench = Bench()
    bench.fails(2)
    bench.ok()
    bench.fails(2)
    assert not bench.unhealthy
    bench.fails()
    assert bench.unhealthy


def test_backends_do_not_share_a_circuit() -> None:
    bench = opened()
    assert bench.circuits.admit("other", "t")
    bench.circuits.note(build.record(backend="other"))
    assert bench.circuits.unhealthy() == {"b"}
    assert bench.circuits.states() == {"b": "open", "other": "closed"}


def test_the_cooldown_doubles_up_to_two_minutes_while_trials_fail() -> None:
    bench = opened()
    at, lengths = 0.0, []
    for _ in range(7):
        begin = at
        while True:  # in steps of a second
            at += 1
            bench.at(at)
            if bench.admits(f"t{at}"):
                break
        lengths.append(at - begin)
        bench.fails(request_id=f"t{at}")
    assert lengths == [10, 20, 40, 80, 120, 120, 120]


@pytest.mark.parametrize("first_s, lengths", [(1.0, [1, 2, 4]), (100.0, [100, 120, 120]), (300.0, [300, 300, 300])])
def test_the_first_cooldown_is_set_by_the_operator(first_s: float, lengths: list[float]) -> None:
    bench = Bench(first_s)
    bench.fails(3)
    at = 0.0
    for length in lengths:
        bench.at(at + length - 0.001)
        assert not bench.admits()
        at += length
        bench.at(at)
        assert bench.admits()
        bench.fails(request_id="t")


def test_one_trial_at_a_time() -> None:
    bench = opened(10)
    assert bench.admits("first")
    assert (bench.unhealthy, bench.state) == (True, "half-open")
    assert not bench.admits("second")
    bench.fails(request_id="first")
    assert not bench.admits("third")
    bench.at(30)
    assert bench.admits("fourth")
    assert not bench.admits("fifth")


def test_a_trial_that_goes_well_closes() -> None:
    bench = opened(10)
    assert bench.admits("t")
    bench.ok("t")
    assert (bench.unhealthy, bench.state, bench.admits(), bench.admits("u")) == (False, "closed", True, True)
    bench.fails(2)
    assert not bench.unhealthy
    bench.fails()
    bench.at(19.999)
    assert bench.unhealthy  # and the next cool-down is a first one again
    bench.at(20)
    assert not bench.unhealthy


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "cancelled"},
        {"outcome": "error", "error": "busy"},
        {"outcome": "error", "error": "privacy"},
    ],
)
def test_a_trial_that_tells_nothing_makes_room_for_another(fields: dict[str, Any]) -> None:
    bench = opened(10)
    assert bench.admits("t")
    bench.ok("t", **fields)
    assert (bench.unhealthy, bench.state) == (False, "half-open")
    assert bench.admits("u")
    assert not bench.admits("v")


@pytest.mark.parametrize(
    "fields",
    [
        {"outcome": "cancelled"},
        {"outcome": "error", "error": "busy"},
        {"outcome": "error", "error": "privacy"},
    ],
)
def test_what_tells_nothing_neither_opens_nor_closes(fields: dict[str, Any]) -> None:
    bench = Bench()
    for _ in range(5):
        bench.ok(**fields)
    assert not bench.unhealthy
    bench.fails(2)
    bench.ok(**fields)
    bench.fails()
    assert bench.unhealthy
    bench.ok(**fields)
    assert bench.unhealthy


def test_an_error_that_is_the_clients_shows_a_backend_that_works() -> None:
    bench = Bench()
    bench.fails(2)
    bench.fails(error="http_400", backend_failed=False)
    bench.fails(2)
    assert not bench.unhealthy


def test_late_failures_of_old_calls_do_not_prolong_a_cooldown() -> None:
    bench = opened(5)
    bench.fails(10, request_id="old")
    bench.at(10)
    assert bench.admits("t")


def test_late_failures_of_old_calls_do_not_count_as_the_trials() -> None:
    bench = opened(10)
    assert bench.admits("t")
    bench.fails(3, request_id="old")
    assert not bench.admits("u")
    bench.fails(request_id="t")
    bench.at(29.999)
    assert not bench.admits("u")
    bench.at(30)
    assert bench.admits("u")


def test_a_late_success_closes() -> None:
    bench = opened(5)
    bench.ok("old")
    assert (bench.unhealthy, bench.admits()) == (False, True)


def test_probes_and_shadow_calls_tell_of_their_backend_too() -> None:
    bench = Bench()
    bench.fails(kind="shadow")
    bench.fails(kind="probe")
    bench.fails()
    assert bench.unhealthy
    bench.ok(kind="probe")
    assert not bench.unhealthy


def test_a_server_that_wants_no_calls_is_busy_and_not_unhealthy() -> None:
    bench = Bench()
    bench.is_busy(30.0)
    for seconds, busy in ((0, {"b"}), (29.999, {"b"}), (30, set()), (40, set())):
        bench.at(seconds)
        assert bench.circuits.busy() == busy
        assert (bench.unhealthy, bench.state, bench.admits()) == (False, "closed", True)


def test_busy_is_no_failure_and_no_success() -> None:
    bench = Bench()
    for _ in range(20):
        bench.is_busy(1.0)
    assert not bench.unhealthy
    bench.fails(2)
    bench.is_busy(1.0)
    assert not bench.unhealthy
    bench.fails()
    assert bench.unhealthy, "three failures in a row, with a busy answer between them"


def test_a_trial_call_that_finds_a_busy_server_decides_nothing() -> None:
    bench = opened(10)
    assert bench.admits("t")
    bench.is_busy(5.0, "t")
    assert (bench.state, bench.unhealthy) == ("half-open", False)
    assert bench.admits("u"), "the next call is the trial"


def test_the_later_end_of_two_waits_counts() -> None:
    bench = Bench()
    bench.is_busy(30.0)
    bench.is_busy(1.0)
    bench.ok()
    bench.at(29)
    assert bench.circuits.busy() == {"b"}


def test_retry_after_of_a_failure_is_honoured_at_once() -> None:
    bench = Bench()
    bench.fails(error="http_500", retry_after_s=30.0)
    assert (bench.unhealthy, bench.state, bench.admits()) == (True, "open", False)
    bench.at(29.999)
    assert not bench.admits()
    bench.at(30)
    assert bench.admits("t")
    bench.ok("t")
    assert bench.state == "closed"


def test_retry_after_never_shortens_a_cooldown() -> None:
    bench = Bench()
    bench.fails(2)
    bench.fails(retry_after_s=1.0)
    bench.at(9.999)
    assert bench.unhealthy
    bench.at(10)
    assert not bench.unhealthy


def test_retry_after_prolongs_an_open_circuit() -> None:
    bench = opened(5)
    bench.fails(retry_after_s=60.0)
    bench.at(64.999)
    assert bench.unhealthy
    bench.at(65)
    assert bench.admits()


def test_a_retry_after_of_nothing_changes_nothing() -> None:
    bench = Bench()
    bench.fails(retry_after_s=0.0)
    assert not bench.unhealthy


# --- the log ------------------------------------------------------------------------------------


def test_a_circuit_that_opens_is_a_warning_with_its_causes() -> None:
    bench = Bench()
    with captured("llr.health") as lines:
        bench.fails(2, error="http_503")
        bench.fails(1, error="timeout")
        bench.fails(5)  # calls that began before
    assert lines == ["WARNING b: cooling down for 10 s: 2 x http_503, 1 x timeout"]


def test_a_backend_that_goes_on_failing_is_no_warning_again() -> None:
    bench = opened(10)
    with captured("llr.health") as lines:
        assert bench.admits("t")
        bench.fails(1, "t", error="refused")
        bench.at(31)
        assert bench.admits("u")
        bench.fails(1, "u")
    assert lines == [
        "INFO b: cooling down for 20 s: 3 x timeout, 1 x refused",
        "INFO b: cooling down for 40 s: 4 x timeout, 1 x refused",
    ]


@pytest.mark.parametrize("stream", [False, True])
def test_a_circuit_that_closes_is_told(stream: bool) -> None:
    bench = opened(12)
    with captured("llr.health") as lines:
        assert bench.admits("t")
        if stream:
            bench.circuits.answered("b", "t")
        bench.ok("t")
        bench.ok()
    assert lines == ["INFO b: answers again after 12 s"]


def test_it_warns_again_when_it_opens_again() -> None:
    bench = opened(12)
    bench.admits("t")
    bench.ok("t")
    with captured("llr.health") as lines:
        bench.fails(3, error="http_500")
    assert lines == ["WARNING b: cooling down for 10 s: 3 x http_500"]


def test_a_wait_that_a_backend_asks_for_is_told() -> None:
    bench = Bench()
    with captured("llr.health") as lines:
        bench.fails(1, error="http_500", retry_after_s=86400.0)
    assert lines == ["WARNING b: cooling down for 86400 s: 1 x http_500"]


def test_a_busy_server_is_told_once() -> None:
    bench = Bench()
    with captured("llr.health") as lines:
        bench.is_busy(30.0)
        bench.is_busy(30.0)
    assert lines == ["INFO b: busy for 30 s: http_429"]


def test_failures_that_open_nothing_say_nothing() -> None:
    bench = Bench()
    with captured("llr.health") as lines:
        bench.fails(2)
        bench.ok()
    assert lines == []


@pytest.mark.parametrize("kind", ["descriptors", "ports", "memory"])
def test_what_this_machine_lacks_is_no_failure_of_the_backend_and_is_logged_once(kind: str) -> None:
    bench = Bench()
    with captured("llr.health") as lines:
        for second in range(30):
            bench.at(second)
            bench.fails(error=kind, backend_failed=False)
            bench.ok()  # on a connection that was kept
        bench.at(50)
        bench.ok()
        bench.fails(error=kind, backend_failed=False)
    assert (bench.unhealthy, bench.state) == (False, "closed")
    said = f"ERROR this machine has no {kind} left: calls fail, and no backend is to blame"
    assert lines == [said, "INFO calls can be made again", said]


def test_what_this_machine_lacks_neither_opens_nor_closes_a_circuit() -> None:
    bench = opened(10)
    bench.admits("t")
    bench.fails(1, "t", error="descriptors", backend_failed=False)
    assert bench.state == "half-open"

"""Background loops that outlive their failures, and the one thread for work that blocks."""

from __future__ import annotations

import threading
from typing import Any

import gevent
import pytest
from gevent.event import Event

from app.background.loop import Loop
from app.background.thread import WorkerThread
from tests.logs import captured


class Steps:
    """A step that fails when told to, and ends the test after some turns."""

    def __init__(self, turns: int, fail_at: tuple[int, ...] = ()) -> None:
        self.done = Event()
        self.count = 0
        self._turns = turns
        self._fail_at = fail_at

    def __call__(self) -> None:
        self.count += 1
        if self.count >= self._turns:
            self.done.set()
        if self.count in self._fail_at:
            raise RuntimeError(f"turn {self.count}")


def test_a_loop_goes_on_until_it_is_stopped() -> None:
    steps = Steps(5)
    loop = Loop("counting", 0, steps)
    assert steps.count == 0, "nothing runs before it is started"
    loop.start()
    assert steps.done.wait(10)
    loop.stop()
    stopped_at = steps.count
    for _ in range(10):
        gevent.idle()
    assert steps.count == stopped_at
    loop.stop()


def test_a_loop_outlives_the_failures_of_its_step() -> None:
    steps = Steps(6, fail_at=(1, 2, 4))
    loop = Loop("counting", 0, steps)
    with captured("llr.background") as said:
        loop.start()
        assert steps.done.wait(10)
        loop.stop()
    assert [line.splitlines()[0] for line in said] == ["ERROR counting failed; it goes on"] * 3


def test_a_lane_runs_in_place_before_it_is_started_and_after_it_is_stopped() -> None:
    thread = WorkerThread()
    assert thread.run(threading.get_ident) == threading.get_ident()
    thread.start()
    assert thread.run(threading.get_ident) != threading.get_ident()
    thread.stop()
    assert thread.run(threading.get_ident) == threading.get_ident()
    thread.stop()


def test_a_lane_gives_results_and_raises_what_is_raised() -> None:
    thread = WorkerThread()
    thread.start()
    try:
        assert thread.run(divmod, 17, 5) == (3, 2)
        with pytest.raises(ZeroDivisionError):
            thread.run(divmod, 1, 0)
        assert thread.run(divmod, 17, 5) == (3, 2), "it goes on after an error"
    finally:
        thread.stop()


def test_other_greenlets_go_on_while_a_lane_works_and_its_work_is_one_after_the_other() -> None:
    thread, order = WorkerThread(), []
    thread.start()
    may_end = threading.Event()

    def slow() -> None:
        order.append("slow begins")
        may_end.wait(10)
        order.append("slow ends")

    def quick() -> None:
        order.append("quick")

    def beside() -> Any:
        order.append("beside")
        may_end.set()

    try:
        waiting = [gevent.spawn(thread.run, slow), gevent.spawn(thread.run, quick)]
        gevent.idle()
        gevent.spawn(beside)
        gevent.joinall(waiting, timeout=10)
    finally:
        may_end.set()
        thread.stop()
    assert order.index("beside") < order.index("slow ends") < order.index("quick")

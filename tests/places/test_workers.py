"""Places over several real processes that share a file."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.places.workers import Worker, ending, one_file, workers

ONE: dict[str, Any] = {"gpu": {"max_concurrency": {"*": 1}}}
GPU = ["gpu", "m"]


def waits(worker: Worker, name: str, lane: str = "interactive", *targets: list[str], wait_s: float = 60) -> None:
    assert worker.say("wait", name, lane, wait_s, list(targets) or [GPU]) == "waits"


def hand_over(holder: Worker, following: Worker) -> str:
    """Release the holder's place, and return the name of the call of the other worker that gets it."""
    holder.tell("release")
    answers = [holder.read(), following.read()]  # in any order when both are the same worker
    return next(answer[0] for answer in answers if answer != "released")


def test_processes_share_the_limit() -> None:
    with workers(2, {"gpu": {"max_concurrency": {"*": 3}}}) as (one, two):
        assert [one.say("take", GPU), two.say("take", GPU), one.say("take", GPU)] == ["gpu"] * 3
        assert two.say("take", GPU) is None
        assert one.say("take", GPU) is None
        assert one.say("calls", "gpu") == two.say("calls", "gpu") == 3
        assert one.say("own", "gpu") == [2, [0, 0, 0]]
        one.say("release")
        assert two.say("take", GPU) == "gpu"
        assert one.say("take", GPU) is None


def test_first_come_first_served_over_four_workers() -> None:
    with workers(4, ONE) as made:
        made[3].say("take", GPU)
        for call in range(10):
            waits(made[call % 4], str(call))
        order = [hand_over(made[(call - 1) % 4], made[call % 4]) for call in range(10)]
        assert order == [str(call) for call in range(10)]


def test_the_places_of_a_killed_worker_are_free() -> None:
    with workers(3, {"gpu": {"max_concurrency": {"*": 2}}}) as (victim, one, two):
        assert [victim.say("take", GPU), victim.say("take", GPU)] == ["gpu"] * 2
        waits(one, "a")
        waits(two, "b")
        victim.end()
        assert [one.read(), two.read()] == [["a", "gpu"], ["b", "gpu"]]
        assert one.say("calls", "gpu") == 2


def test_the_turn_of_a_killed_worker_passes_to_the_next() -> None:
    with workers(3, ONE) as (holder, victim, other):
        holder.say("take", GPU)
        waits(victim, "first")
        waits(other, "second")
        victim.end()
        assert hand_over(holder, other) == "second"


def test_the_turn_of_a_disconnected_client_passes_to_the_next() -> None:
    with workers(3, ONE) as (holder, one, two):
        holder.say("take", GPU)
        waits(one, "first")
        waits(two, "second")
        assert one.say("gone", "first") == ["first", "left"]
        assert one.say("own", "gpu") == [0, [0, 0, 0]]
        assert hand_over(holder, two) == "second"


def test_no_place_in_time() -> None:
    with workers(2, ONE) as (holder, other):
        holder.say("take", GPU)
        waits(other, "a", wait_s=0.01)
        assert other.read() == ["a", "all 1 places (maxConcurrency) stayed taken for 0.01 s"]
        holder.say("release")
        assert other.say("take", GPU) == "gpu"


def test_lanes_hold_over_all_workers() -> None:
    with workers(3, ONE) as made:
        made[0].say("take", GPU)
        for worker, name, lane in ((1, "b", "background"), (2, "a", "agent"), (1, "i", "interactive")):
            waits(made[worker], name, lane)
        assert made[1].say("own", "gpu") == [0, [1, 0, 1]]
        assert [hand_over(made[0], made[1]), hand_over(made[1], made[2])] == ["i", "a"]
        assert hand_over(made[2], made[1]) == "b"


def test_who_has_waited_for_30_seconds_goes_before_later_interactive_calls() -> None:
    with workers(3, ONE) as (holder, one, two):
        holder.say("take", GPU)
        waits(one, "old", "background")
        for worker in (holder, one, two):
            worker.say("clock", 31)
        waits(two, "new", "interactive")
        assert hand_over(holder, one) == "old"
        assert hand_over(one, two) == "new"


def test_a_worker_that_hangs_does_not_stop_the_others() -> None:
    with workers(3, ONE) as (holder, hanging, other):
        holder.say("take", GPU)
        waits(hanging, "first")
        waits(other, "second")
        os.kill(hanging.pid, signal.SIGSTOP)
        try:
            assert hand_over(holder, other) == "second"
        finally:
            os.kill(hanging.pid, signal.SIGCONT)
        assert hand_over(other, hanging) == "first"


def test_a_call_that_waits_for_several_takes_the_first_free_one() -> None:
    with workers(3, dict.fromkeys(("a", "b"), ONE["gpu"])) as (one, two, three):
        one.say("take", ["a", "m"])
        two.say("take", ["b", "m"])
        waits(three, "any", "interactive", ["a", "m"], ["b", "m"])
        two.say("release")
        assert three.read() == ["any", "b"]
        assert [three.say("own", "a"), three.say("own", "b")] == [[0, [0, 0, 0]], [1, [0, 0, 0]]]


# --- reloads ------------------------------------------------------------------------------------


def started(fd: int, **backends: dict[str, Any]) -> Worker:
    return Worker(fd, backends)


def test_after_a_reload_old_and_new_workers_count_together() -> None:
    """The new limit holds for the new workers: the calls of the old ones count."""
    with one_file() as fd, ending(started(fd, gpu={"max_concurrency": {"*": 3}})) as old:
        assert [old.say("take", GPU) for _ in range(3)] == ["gpu"] * 3
        with ending(started(fd, other=ONE["gpu"], gpu={"max_concurrency": {"*": 2}})) as new:
            assert new.say("take", GPU) is None
            waits(new, "first")
            assert [old.say("release"), old.say("take", GPU)] == ["released", None], "nobody overtakes"
            assert new.say("own", "gpu") == [0, [1, 0, 0]], "two are still taken"
            assert hand_over(old, new) == "first"
            assert new.say("take", ["other", "m"]) == "other"


def test_calls_that_wait_under_a_lower_limit_do_not_hold_up_those_under_a_higher_one() -> None:
    with one_file() as fd, ending(started(fd, **ONE)) as old:
        old.say("take", GPU)
        waits(old, "first")
        with ending(started(fd, gpu={"max_concurrency": {"*": 2}})) as new:
            for name in ("second", "third"):
                new.tell("wait", name, "interactive", 60, [GPU])
                assert sorted([new.read(), new.read()], key=str) == [[name, "gpu"], "waits"], "it gets a place at once"
                new.say("release")
            assert hand_over(old, old) == "first"


@pytest.mark.parametrize("change", [{"endpoint": "http://y"}, {"max_concurrency": {"m:latest": 1}}])
def test_another_server_or_another_group_has_places_of_its_own(change: dict[str, Any]) -> None:
    with one_file() as fd, ending(started(fd, **ONE)) as old:
        assert old.say("take", GPU) == "gpu"
        with ending(started(fd, gpu={**ONE["gpu"], **change})) as new:
            assert new.say("take", GPU) == "gpu"


def test_a_worker_that_was_killed_while_it_waited_leaves_nothing_behind() -> None:
    """Its row in the table is the row of the next worker."""
    with one_file() as fd, ending(started(fd, **ONE)) as holder:
        holder.say("take", GPU)
        for _ in range(3):
            with ending(started(fd, **ONE)) as victim:
                waits(victim, "a")
        assert holder.say("calls", "gpu") == 1
        with ending(started(fd, **ONE)) as worker:
            assert worker.say("own", "gpu") == [0, [0, 0, 0]]
            waits(worker, "b")
            assert hand_over(holder, worker) == "b"


def test_the_child_of_a_fork_is_a_worker_of_its_own() -> None:
    with workers(1, {"gpu": {"max_concurrency": {"*": 2}}}) as (one,):
        assert one.say("take", GPU) == "gpu"
        assert one.say("fork") == [1, "gpu"]
        assert one.say("own", "gpu") == [1, [0, 0, 0]]
        waits(one, "a")
        assert one.read() == ["a", "gpu"], "the child has ended, and its place is free"


# --- the limit under kill -9 --------------------------------------------------------------------


class Server:
    """A server that counts its connections.  `most` is the largest number at the same time."""

    def __init__(self, path: Path) -> None:
        self.most = self.calls = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(512)
        self._connections: set[socket.socket] = set()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            readable, _, _ = select.select([self._listener, *self._connections], [], [])
            for connection in self._connections.intersection(readable):  # closed: also by the death of a worker
                connection.close()
                self._connections.discard(connection)
            if self._listener in readable:
                connection, _ = self._listener.accept()
                ended, _, _ = select.select(self._connections, [], [], 0)
                self._connections.add(connection)
                self.calls += 1
                self.most = max(self.most, len(self._connections) - len(ended))
                with contextlib.suppress(OSError):
                    connection.send(b"1")


def test_the_limit_holds_for_10000_calls_while_workers_are_killed(tmp_path: Path) -> None:
    server = Server(tmp_path / "socket")
    rng = random.Random(5)
    with one_file() as fd, contextlib.ExitStack() as stack:
        backends = {"gpu": {"max_concurrency": {"*": 3}}}
        running = [Worker(fd, backends) for _ in range(4)]
        stack.callback(lambda: [worker.end() for worker in running])
        for worker in running:
            worker.tell("run", str(tmp_path / "socket"), 100_000)
        deadline = time.monotonic() + 100
        while server.calls < 10_000 and time.monotonic() < deadline:
            time.sleep(0.3)
            victim = rng.randrange(4)
            running[victim].end()
            running[victim] = Worker(fd, backends)
            running[victim].tell("run", str(tmp_path / "socket"), 100_000)
    assert server.calls >= 10_000
    assert server.most == 3

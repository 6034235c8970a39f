"""Which worker takes the next connection."""

from __future__ import annotations

import os

from app.server.sharing import Shares


def test_a_worker_is_ahead_when_it_has_more_than_another() -> None:
    shares = Shares()
    for worker, connections in ((1, 3), (2, 2), (3, 3)):
        shares.put(worker, connections)
    assert [shares.is_ahead(worker) for worker in (1, 2, 3)] == [True, False, True]


def test_a_worker_alone_is_never_ahead() -> None:
    shares = Shares()
    shares.put(1, 1000)
    assert not shares.is_ahead(1)


def test_a_worker_that_accepts_nothing_more_holds_nobody_up() -> None:
    shares = Shares()
    shares.put(1, 0)
    shares.put(2, 1)
    shares.remove(1)
    assert not shares.is_ahead(2)


def test_processes_see_the_numbers_of_each_other() -> None:
    shares = Shares()
    shares.put(1, 5)
    pid = os.fork()
    if pid == 0:
        shares.put(2, 4)
        os._exit(0)
    os.waitpid(pid, 0)
    assert shares.is_ahead(1)


def test_workers_that_were_replaced_many_times_have_a_place() -> None:
    shares = Shares()
    shares.put(1_000_000, 2)
    shares.put(1_000_001, 1)
    assert shares.is_ahead(1_000_000)


def test_an_eighth_more_is_not_ahead() -> None:
    shares = Shares()
    for other, is_ahead in ((100, False), (90, False), (80, True), (0, True)):
        shares.put(1, 100)
        shares.put(2, other)
        assert shares.is_ahead(1) is is_ahead

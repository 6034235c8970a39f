"""Places under `maxConcurrency`: of one process, and of several that share a file."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from app.backends.places import Places
from app.errors import BackendBusy


def no_sleep(_: float) -> None:
    raise AssertionError("a place was free")


# --- one process --------------------------------------------------------------------------------


def test_without_a_limit_there_is_always_a_place() -> None:
    places = Places(0, 0, None)
    taken = [places.acquire(0, no_sleep) for _ in range(1000)]
    assert places.in_flight == 1000
    for place in taken:
        places.release(place)
    assert (places.in_flight, places.waiting) == (0, 0)


def test_a_limit_is_kept_and_a_place_given_back_is_free() -> None:
    places = Places(2, 0, None)
    first, second = places.acquire(0, no_sleep), places.acquire(0, no_sleep)
    assert {first, second} == {0, 1}
    with pytest.raises(BackendBusy) as caught:
        places.acquire(0, no_sleep)
    assert (places.in_flight, places.waiting) == (2, 0)
    assert caught.value.message == "all 2 places (maxConcurrency) stayed taken for 0 s"
    assert (caught.value.kind, caught.value.backend_failed) == ("busy", False)
    places.release(second)
    assert places.acquire(0, no_sleep) == second
    assert places.in_flight == 2


def test_waiting_ends_when_a_place_is_given_back() -> None:
    places = Places(1, 0, None)
    place = places.acquire(0, no_sleep)
    looked = []

    def sleep(_: float) -> None:
        looked.append((places.in_flight, places.waiting))
        if len(looked) == 3:
            places.release(place)

    assert places.acquire(60, sleep) == place
    assert looked == [(1, 1)] * 3
    assert (places.in_flight, places.waiting) == (1, 0)


def test_who_gives_up_waiting_holds_nothing() -> None:
    class Gone(BaseException):
        pass

    def leave(_: float) -> None:
        raise Gone

    places = Places(1, 0, None)
    place = places.acquire(0, no_sleep)
    with pytest.raises(Gone):
        places.acquire(60, leave)
    assert (places.in_flight, places.waiting) == (1, 0)
    places.release(place)
    assert places.acquire(0, no_sleep) == place


# --- several processes --------------------------------------------------------------------------


class Worker:
    """A forked process that takes and gives back places on command, as a gunicorn worker does."""

    def __init__(self, limit: int, offset: int, fd: int) -> None:
        asks, self._commands = os.pipe()
        self._answers, says = os.pipe()
        self.pid = os.fork()
        if self.pid:
            os.close(asks)
            os.close(says)
            return
        try:
            places, taken = Places(limit, offset, fd), []
            while command := os.read(asks, 1):
                if command == b"+":
                    try:
                        taken.append(places.acquire(0, no_sleep))
                        os.write(says, b"y")
                    except BackendBusy:
                        os.write(says, b"n")
                else:
                    places.release(taken.pop())
                    os.write(says, b"y")
        finally:
            os._exit(0)

    def takes(self) -> bool:
        os.write(self._commands, b"+")
        return os.read(self._answers, 1) == b"y"

    def gives_back(self) -> None:
        os.write(self._commands, b"-")
        assert os.read(self._answers, 1) == b"y"

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._commands)
        os.close(self._answers)


@contextmanager
def workers(*shapes: tuple[int, int]) -> Iterator[list[Worker]]:
    """One worker for each (limit, offset); all share a file."""
    with tempfile.TemporaryFile() as file:
        made = [Worker(limit, offset, file.fileno()) for limit, offset in shapes]
        try:
            yield made
        finally:
            for worker in made:
                worker.kill()


def test_processes_share_the_limit() -> None:
    with workers((3, 0), (3, 0)) as (one, two):
        assert one.takes()
        assert two.takes()
        assert one.takes()
        assert not two.takes()
        assert not one.takes()
        one.gives_back()
        assert two.takes()
        assert not one.takes()


def test_the_places_of_a_killed_process_are_free() -> None:
    with tempfile.TemporaryFile() as file:
        victim, other = Worker(2, 0, file.fileno()), Worker(2, 0, file.fileno())
        assert victim.takes()
        assert victim.takes()
        assert not other.takes()
        victim.kill()
        assert other.takes()
        assert other.takes()
        assert not other.takes()
        other.kill()


def test_backends_have_places_of_their_own() -> None:
    with workers((1, 0), (1, 100_000)) as (one, two):
        assert one.takes()
        assert two.takes()
        assert not one.takes()
        assert not two.takes()


def test_a_place_is_not_given_twice_within_one_process() -> None:
    """Record locks belong to a process: the second lock of one place would succeed."""
    with workers((2, 0)) as (one,):
        assert [one.takes() for _ in range(4)] == [True, True, False, False]

"""Places over several real processes that share a file."""

from __future__ import annotations

from typing import Any

from tests.places.workers import Worker, workers

ONE: dict[str, Any] = {"gpu": {"max_concurrency": {"*": 1}}}
GPU = ["gpu", "m"]


def waits(worker: Worker, name: str, lane: str = "interactive", *targets: list[str], wait_s: float = 60) -> None:
    assert worker.say("wait", name, lane, wait_s, list(targets) or [GPU]) == "waits"


def hand_over(holder: Worker, following: Worker) -> str:
    """Release the holder's place, and return the name of the call of the other worker that gets it."""
    assert holder.say("release") == "released"
    return following.read()[0]


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


def test_backends_and_endpoints_have_places_of_their_own() -> None:
    """After a reload, the same name may stand for another server."""
    both = {"gpu": ONE["gpu"], "other": ONE["gpu"]}
    with workers(1, both) as (one,):
        assert [one.say("take", GPU), one.say("take", GPU), one.say("take", ["other", "m"])] == ["gpu", None, "other"]

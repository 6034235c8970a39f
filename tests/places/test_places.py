"""Places of one process: limits by model, lanes, several targets, patience, disconnects."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import gevent
import pytest

from app.errors import ClientGone, NoPlace
from app.places import Place, Places
from app.places.table import MOST_WAITING
from app.progress import Progress
from app.types import BackendConfig, Lane, Target, Timeouts


def places(loads: bool = False, **limits: dict[str, int] | int) -> Places:
    configs = [
        BackendConfig(
            name=name,
            type="ollama",
            endpoint="http://x",
            timeouts=Timeouts(1, 1, 1),
            max_concurrency=limit if isinstance(limit, dict) else {"*": limit},
        )
        for name, limit in limits.items()
    ]
    return Places(configs, loads=lambda *_: loads)


def targets(*names: str) -> list[Target]:
    """`gpu` or `gpu/model`."""
    return [Target(name.partition("/")[0], name.partition("/")[2] or "m") for name in names]


def settle() -> None:
    """Let all greenlets run until they wait."""
    for _ in range(5):
        gevent.sleep(0)


class Calls:
    """Calls that wait in greenlets of their own; `order` holds those that got a place, in this order."""

    def __init__(self, places: Places) -> None:
        self.places = places
        self.order: list[str] = []
        self.held: dict[str, Place] = {}
        self.greenlets: dict[str, gevent.Greenlet] = {}

    def wait(self, name: str, *wanted: str, lane: Lane = Lane.INTERACTIVE, wait_s: float = 60, **tell: Any) -> None:
        def wait() -> None:
            with contextlib.suppress(ClientGone):
                self.held[name] = self.places.wait(targets(*wanted or ("gpu",)), lane, wait_s, **tell)
                self.order.append(name)

        self.greenlets[name] = gevent.spawn(wait)
        settle()

    def release(self, name: str) -> None:
        self.places.release(self.held.pop(name))
        settle()


def test_without_a_limit_there_is_always_a_place() -> None:
    free = places(gpu=0)
    taken = [free.take(targets("gpu")) for _ in range(1000)]
    assert all(taken)
    assert (free.in_flight("gpu"), free.own("gpu")) == (1000, (1000, (0, 0, 0)))
    for place in taken:
        assert place
        free.release(place)
    assert free.in_flight("gpu") == 0


def test_a_released_place_is_free() -> None:
    two = places(gpu=2)
    first, second = two.take(targets("gpu")), two.take(targets("gpu"))
    assert first and second
    assert two.take(targets("gpu")) is None
    two.release(second)
    assert two.take(targets("gpu"))
    assert two.in_flight("gpu") == 2


def test_who_waits_too_long_holds_nothing() -> None:
    one = places(gpu=1)
    place = one.take(targets("gpu"))
    with pytest.raises(NoPlace) as caught:
        one.wait(targets("gpu"), Lane.AGENT, 0.001)
    assert caught.value.message == "all 1 places (maxConcurrency) stayed taken for 0.001 s"
    assert (caught.value.kind, caught.value.backend_failed) == ("busy", False)
    assert one.own("gpu") == (1, (0, 0, 0))
    assert place
    one.release(place)
    assert one.take(targets("gpu"))


def test_calls_get_places_in_the_order_of_lanes_and_arrivals() -> None:
    calls = Calls(places(gpu=1))
    calls.wait("holder")
    for name, lane in {
        "b1": Lane.BACKGROUND,
        "a1": Lane.AGENT,
        "i1": Lane.INTERACTIVE,
        "b2": Lane.BACKGROUND,
        "i2": Lane.INTERACTIVE,
        "a2": Lane.AGENT,
    }.items():
        calls.wait(name, lane=lane)
    assert calls.places.own("gpu") == (1, (2, 2, 2))
    for _ in range(6):
        calls.release(calls.order[-1])
    assert calls.order == ["holder", "i1", "i2", "a1", "a2", "b1", "b2"]


def test_nobody_overtakes_a_waiting_call() -> None:
    calls = Calls(places(gpu=1))
    calls.wait("holder")
    calls.wait("first")
    calls.places.release(calls.held.pop("holder"))
    assert calls.places.take(targets("gpu")) is None
    gevent.sleep(0)
    assert calls.order == ["holder", "first"]


def test_a_disconnected_client_frees_its_turn_at_once() -> None:
    calls = Calls(places(gpu=1))
    for name in ("holder", "first", "second"):
        calls.wait(name)
    calls.greenlets["first"].kill(ClientGone)
    assert calls.places.own("gpu") == (1, (1, 0, 0))
    calls.release("holder")
    assert calls.order == ["holder", "second"]


def test_a_client_that_leaves_after_its_turn_came_leaves_the_place_free() -> None:
    calls = Calls(places(gpu=1))
    for name in ("holder", "first", "second"):
        calls.wait(name)
    gevent.get_hub().loop.run_callback(calls.greenlets["first"].throw, ClientGone)
    calls.places.release(calls.held.pop("holder"))  # gives the place to "first", before that runs
    settle()
    assert calls.order == ["holder", "second"]


def test_a_model_may_have_places_of_its_own() -> None:
    """A name without a tag is `:latest`, and all other models share the places of "*"."""
    mixed = places(gpu={"big:latest": 1, "*": 2})
    assert mixed.take(targets("gpu/big"))
    assert mixed.take(targets("gpu/big:latest")) is None
    assert mixed.take(targets("gpu/a")) and mixed.take(targets("gpu/b"))
    assert mixed.take(targets("gpu/a")) is None
    assert mixed.in_flight("gpu") == 3


def test_the_first_of_several_targets_with_a_free_place() -> None:
    pool = places(a=1, b=1, c=1)
    assert [place.target.backend for _ in range(3) if (place := pool.take(targets("b", "a", "c")))] == ["b", "a", "c"]
    assert pool.take(targets("b", "a", "c")) is None


def test_without_limits_the_target_with_the_fewest_calls() -> None:
    pool = places(a=0, b=0)
    order = [place.target.backend for _ in range(4) if (place := pool.take(targets("a", "b")))]
    assert order == ["a", "b", "a", "b"]


def test_who_waits_for_several_targets_takes_one() -> None:
    calls = Calls(places(a=1, b=1))
    calls.wait("x", "a")
    calls.wait("y", "b")
    calls.wait("both", "a", "b")
    calls.wait("later", "a")
    calls.release("y")
    assert calls.held["both"].target.backend == "b"
    assert (calls.places.own("a"), calls.places.own("b")) == ((1, (1, 0, 0)), (1, (0, 0, 0)))
    calls.release("x")
    assert calls.order == ["x", "y", "both", "later"]


def test_what_a_waiting_call_is_told() -> None:
    """The calls that run count too: the first of the queue has one call ahead for each place."""
    calls = Calls(places(gpu=2, other=1))
    progress = Progress()

    def ahead(name: str) -> str:
        return progress.of(name).removeprefix("waiting for a place at gpu, ")

    for name, lane in {"r1": 0, "r2": 0, "x": 0, "b": 2, "i1": 0, "i2": 0}.items():
        calls.wait(name, lane=list(Lane)[lane], tell=partial(progress.during, name))
    assert progress.of("x") == "waiting for a place at gpu, 2 ahead"
    assert [ahead(name) for name in ("i1", "i2", "b")] == ["3 ahead", "4 ahead", "5 ahead"]
    calls.release("r1")
    assert [ahead(name) for name in ("x", "i1", "i2", "b")] == ["", "2 ahead", "3 ahead", "4 ahead"]
    calls.wait("late")
    assert [ahead(name) for name in ("i2", "b")] == ["3 ahead", "5 ahead"]
    calls.wait("o", "other")
    calls.wait("both", "gpu", "other", tell=partial(progress.during, "both"))
    assert progress.of("both") == "waiting for a place at gpu or other, 1 ahead"


def test_the_loaded_model_goes_first() -> None:
    calls = Calls(places(loads=True, gpu=1))
    calls.wait("holder", "gpu/a")
    for name, model in {"b1": "b", "a1": "a", "b2": "b", "a2": "a"}.items():
        calls.wait(name, f"gpu/{model}")
    for _ in range(4):
        calls.release(calls.order[-1])
    assert calls.order == ["holder", "a1", "a2", "b1", "b2"]


def test_ten_thousand_calls_may_wait_and_no_more() -> None:
    calls = Calls(places(gpu=1))
    calls.wait("holder")

    def wait() -> None:
        with contextlib.suppress(ClientGone):
            calls.places.wait(targets("gpu"), Lane.AGENT, 60)

    greenlets = [gevent.spawn(wait) for _ in range(MOST_WAITING)]
    settle()
    assert calls.places.own("gpu") == (1, (0, MOST_WAITING, 0))
    with pytest.raises(NoPlace) as caught:
        calls.places.wait(targets("gpu"), Lane.INTERACTIVE, 60)
    assert caught.value.message == "all 1 places (maxConcurrency) are taken, and 10000 requests wait for them"
    gevent.killall(greenlets, ClientGone, block=False)
    settle()
    assert calls.places.own("gpu") == (1, (0, 0, 0))

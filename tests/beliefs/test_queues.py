"""What the observations say of places, of calls in flight and of busy servers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
import yaml

from app.factory import create_app
from app.services import Services
from app.types import Lane, Queue, Target
from tests import build

BACKENDS = {
    "gpu": {"type": "vllm", "endpoint": "http://127.0.0.1:9", "models": ["a", "b"], "maxConcurrency": {"A": 1, "*": 2}},
    "one": {"type": "vllm", "endpoint": "http://127.0.0.1:9", "models": ["m"]},
    "two": {"type": "vllm", "endpoint": "http://127.0.0.1:9", "models": ["m"]},
    "alone": {"type": "vllm", "endpoint": "http://127.0.0.1:9", "models": ["m"]},
}
POLICY = {"backends": BACKENDS, "pools": {"both": {"members": ["one", "two"]}}, "routes": [{"default": "gpu"}]}


@pytest.fixture
def services(tmp_path: Path) -> Services:
    (tmp_path / "policy.yaml").write_text(yaml.safe_dump(POLICY), "utf-8")
    app = create_app({"LLR_POLICY": str(tmp_path / "policy.yaml"), "LLR_DB": str(tmp_path / "metrics.db")})
    made: Services = app.extensions["services"]
    return made


def take(services: Services, backend: str, model: str = "m") -> Any:
    return services.places.take([Target(backend, model)])


def test_only_places_that_are_all_taken_have_a_queue(services: Services) -> None:
    observe = services.beliefs.observations
    assert observe().queues == {}
    place = take(services, "gpu", "a:latest")
    assert observe().queues == {("gpu", "a:latest"): Queue(1, (0, 0, 0), "a:latest")}
    take(services, "gpu", "b")
    assert ("gpu", "*") not in observe().queues
    take(services, "gpu", "c")
    assert observe().queues["gpu", "*"] == Queue(2, (0, 0, 0), "c")
    waiter = gevent.spawn(services.places.wait, [Target("gpu", "b")], Lane.AGENT, 60)
    gevent.sleep(0)
    assert observe().queues["gpu", "*"] == Queue(2, (0, 1, 0), "c")
    services.places.release(place)
    assert list(observe().queues) == [("gpu", "*")]
    waiter.kill()


def test_calls_in_flight_are_those_of_members_of_pools(services: Services) -> None:
    for backend in ("one", "one", "two", "alone", "gpu"):
        take(services, backend)
    assert services.beliefs.observations().in_flight == {"one": 2, "two": 1}


def busy(services: Services) -> None:
    call = build.record(backend="one", outcome="error", error="http_429", busy=True, retry_after_s=60.0)
    services.circuits.note(call)


CHANGES: dict[str, tuple[Callable[[Services], Any], bool]] = {  # what happens, and whether the observations change
    "nothing": (lambda _: None, False),
    "a place with others free": (lambda services: take(services, "gpu", "b"), False),
    "the last place": (lambda services: take(services, "gpu", "a"), True),
    "a call to a backend without a limit": (lambda services: take(services, "alone"), False),
    "a call to a member of a pool": (lambda services: take(services, "one"), True),
    "a busy server": (busy, True),
}


@pytest.mark.parametrize(("change", "changes"), CHANGES.values(), ids=CHANGES)
def test_the_observations_are_the_same_object_until_they_change(
    services: Services, change: Callable[[Services], Any], changes: bool
) -> None:
    before = services.beliefs.observations()
    change(services)
    after = services.beliefs.observations()
    assert (after is not before) == changes
    assert services.beliefs.observations() is after


def test_the_report_of_a_worker_has_the_lanes(services: Services) -> None:
    take(services, "gpu", "a")
    waiter = gevent.spawn(services.places.wait, [Target("gpu", "a")], Lane.BACKGROUND, 60)
    gevent.sleep(0)
    report = services.report()
    assert report["in_flight"] == {"gpu": 1, "one": 0, "two": 0, "alone": 0}
    assert report["waiting"]["gpu"] == {"interactive": 0, "agent": 0, "background": 1}
    waiter.kill()

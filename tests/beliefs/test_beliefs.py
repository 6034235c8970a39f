"""Medians of the latest calls, trials, locality by resolving, discovery."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from app.background.discovery import models_of, to_ask
from app.beliefs.local import LocalBackends, resolve
from app.beliefs.medians import Medians
from app.errors import BackendTimeout, BackendUnavailable
from app.routing.locality import host_name
from app.types import Target, Times
from tests import build
from tests.fakes.backends import FakeBackend, config
from tests.logs import captured

NOW = 1_700_000_000_000
HOUR_MS = 3_600_000
LOCAL = ("local", "m")


def add(
    made: Medians, name: str, ts_ms: int, model: tuple[str, str], latency: float, ttfb: float | None, **times: int
) -> None:
    made.add(name, model, Times(ts_ms=ts_ms, latency_ms=latency, ttfb_ms=ttfb, **times))  # type: ignore[arg-type]


def medians(*latencies: float, begin: int = NOW - 1000, model: tuple[str, str] = LOCAL) -> Medians:
    """Calls one after the other, the first at `begin`."""
    made = Medians()
    for number, latency in enumerate(latencies):
        add(made, f"r{number}", begin + number, model, latency, None)
    return made


# --- medians ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "latencies, median",
    [
        ([], None),
        ([10] * 4, None),
        ([10, 20, 30, 40, 50], 30),
        ([50, 10, 40, 20, 30], 30),
        ([10, 20, 30, 40, 50, 60], 35),
        ([1, 2, 3, 4, 1000, 1001, 1002, 1003, 1004], 1000),
        ([9000] * 50 + [10] * 9, 10),
        ([9000] * 50 + [10] * 5, 10),
        ([9000] * 50 + [10] * 4, 9000),
    ],
    ids=str,
)
def test_the_median_of_the_latest_nine_of_at_least_five(latencies: list[float], median: float | None) -> None:
    assert medians(*latencies).current(NOW).warm_ms.get(LOCAL) == median


def test_the_latest_are_those_that_ended_last_in_whatever_order_they_are_heard_of() -> None:
    made = Medians()
    for number in (*range(0, 40, 2), *range(39, 0, -2)):
        add(made, f"r{number}", NOW - 1000 + number, LOCAL, float(number), None)
    assert made.current(NOW).warm_ms == {LOCAL: 35.0}


def test_calls_older_than_an_hour_do_not_count() -> None:
    made = medians(*[100] * 5, begin=NOW - HOUR_MS + 1)
    assert made.current(NOW).warm_ms == {LOCAL: 100}
    assert made.current(NOW + 1).warm_ms == {}, "the oldest is an hour old: four are left"


def test_calls_of_a_time_when_the_clock_was_ahead_do_not_stay_the_latest() -> None:
    made = medians(*[9000] * 40, begin=NOW + 24 * HOUR_MS)
    assert made.current(NOW).warm_ms == {}
    for number in range(5):
        add(made, f"s{number}", NOW + number, LOCAL, 10, None)
    assert made.current(NOW + 10).warm_ms == {LOCAL: 10}


def test_a_call_seen_twice_counts_once() -> None:
    made = medians(10, 20, 30, 40)
    for _ in range(5):
        add(made, "r3", NOW - 997, LOCAL, 40, None)
    assert made.current(NOW).warm_ms == {}
    add(made, "r4", NOW, LOCAL, 50, None)
    assert made.current(NOW).warm_ms == {LOCAL: 30}


def test_streams_count_by_their_first_byte() -> None:
    made = Medians()
    for number in range(5):
        add(made, f"r{number}", NOW, LOCAL, 9000, 70)
    assert made.current(NOW).warm_ms == {LOCAL: 70}


def test_each_model_of_each_backend_has_its_own() -> None:
    made = medians(*[10] * 5)
    for number in range(5):
        add(made, f"s{number}", NOW, ("local", "n"), 20, None)
        add(made, f"t{number}", NOW, ("cloud", "m"), 30, None)
    assert made.current(NOW).warm_ms == {LOCAL: 10, ("local", "n"): 20, ("cloud", "m"): 30}


@pytest.mark.parametrize(
    "fields, counts",
    [
        ({}, True),
        ({"kind": "probe"}, True),
        ({"kind": "shadow"}, False),
        ({"outcome": "error"}, False),
        ({"outcome": "cancelled"}, False),
    ],
)
def test_which_calls_count(fields: dict[str, Any], counts: bool) -> None:
    made = Medians()
    for number in range(5):
        made.note(build.record(request_id=f"r{number}", ts_ms=NOW, latency_ms=80, **fields))
    assert made.current(NOW).warm_ms == ({LOCAL: 80} if counts else {})


def test_memory_is_bounded_whatever_models_clients_name() -> None:
    made = medians(*[10] * 5, model=("local", "first"))
    for number in range(600):
        add(made, "r", NOW, ("local", f"m{number}"), 1, None)
    for number in range(5):
        add(made, f"r{number}", NOW, ("local", "last"), 7, None)
    assert made.current(NOW).warm_ms == {("local", "last"): 7}


# --- trials -------------------------------------------------------------------------------------

TARGET = Target("local", "m")


def test_one_trial_in_thirty_seconds() -> None:
    made = Medians()
    grants = [second for second in range(0, 120) if made.claim_measurement(TARGET, NOW + second * 1000)]
    assert grants == [0, 30, 60, 90]


def test_a_trial_of_a_time_when_the_clock_was_ahead_stops_no_other() -> None:
    made = medians(100, begin=NOW + HOUR_MS)
    made.claim_measurement(TARGET, NOW + 2 * HOUR_MS)
    assert made.claim_measurement(TARGET, NOW)
    assert not made.claim_measurement(TARGET, NOW + 1000)


def test_trials_are_by_backend_and_model() -> None:
    made = Medians()
    assert made.claim_measurement(TARGET, NOW)
    assert made.claim_measurement(Target("local", "n"), NOW)
    assert made.claim_measurement(Target("cloud", "m"), NOW)
    assert not made.claim_measurement(TARGET, NOW)


def test_a_call_of_another_worker_counts_as_a_trial() -> None:
    made = medians(100, begin=NOW)
    assert not made.claim_measurement(TARGET, NOW + 29_999)
    assert made.claim_measurement(TARGET, NOW + 30_000)
    assert not made.claim_measurement(TARGET, NOW + 30_001)


# --- locality -----------------------------------------------------------------------------------

CONFIGS = {
    "sworn": config("sworn", local=True, endpoint="http://web.example"),
    "away": config("away", local=False, endpoint="http://lan.example"),
    "lan": config("lan", local=None, endpoint="http://lan.example:11434"),
    "web": config("web", local=None, endpoint="https://web.example/v1"),
    "both": config("both", local=None, endpoint="http://both.example"),
    "late": config("late", local=None, endpoint="http://late.example"),
}
ADDRESSES = {
    "lan.example": ["192.168.1.5", "fd00::5"],
    "web.example": ["93.184.216.34"],
    "both.example": ["10.0.0.1", "93.184.216.34"],
}


def test_until_names_are_resolved_only_what_the_policy_says_is_local() -> None:
    assert LocalBackends(CONFIGS).names == {"sworn"}


def test_a_name_is_local_when_all_its_addresses_are_inside() -> None:
    locality, asked = LocalBackends(CONFIGS), []

    def look_up(host: str) -> list[str]:
        asked.append(host)
        return ADDRESSES.get(host, [])

    locality.refresh(look_up)
    assert locality.names == {"sworn", "lan"}
    assert sorted(asked) == ["both.example", "lan.example", "late.example", "web.example"]


def test_locality_follows_the_names_both_ways() -> None:
    locality, addresses = LocalBackends(CONFIGS), {}
    with captured("llr.background") as said:
        for found, expected in (
            ({"late.example": ["172.16.0.9"]}, {"sworn", "late"}),
            ({"late.example": ["172.16.0.9"]}, {"sworn", "late"}),
            ({"late.example": ["172.16.0.9", "8.8.8.8"]}, {"sworn"}),
            ({}, {"sworn"}),
        ):
            addresses = found
            locality.refresh(lambda host: addresses.get(host, []))  # noqa: B023
            assert locality.names == expected
    assert said == ["INFO local backends now: late, sworn", "INFO local backends now: sworn"]


def test_a_loopback_name_is_looked_up_like_any_other_and_first() -> None:
    names = ("late.example", "localhost", "x.localhost", "bad.localhost")
    locality = LocalBackends({name: config(name, local=None, endpoint=f"http://{name}:1") for name in names})
    assert locality.names == frozenset()
    asked: list[str] = []

    def look_up(host: str) -> list[str]:
        asked.append(host)
        if host == "late.example":
            assert locality.names == {"localhost", "x.localhost"}, "the others do not wait for it"
        return ["93.184.216.34"] if host == "bad.localhost" else ["127.0.0.1"]

    locality.refresh(look_up)
    assert asked[-1] == "late.example"
    assert locality.names == {"late.example", "localhost", "x.localhost"}


@pytest.mark.parametrize(
    "endpoint, host",
    [
        ("http://localhost", "localhost"),
        ("http://localhost:11434", "localhost"),
        ("https://GPU.lan:8443/v1", "gpu.lan"),
        ("http://10.0.0.1/x:y@z", "10.0.0.1"),
        ("http://[::1]", "::1"),
        ("http://[fd00::5]:80/v1", "fd00::5"),
    ],
)
def test_the_host_of_an_endpoint(endpoint: str, host: str) -> None:
    assert host_name(endpoint) == host


@pytest.mark.parametrize("error", [socket.gaierror(-2, "no such name"), OSError("x"), UnicodeError("label too long")])
def test_a_name_that_cannot_be_looked_up_has_no_address(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fails)
    assert resolve("x" * 80) == []


def test_addresses_are_looked_up() -> None:
    assert resolve("127.0.0.1") == ["127.0.0.1"]


# --- discovery ----------------------------------------------------------------------------------


class Hosted(FakeBackend):
    hosted = True


def test_local_backends_are_asked_for_their_models_and_nobody_else() -> None:
    backends = {
        "home": FakeBackend(config("home", models=("a", "b"))),
        "away": FakeBackend(config("away", models=("c",))),
        "hosted": Hosted(config("hosted", models=("d",))),
        "down": FakeBackend(config("down", models=("e",)), BackendUnavailable("connection refused")),
        "slow": FakeBackend(config("slow", models=("f",)), BackendTimeout("late")),
    }
    ask = to_ask(backends, frozenset({"home", "hosted", "down", "slow"}))
    assert {name: models_of(backend) for name, backend in ask.items()} == {
        "home": ("a", "b"),
        "down": None,
        "slow": None,
    }

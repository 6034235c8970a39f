"""A backend that is down is left alone, and found again when it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.e2e.server import wait_until
from tests.e2e.stage import Stage
from tests.fakes.replies import error, rate_limited

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    names = ("failing", "limited", "gone")
    with Stage(tmp_path_factory.mktemp("recovery"), {name: {} for name in names}, env={"LLR_COOLDOWN": "1"}) as made:
        yield made


def wait_for_traffic(stage: Stage, name: str, timeout: float) -> None:
    """Until both workers send everything there again: each has its own view."""

    def all_of_ten() -> bool:
        return all(stage.ask(name).headers["X-LLR-Backend"] == name for _ in range(10))

    wait_until(all_of_ten, timeout, f"{name} to be asked again")


def test_a_failing_backend_is_not_hammered(stage: Stage):
    stage.up.reset()
    stage.up.script(error(500), path=stage.path("failing"), repeat=True)
    begin = time.monotonic()
    count = 0
    while time.monotonic() - begin < 2.5:
        assert stage.ask("failing").text == "from spare"
        count += 1
    calls = len(stage.calls("failing"))
    # Each of two workers: three failures, then trials after 1 s and after 2 s more.
    assert count > 30 and 3 <= calls <= 10, (count, calls)
    stage.up.reset()
    wait_for_traffic(stage, "failing", 20)


def test_all_targets_cooling_down_still_answers(stage: Stage):
    stage.up.reset()
    stage.up.script(error(500), path=stage.path("failing"), repeat=True)
    for _ in range(12):
        assert stage.ask("failing", alone=True).status == 502
    stage.up.reset()
    assert stage.ask("failing", alone=True).text.startswith("word")


def test_retry_after_is_honoured_and_passed_on(stage: Stage):
    stage.up.reset()
    stage.up.script(rate_limited(3), path=stage.path("limited"), repeat=True)
    answer = stage.ask("limited", alone=True)
    assert (answer.status, answer.error["code"]) == (429, "rate_limit_exceeded")
    assert answer.error["type"] == "rate_limit_error"
    assert 1 <= int(answer.headers["Retry-After"]) <= 3
    begin = time.monotonic()
    for _ in range(30):
        assert stage.ask("limited").text == "from spare"
    assert len(stage.calls("limited")) <= 3  # the first, and at most one for each worker to learn it
    stage.up.reset()
    wait_for_traffic(stage, "limited", 10)
    assert time.monotonic() - begin > 1.5


def test_a_backend_that_was_restarted_gets_its_traffic_back(stage: Stage):
    stage.up.reset()
    assert stage.ask("gone").headers["X-LLR-Backend"] == "gone"
    stage.up.stop()
    for _ in range(12):
        answer = stage.ask("gone")
        assert (answer.text, answer.headers["X-LLR-Backend"]) == ("from spare", "spare")
    stage.up.start()
    wait_for_traffic(stage, "gone", 20)

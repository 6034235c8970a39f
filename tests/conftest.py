"""Fixtures: `upstream` and `router` are factories; what they start ends with the test."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

from tests.e2e.server import Router
from tests.fakes.upstream import Upstream

# No timings in tests, and the same examples on every machine: what is found is found by everybody.
hypothesis.settings.register_profile(
    "house", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")


# The beginnings of the names of the files that take longest, these first.
_SLOW = ("e2e/test_verify", "test_recipes.py", "e2e/", "places/", "faults/", "test_linear.py", "test_patterns.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that no process has one of them left when the others are idle."""
    folder = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(folder).as_posix()
        return next((number for number, begin in enumerate(_SLOW) if name.startswith(begin)), len(_SLOW))

    items.sort(key=place)


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands fold their lines to a terminal; pytest-xdist pretends that there is one."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """A command of the program that runs in the tests' own process raises the level of its log: put it back."""
    log = logging.getLogger("llr")
    level = log.level
    yield
    log.setLevel(level)


@pytest.fixture(autouse=True)
def garbage_collection() -> Iterator[None]:
    """A worker that starts in the tests' own process has garbage collected less often: sockets that tests left would
    stay open, thousands of them."""
    thresholds = gc.get_threshold()
    yield
    if gc.get_threshold() != thresholds:
        gc.unfreeze()
        gc.set_threshold(*thresholds)


@pytest.fixture
def upstream() -> Iterator[Callable[..., Upstream]]:
    """`upstream(models=[…])` starts a fake model server."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Upstream(**options))


@pytest.fixture
def router(tmp_path: Path) -> Iterator[Callable[..., Router]]:
    """`router(policy, workers=2, env={…})` starts the real router; each call a folder of its own."""
    with ExitStack() as stack:
        number = iter(range(1000))

        def start(policy, **options) -> Router:
            folder = options.pop("folder", None) or tmp_path / f"router{next(number)}"
            return stack.enter_context(Router(policy, folder=folder, **options))

        yield start

"""Fixtures: `upstream` and `router` are factories; what they start ends with the test."""

from __future__ import annotations

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

"""What the clients meet: the router with two workers before two chat-only fake backends.

A client with one connection may only ever meet one worker.  So there is another router over the same database: what is
asked there is surely asked of a worker that did not see the requests before.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Router
from tests.e2e.test_streams import two
from tests.fakes.upstream import Upstream

SCRIPTS = Path(__file__).with_name("node")


@dataclass(frozen=True, slots=True)
class House:
    router: Router
    other: Router  # shares nothing with `router` but the database
    local: Upstream  # answers first
    cloud: Upstream  # its fallback

    @property
    def base_url(self) -> str:
        return f"{self.router.url}/v1"

    @property
    def other_url(self) -> str:
        return f"{self.other.url}/v1"

    @property
    def sent(self) -> list[dict[str, Any]]:
        """The chat bodies that the first backend got, in order."""
        return [request.json for request in self.local.chats]

    @property
    def told(self) -> list[dict[str, Any]]:
        """The messages of the last one."""
        return self.sent[-1]["messages"]


@pytest.fixture(scope="session")
def node() -> Path:
    """The Node that `make test-clients` installs."""
    found = Path(sys.executable).with_name("node")
    if not found.exists() or not (SCRIPTS / "node_modules").exists():
        pytest.fail("Node and the packages of tests/clients/node are not installed: run `make test-clients`.")
    return found


@pytest.fixture(scope="module")
def ollama_native() -> bool:
    """Whether the local server is an Ollama that is asked over its own API.  Files override it."""
    return False


@pytest.fixture(scope="module")
def running(ollama_native: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with Upstream(models=["m:1"], native=ollama_native) as local, Upstream() as cloud:
        folder, policy, env = tmp_path_factory.mktemp("house"), two(local, cloud), {"OPENAI_API_KEY": "key-for-tests"}
        with Router(policy, folder=folder / "router", workers=2, env=env) as router:
            env["LLR_DB"] = str(router.database)
            with Router(policy, folder=folder / "other", workers=1, env=env) as other:
                yield House(router, other, local, cloud)


@pytest.fixture
def house(running: House) -> House:
    """One router for a file; the fakes have forgotten what was before."""
    running.local.reset()
    running.cloud.reset()
    return running

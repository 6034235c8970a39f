"""When the servers are asked for what they have loaded: real HTTP servers, real loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gevent
import pytest

from app.backends.ollama import OllamaBackend
from app.background import residency
from app.types import BackendConfig, Timeouts
from tests.e2e.server import wait_until
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import reply
from tests.fakes.upstream import Upstream

Watch = Callable[..., OllamaBackend]


@pytest.fixture
def watched() -> set[str]:
    """The backends that are in use."""
    return set()


@pytest.fixture
def watch(watched: set[str]) -> Iterator[Watch]:
    loops = []
    backends = []

    def start(url: str, name: str = "gpu") -> OllamaBackend:
        config = BackendConfig(name=name, type="ollama", endpoint=url, timeouts=Timeouts(2, 20, 20), local=True)
        backend = OllamaBackend(config, {})
        backend.discover()
        backends.append(backend)
        for loop in residency.loops({name: backend}, watched.__contains__):
            loops.append(loop)
            loop.start()
        return backend

    yield start
    for loop in loops:
        loop.stop()
    for backend in backends:
        backend.close()


def until(condition: Callable[[], object], what: str) -> None:
    """Wait while the loops run."""

    def met() -> object:
        gevent.sleep(0.02)
        return condition()

    wait_until(met, 10, what)


def test_only_servers_in_use_are_asked(watch: Watch, watched: set[str]) -> None:
    with Ollama([Model("m:1b")]) as ollama:
        backend = watch(ollama.url)
        gevent.sleep(2.2)
        assert ollama.looks == []
        watched.add("gpu")
        until(lambda: len(ollama.looks) >= 3, "looks")
        assert backend.facts["m:1b"].loaded is False
        watched.clear()
        backend.changes.set()
        before = len(ollama.looks)
        until(lambda: len(ollama.looks) > before, "a look after a load")


def test_an_expiry_leads_to_one_question(watch: Watch) -> None:
    """The clock of the server may be far behind."""
    with Upstream(models=["m:1b"]) as up:
        entry = {"name": "m:1b", "expires_at": "2020-01-01T00:00:00Z", "context_length": 5}
        up.script(reply(200, {"models": [entry]}), path="/api/ps", repeat=True)
        backend = watch(up.url)
        backend.look()
        until(lambda: _looks(up) == 2, "the question")
        gevent.sleep(2.2)
        assert _looks(up) == 2


def _looks(up: Upstream) -> int:
    return [request.path for request in up.requests].count("/api/ps")

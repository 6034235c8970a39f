"""One load for all requests that wait for the same model."""

from __future__ import annotations

import gevent
import pytest
from gevent.event import Event

from app.backends.ollama_loads import Loads
from app.errors import BackendError, BackendServerError, BackendTimeout


class Server:
    def __init__(self, error: BackendError | None = None) -> None:
        self.may_end = Event()
        self.loads: list[str] = []
        self.ended: list[str] = []
        self._error = error

    def load(self, model: str) -> None:
        self.loads.append(model)
        self.may_end.wait(10)
        self.ended.append(model)
        if self._error is not None:
            raise self._error


def waiting(loads: Loads, *models: str) -> list[gevent.Greenlet]:
    greenlets = [gevent.spawn(loads.wait_for, model, 10) for model in models]
    gevent.sleep(0.01)
    return greenlets


def test_names_of_one_model_share_a_load() -> None:
    server = Server()
    loads = Loads(server.load)
    greenlets = waiting(loads, "m", "m:latest", "M", "library/m", "other")
    assert server.loads == ["m", "other"]
    server.may_end.set()
    gevent.joinall(greenlets, raise_error=True)
    waiting(loads, "m")
    assert server.loads == ["m", "other", "m"], "the next one is a load of its own"


def test_each_request_raises_an_error_of_its_own() -> None:
    """Later code adds facts about the request to the error."""
    server = Server(BackendServerError("answered 500", kind="http_500", backend_text="no memory", retry_after_s=3.0))
    greenlets = waiting(Loads(server.load), "m", "m", "m")
    server.may_end.set()
    gevent.joinall(greenlets)
    errors = [greenlet.exception for greenlet in greenlets]
    assert len(set(map(id, errors))) == 3
    for error in errors:
        assert isinstance(error, BackendServerError)
        assert (error.message, error.kind, error.status) == ("answered 500", "http_500", 502)
        assert (error.backend_text, error.retry_after_s, error.__context__) == ("no memory", 3.0, None)


def test_a_load_goes_on_when_all_have_left() -> None:
    server = Server()
    loads = Loads(server.load)
    [first] = waiting(loads, "m")
    first.kill()
    with pytest.raises(BackendTimeout, match=r"did not load m within 0\.01 s; the load goes on"):
        loads.wait_for("m", 0.01)
    [second] = waiting(loads, "m")
    server.may_end.set()
    second.get(timeout=10)
    assert (server.loads, server.ended) == (["m"], ["m"])

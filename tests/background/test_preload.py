"""When models of `preload` are loaded, with a clock of the test."""

from __future__ import annotations

import logging
import multiprocessing
import tempfile

import pytest

from app.background.preload import Preload
from app.errors import BackendServerError
from app.types import ModelFacts, model_key


class Server:
    """A server with room for some models; the one that was loaded first goes first."""

    def __init__(self, preload: list[str], room: int = 1, held: str = "abcx") -> None:
        self.preload = tuple(preload)
        self.room = room
        self.held = held
        self.loaded: list[str] = []
        self.log: list[str] = []
        self.unused: dict[str, float] = {}
        self.error: BackendServerError | None = None
        self.tells = True

    @property
    def facts(self) -> dict[str, ModelFacts]:
        return {model_key(name): ModelFacts(loaded=name in self.loaded if self.tells else None) for name in self.held}

    @property
    def residency(self) -> dict[str, None]:
        return dict.fromkeys(f"{name}:latest" for name in self.loaded)

    def look(self) -> None: ...

    def unused_s(self, model: str) -> float:
        return self.unused.get(model, 0.0)

    def load(self, model: str, limit_s: float) -> None:
        assert limit_s > 0
        self.log.append(model)
        if self.error is not None:
            raise self.error
        self.loaded.append(model)
        del self.loaded[: -self.room]


class Scene:
    def __init__(self, server: Server, fd: int | None = None) -> None:
        self.now = 1000.0
        self.local = True
        self.called = False
        self.preload = Preload(
            "gpu",
            server,  # type: ignore[arg-type]
            lambda _: self.local,
            lambda _: self.called,
            fd,
            lambda: self.now,
        )

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.preload.step()


def test_all_are_loaded_at_the_start() -> None:
    server = Server(["a", "b"], room=2)
    Scene(server).pass_time(30)
    assert (sorted(server.loaded), server.log) == (["a", "b"], ["b", "a"])


def test_of_more_than_fit_the_first_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(["a", "b", "c"])
    with caplog.at_level(logging.WARNING):
        Scene(server).pass_time(300)
    assert (server.loaded, server.log) == (["a"], ["c", "b", "a"])
    assert [record.message for record in caplog.records] == [
        f"preload: gpu has no room for {model} beside the models before it; it is left out" for model in "cb"
    ]


def test_it_replaces_what_is_loaded_at_the_start() -> None:
    server = Server(["a"])
    server.loaded = ["x"]
    Scene(server).pass_time(1)
    assert server.loaded == ["a"]


@pytest.mark.parametrize(("preload", "other"), [(["a"], "x"), (["a", "b"], "b")])
def test_after_an_eviction_it_waits_for_a_minute_of_silence(preload: list[str], other: str) -> None:
    """The other model may be one of `preload` that did not fit."""
    server = Server(preload)
    scene = Scene(server)
    scene.pass_time(1)
    server.loaded = [other]
    for unused, called in ((0.0, False), (59.0, False), (61.0, True)):
        server.unused[f"{other}:latest"], scene.called = unused, called
        scene.pass_time(20)
        assert server.loaded == [other]
    scene.called = False
    scene.pass_time(6)
    assert server.loaded == ["a"]


def test_when_nothing_else_is_loaded_it_comes_back_at_once() -> None:
    server = Server(["a", "b"], room=2)
    scene = Scene(server)
    scene.pass_time(1)
    server.loaded = ["b"]
    scene.pass_time(6)
    assert sorted(server.loaded) == ["a", "b"]


def test_models_that_throw_each_other_out_later() -> None:
    server = Server(["a", "b"], room=2)
    scene = Scene(server)
    scene.pass_time(1)
    server.room, server.loaded = 1, ["b"]  # there is less memory now
    scene.pass_time(300)
    assert server.loaded == ["a"]
    assert server.log == ["b", "a", "a"]


def test_a_load_that_fails_is_tried_again_after_a_minute(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(["a"])
    server.error = BackendServerError("answered 500", backend_text="no memory")
    with caplog.at_level(logging.WARNING):
        Scene(server).pass_time(200)
    assert len(server.log) == 4
    assert [record.message for record in caplog.records] == ["preload: gpu did not load a: answered 500: no memory"]


def test_a_model_that_the_server_does_not_hold(caplog: pytest.LogCaptureFixture) -> None:
    server = Server(["z", "a"])
    with caplog.at_level(logging.WARNING):
        Scene(server).pass_time(100)
    assert server.log == ["a"]
    assert [record.message for record in caplog.records] == ["preload: gpu does not hold z"]


def test_nothing_is_loaded_elsewhere_or_blindly() -> None:
    server = Server(["a"])
    scene = Scene(server)
    scene.local = False
    scene.pass_time(10)
    scene.local, server.tells = True, False
    scene.pass_time(10)
    assert server.log == []
    server.tells, server.loaded = True, ["x"]
    scene.pass_time(10)
    assert server.loaded == ["a"], "that was the start"


def test_one_process_loads() -> None:
    """A record lock belongs to a process, so the other one is a child."""
    with tempfile.TemporaryFile() as shared:
        server = Server(["a"])
        Scene(server, shared.fileno()).pass_time(10)
        assert server.log == ["a"]
        context = multiprocessing.get_context("fork")
        other = context.Process(target=_expect_no_load, args=(shared.fileno(),))
        other.start()
        other.join(20)
        assert other.exitcode == 0


def _expect_no_load(fd: int) -> None:
    server = Server(["a"])
    Scene(server, fd).pass_time(10)
    raise SystemExit(len(server.log))

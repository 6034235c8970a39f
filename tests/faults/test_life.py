"""Stop, reload and kill -9 under load: nothing is lost that need not be, nothing is left behind."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Router, RouterDied, Stream, wait_until
from tests.fakes.replies import HANG, Gate, sse
from tests.fakes.upstream import Upstream
from tests.faults.load import Load, Result

pytestmark = pytest.mark.faults

Start = Callable[..., Upstream]


def policy(up: Upstream, model: str = "m", **more: Any) -> dict[str, Any]:
    return {
        "backends": {"local": {"type": "ollama", "endpoint": up.url, "models": [model], **more}},
        "routes": [{"default": "local"}],
    }


@pytest.fixture
def up(upstream: Start) -> Upstream:
    return upstream(models=["m"], gap_s=0.01)


def intact(database: Path) -> bool:
    with contextlib.closing(sqlite3.connect(database, timeout=5)) as connection:
        return connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def written(router: Router) -> set[str]:
    return {row["request_id"] for row in router.rows()}


def missing(router: Router, results: list[Result]) -> set[str | None]:
    return {result.request_id for result in results} - written(router)


def busy(load: Load, count: int = 100) -> None:
    """Until that many more requests have been answered."""
    until = len(load.results) + count
    wait_until(lambda: len(load.results) >= until, 60, "traffic")


def serves(router: Router) -> bool:
    with contextlib.suppress(OSError, AssertionError):
        return router.chat("hello", timeout=5).status == 200
    return False


@contextlib.contextmanager
def streams(router: Router, up: Upstream, count: int, gate: Gate) -> Iterator[list[Stream]]:
    """Streams that have said `first` and wait for the gate to say `last`."""
    up.script(sse("first ", gate, "last"), when=lambda request: request.json.get("user") == "gated", repeat=True)
    with ExitStack() as stack:
        opened = [stack.enter_context(router.stream("x", user="gated", timeout=60)) for _ in range(count)]
        for stream in opened:
            stream.until(b"first")
        yield opened


def whole(stream: Stream) -> bool:
    try:
        return stream.read().endswith(b"data: [DONE]\n\n")
    except (OSError, http.client.HTTPException):
        return False


# --- stop ---------------------------------------------------------------------------------------


def test_sigterm_finishes_many_streams_refuses_the_rest_and_writes_every_row(up: Upstream, tmp_path: Path) -> None:
    gate = Gate()
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_GRACEFUL_TIMEOUT": "20"}) as router:
        with streams(router, up, 40, gate) as opened:
            router.signal(signal.SIGTERM)
            wait_until(lambda: refuses(router), 10, "the listening socket to close")
            gate.open()
            assert all(map(whole, opened))
        assert router.wait_exit(20) == 0
        assert sorted(row["outcome"] for row in router.rows()) == ["ok"] * 40
        assert not router.living_workers() and intact(router.database)


def refuses(router: Router) -> bool:
    try:
        router.raw().close()
    except OSError:
        return True
    return False


def test_sigterm_does_not_wait_for_ever(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_GRACEFUL_TIMEOUT": "2"}) as router:
        with streams(router, up, 10, Gate()) as opened, router.raw() as idle:
            up.script([HANG], when=lambda request: request.json.get("user") == "hanging")
            router.signal(signal.SIGTERM)
            assert router.wait_exit(15) == 0
            assert not any(map(whole, opened))
            assert idle.recv(1) == b""
        assert sorted(row["outcome"] for row in router.rows()) == ["cancelled"] * 10
        assert not router.living_workers() and intact(router.database)
        assert up.wait(lambda: all(request.hung_up for request in up.chats))
        assert "Traceback" not in router.log_text()


def test_sigterm_under_load_loses_no_row(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path, workers=2, env={"LLR_GRACEFUL_TIMEOUT": "10"}) as router:
        with Load(router) as load:
            busy(load)
            assert router.terminate(20) == 0
        answered = [result for result in load.results if not result.problem]
        assert len(answered) >= 100 and not missing(router, answered)
        # Who was turned away was turned away before anything happened.
        assert len(router.rows()) == len(answered)
        assert {result.problem.partition("(")[0] for result in load.problems} <= TURNED_AWAY


TURNED_AWAY = {"ConnectionRefusedError", "ConnectionResetError", "RemoteDisconnected"}


# --- reload -------------------------------------------------------------------------------------


def test_reloads_under_load_fail_no_request_and_mix_no_policy(upstream: Start, tmp_path: Path) -> None:
    """The backend's name is the same in both policies; its address and its model change together."""
    fakes = {"a": upstream(models=["a"], gap_s=0.01), "b": upstream(models=["b"], gap_s=0.01)}
    policies = {model: policy(up, model) for model, up in fakes.items()}
    env = {"LLR_GRACEFUL_TIMEOUT": "20"}
    with Router(policies["a"], folder=tmp_path, workers=2, env=env) as router, Load(router) as load:
        for model in ("b", "a", "b", "a", "b"):
            busy(load, 40)
            router.write_policy(policies[model])
            router.sighup()
        busy(load, 200)
        wait_until(lambda: all(router.chat().headers["X-LLR-Model"] == "b" for _ in range(20)), 30, "the last policy")
    assert not load.problems
    for model, up in fakes.items():
        assert {request.model for request in up.chats} == {model}, "a request went by both policies"
        assert sum(result.model == model for result in load.results) > 20
    router.terminate()
    assert not missing(router, load.results)
    assert "Traceback" not in router.log_text()


def test_reloads_of_a_broken_policy_under_load_change_nothing_in_any_worker(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path, workers=2) as router, Load(router, 4) as load:
        for broken in ("backends: [", "", "routes: []\n", '{"backends": {"local": {"type": "olama"}}}'):
            said = router.log_text().count("NOT reloaded")
            router.write_policy(broken)
            router.sighup()
            wait_until(lambda said=said: router.log_text().count("NOT reloaded") > said, 20, "the log to say so")
        before = set(router.worker_pids())
        router.policy_file.unlink()
        router.sighup()
        wait_until(lambda: router.log_text().count("NOT reloaded") >= 5, 20, "the log to say so")
        wait_until(lambda: replaced(router, before), 20, "the end of those that were replaced")
        for victim in router.worker_pids():  # workers that come later get the old policy too
            os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: replaced(router, {victim}), 20, "a new worker")
        moment = time.monotonic()
        busy(load, 50)
    assert len(load.good_since(moment)) >= 40
    assert {result.model for result in load.good_since(0)} == {"m"}
    assert "Traceback" not in router.log_text()


# --- kill -9 ------------------------------------------------------------------------------------


def replaced(router: Router, victims: set[int]) -> bool:
    pids = set(router.worker_pids())
    return len(pids) == router.workers and not pids & victims


def served_by(pid: int, opened: list[Stream]) -> int:
    """How many of these streams a worker serves, by the addresses of its sockets."""
    own = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            own.add(str(entry.readlink()).partition("[")[2].rstrip("]"))
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ports = {int(fields[2].rpartition(":")[2], 16) for fields in table if fields[9] in own}
    return sum(stream.port in ports for stream in opened)


def test_kill_9_of_a_worker(up: Upstream, tmp_path: Path) -> None:
    """Its streams break, the other worker's do not; its places are free again; only its last rows are lost."""
    gate, limit = Gate(), 40
    with Router(policy(up, maxConcurrency=limit), folder=tmp_path, workers=2) as router:
        with streams(router, up, 30, gate) as opened, Load(router, 4) as load:
            busy(load, 40)
            victim, broken = min(((pid, served_by(pid, opened)) for pid in router.worker_pids()), key=lambda it: -it[1])
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            wait_until(lambda: replaced(router, {victim}), 20, "a new worker")
            busy(load, 40)
            gate.open()
            ends = [whole(stream) for stream in opened]
        assert broken > 0 and sum(ends) == 30 - broken
        assert len(load.problems) <= 4, load.problems  # at most one a client
        assert intact(router.database)
        with streams(router, up, limit, Gate()):  # every place can be had
            pass
        router.terminate()
        lost = missing(router, load.good_since(0))
        assert not missing(router, [result for result in load.good_since(0) if result.ended < killed - 1])
        assert len(lost) <= 40


def test_kill_9_of_the_master(up: Upstream, tmp_path: Path) -> None:
    """Its workers notice, write what they have and end; the port is free."""
    router = Router(policy(up), folder=tmp_path, workers=2)
    with router, Load(router, 4) as load:
        busy(load, 40)
        router.kill()
        wait_until(lambda: not router.living_workers(), 15, "the workers' end")
    assert not missing(router, load.good_since(0))
    assert intact(router.database)
    with router:
        assert router.chat("back again").text == "back again"


def test_kill_9_of_all(up: Upstream, tmp_path: Path) -> None:
    router = Router(policy(up), folder=tmp_path, workers=2)
    for _ in range(3):  # the same port at once, the same database
        with router:
            with Load(router, 6) as load:
                busy(load, 60)
                router.worker_pids()
                killed = time.monotonic()
                router.kill_all()
            assert not router.living_workers()
            wait_until(lambda: refuses(router), 5, "the port to be free")
            assert intact(router.database)
            assert not missing(router, [result for result in load.good_since(0) if result.ended < killed - 1])
    with router:
        assert router.chat("back again").text == "back again"
        assert router.terminate() == 0
    assert intact(router.database)


def test_workers_that_die_again_and_again(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path, workers=2) as router:
        for _ in range(6):
            victims = set(router.worker_pids())
            for victim in victims:
                os.kill(victim, signal.SIGKILL)
            wait_until(lambda victims=victims: replaced(router, victims), 20, "new workers")
            wait_until(lambda: serves(router), 20, "service")
        assert intact(router.database)
        assert router.terminate() == 0


# --- start --------------------------------------------------------------------------------------

NONSENSE = [
    ({"LLR_PORT": "0"}, "LLR_PORT"),
    ({"LLR_PORT": "65536"}, "LLR_PORT"),
    ({"LLR_PORT": "-1"}, "LLR_PORT"),
    ({"LLR_PORT": "80 80"}, "LLR_PORT"),
    ({"LLR_PORT": "٣٠٣٠"}, "LLR_PORT"),
    ({"LLR_HOST": "999.1.1.1"}, "cannot listen on"),
    ({"LLR_HOST": "no-such-host.invalid"}, "cannot listen on"),
    ({"LLR_HOST": "192.0.2.1"}, "cannot listen on"),
    ({"LLR_HOST": "http://localhost"}, "cannot listen on"),
    ({"LLR_HOST": "::zz"}, "cannot listen on"),
    ({"LLR_HOST": "a" * 300}, "cannot listen on"),
]


@pytest.mark.parametrize(("env", "said"), NONSENSE, ids=lambda value: str(value)[:40])
def test_an_address_that_is_nonsense_is_one_clear_line(
    up: Upstream, tmp_path: Path, env: dict[str, str], said: str
) -> None:
    with pytest.raises(RouterDied) as died, Router(policy(up), folder=tmp_path, env=env):
        pass
    lines = str(died.value).splitlines()
    assert said in str(died.value) and "Traceback" not in str(died.value), died.value
    assert len(lines) <= 3, lines


def test_a_taken_port_is_left_to_its_owner(up: Upstream, tmp_path: Path) -> None:
    with Router(policy(up), folder=tmp_path / "first") as router:
        env = {"LLR_PORT": str(router.port)}
        for number in itertools.islice(itertools.count(), 2):
            with pytest.raises(RouterDied, match="cannot listen on"):
                Router(policy(up), folder=tmp_path / f"other{number}", env=env).start()
        assert router.chat("still mine").text == "still mine"

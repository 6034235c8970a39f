"""No byte of a private request leaves: not by any route, pin, fault, fallback, mirror, header, name or reload.

Thousands of private requests, each with a canary of its own, through real gunicorns with two workers.  The fakes in
the cloud keep every byte they hear; the log, the database and all other files are searched as well.
"""

from __future__ import annotations

import concurrent.futures
import http.client
import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.routing.locality import is_cloud_model
from tests.e2e.server import Answer, Router, parse_events, wait_until
from tests.fakes.upstream import model_in_go
from tests.faults.altered import NO_GATE, NO_STAGE, SMALL_LOOPBACK, altered_copy
from tests.faults.asks import CANARY, CONTROL, NOT_PRIVATE, Ask, Past, asks
from tests.faults.scenes import FAULTS, SCENES, Fakes, Scene, running

pytestmark = pytest.mark.faults

AT_ONCE = 24
ENV = {"CLOUD_KEY": "sk-cloud-0123456789abcdefghij", "LLR_COOLDOWN": "0.05"}
NAMES = Path(__file__).parent / "names"
_numbers = itertools.count(0, 10_000)
counted: dict[str, Counter[int]] = {}  # statuses by scene


@pytest.fixture
def fakes() -> Iterator[Fakes]:
    with running() as started:
        yield started


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_no_byte_of_a_private_request_leaves(scene: Scene, fakes: Fakes, tmp_path: Path) -> None:
    root = {"root": altered_copy(tmp_path / "copy", SMALL_LOOPBACK)} if scene.small_loopback else {}
    heard = Heard(fakes)
    with Router(
        scene.policies(fakes)[0], folder=tmp_path / "router", workers=2, env=environment(scene), **root
    ) as router:
        control(router, scene, fakes)
        pasts = list(remember(router, 12)) if scene.stored else []
        with reloading(router, scene.policies(fakes)):
            sent = play(router, asks(list(FAULTS), next(_numbers), pasts))
        assert_nothing_leaked(heard, router, scene)
    assert_nothing_leaked(heard, router, scene)
    assert fakes.home.heard.count(CANARY.encode()) or scene.name == "home refuses", "the private requests went nowhere"
    for answered in sent:
        check(answered, scene)
    counted[scene.name] = Counter(answered.answer.status for answered in sent)


def test_there_were_enough_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        for name, statuses in counted.items():
            by_status = ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))
            print(f"\n  {statuses.total():6d} private requests: {name} ({by_status})", end="")  # noqa: T201
        total = sum(statuses.total() for statuses in counted.values())
        print(f"\n  {total:6d} in all; bytes of canary outside: 0")  # noqa: T201
    assert total >= 10_000 or len(counted) < len(SCENES)


# --- that it can fail ---------------------------------------------------------------------------


def subset(root: Path, fakes: Fakes, folder: Path) -> Heard:
    """Every tenth request of the first scene, on a changed copy of the project."""
    scene, heard = SCENES[0], Heard(fakes)
    with Router(scene.policies(fakes)[0], folder=folder, workers=2, env=environment(scene), root=root) as router:
        play(router, asks(list(FAULTS), next(_numbers), every=10))
    return heard


def test_without_the_choke_point_the_matrix_is_red(fakes: Fakes, tmp_path: Path) -> None:
    heard = subset(altered_copy(tmp_path / "copy", {**NO_GATE, **NO_STAGE}), fakes, tmp_path / "router")
    leaked = heard.outside()
    assert leaked["cloud"] > 10 and leaked["mirror"] > 10, leaked


def test_the_gate_alone_holds(fakes: Fakes, tmp_path: Path) -> None:
    heard = subset(altered_copy(tmp_path / "copy", NO_STAGE), fakes, tmp_path / "router")
    assert not heard.outside()


# --- asking -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answered:
    ask: Ask
    answer: Answer


def environment(scene: Scene) -> dict[str, str]:
    return ENV | ({"PYTHONPATH": str(NAMES)} if scene.small_loopback else {})


def send(router: Router, ask: Ask) -> Answered:
    connection = http.client.HTTPConnection("127.0.0.1", router.port, timeout=60)
    body = ask.body()
    try:
        connection.putrequest("POST", ask.path)
        for name, value in (
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
            *ask.marking.headers,
        ):
            connection.putheader(name, value.encode("latin-1"))
        connection.endheaders(body)
        response = connection.getresponse()
        return Answered(ask, Answer(response.status, response.headers, response.read()))
    finally:
        connection.close()


def play(router: Router, questions: Iterator[Ask]) -> list[Answered]:
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda ask: send(router, ask), questions))


CONTROLS = (("chat", False), ("responses", True), ("messages", True))


def control(router: Router, scene: Scene, fakes: Fakes) -> None:
    """Requests that are not private reach the cloud: so the fakes hear, on every path they are to be watched on."""
    first = next(_numbers)
    ways = itertools.product((None, "cloud", "shared"), ("none", "http_500"), CONTROLS)
    for number, (pin, fault, (surface, stream)) in enumerate(ways, first):
        send(router, Ask(number, surface, stream, pin, NOT_PRIVATE, fault))
    if scene.name == "names":
        send(router, Ask(first + 100, "chat", False, "flips", NOT_PRIVATE, "none"))
    for name in scene.hears:
        heard = fakes.clouds[name].heard
        wait_until(lambda heard=heard: CONTROL.encode() in heard, 10, f"{name} to hear a control request")


def remember(router: Router, count: int) -> Iterator[Past]:
    """Private conversations that the router keeps."""
    for number in range(count):
        document = {"input": f"{CANARY} remember {number}", "model": "den", "stream": False}
        answer = router.post("/v1/responses", document, {"X-LLR-Sensitivity": "high"}).json
        yield Past(answer["id"], answer["output"][0]["id"])


@contextmanager
def reloading(router: Router, policies: list[dict[str, Any]]) -> Iterator[None]:
    """SIGHUP every two seconds, with the next policy each time."""
    over = threading.Event()

    def run() -> None:
        for policy in itertools.cycle([*policies[1:], policies[0]]):
            if over.wait(2):
                return
            router.write_policy(policy)
            router.sighup()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


# --- looking ------------------------------------------------------------------------------------


class Heard:
    """What the fakes heard of canaries."""

    def __init__(self, fakes: Fakes) -> None:
        self._fakes = fakes
        fakes.home.eavesdropping = True

    def outside(self) -> Counter[str]:
        """Canaries by cloud fake, and those that the local daemon would have handed on to its maker's cloud."""
        found = Counter({name: up.heard.count(CANARY.encode()) for name, up in self._fakes.clouds.items()})
        locals_ = [*self._fakes.home.requests, *self._fakes.den.requests]
        found["handed on"] = sum(1 for r in locals_ if CANARY.encode() in r.body and is_cloud_model(model_in_go(r)))
        return +found


def assert_nothing_leaked(heard: Heard, router: Router, scene: Scene) -> None:
    assert not heard.outside()
    kept_here = {router.database.name + end for end in ("", "-wal", "-shm", "-journal")} if scene.stored else set()
    for path in files(router):
        if path.name not in kept_here:
            assert CANARY.encode() not in path.read_bytes(), f"a canary in {path}"


def files(router: Router) -> Iterator[Path]:
    """Every file of the router, those that it keeps open without a name included."""
    yield from (path for path in router.folder.rglob("*") if path.is_file())
    for pid in router.worker_pids():
        for entry in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                if str(entry.readlink()).endswith("(deleted)"):
                    yield entry
            except OSError:
                continue


def check(answered: Answered, scene: Scene) -> None:
    """The answer is one that a private request may get."""
    ask, answer = answered.ask, answered.answer
    said = (ask, answer.status, answer.body[:500])
    if ask.marking.refused:
        assert answer.status == 400 and answer.json["error"]["type"] == "invalid_request_error", said
    assert answer.status in (200, 400, 404, 429, 502, 503, 504), said
    head = str(answer.headers)
    assert CANARY not in head, said
    if answer.status != 200:
        error = answer.json["error"] if ask.surface == "messages" else answer.error
        assert error["message"] and CANARY not in answer.body.decode(), said
    elif ask.surface == "route":
        assert answer.json["classification"]["sensitivity"] == "high", said
        assert {target["backend"] for target in answer.json["targets"]} <= scene.local, said
    else:
        assert answer.headers["X-LLR-Backend"] in scene.local, said
        if ask.stream:
            assert parse_events(answer.body), said

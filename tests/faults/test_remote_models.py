"""2,000 private requests before an Ollama that hands some of its models on to another host: none of them leaves.

The server has the fields of a real one.  While requests are under way its models are copied (`ollama cp`), its list and
its answers to /api/show fail in every way, and the policy is reloaded.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, chat_body, parse_events, wait_until
from tests.fakes.replies import HANG, RESET, Play, error, html, reply
from tests.fakes.upstream import Upstream
from tests.faults.altered import NO_QUESTION, altered_copy

pytestmark = pytest.mark.faults

CANARY = "kanarie"
CLOUD = "https://ollama.com:443"
AT_ONCE = 16
REQUESTS = 2_000
PATIENT = {"connectMs": 2000, "firstByteMs": 3000, "idleMs": 3000}
REMOTE = ("moved:latest", "coder:7b", "gpt-oss:120b-cloud")
HELD = ("m:1", "moved:latest", "coder:7b", "gpt-oss:120b-cloud", "flips:1")
CARD = "my card is 4111 1111 1111 1111"

PINS = (
    "auto", "home", "home/m:1", "moved", "moved:latest", "home/moved", "home/MOVED:latest", "home/library/moved",
    "home/registry.ollama.ai/library/moved", "home/moved@sha256:00ff", "home/coder:7b", "coder:7b", "aside",
    "gpt-oss:120b-cloud", "home/unheard-of:cloud", "families", "far", "home/unheard-of", "old/moved", "old",
)  # fmt: skip
TEXTS = (
    "hello", "Fix this Python function: def f(x): retrun x + 1", "Summarise this: " + "word " * 40,
    "Classify this review as positive or negative: I love it",
)  # fmt: skip

ODD_ANSWERS: Mapping[str, Play] = {
    "500": error(500), "404": reply(404, {"error": "model not found"}), "405": error(405), "HTML": html(),
    "garbage": reply(200, b'{"remote_host": '), "reset": [RESET], "silence": [HANG], "a list": reply(200, []),
}  # fmt: skip


def policy(home: Upstream, old: Upstream, far: Upstream, *, swapped: bool = False) -> dict[str, Any]:
    """Every way to reach a model that is handed on: as default, family, fallback, candidate, slow primary.  `swapped`:
    the same names of backends mean other models."""

    def ollama(*models: str, **more: Any) -> dict[str, Any]:
        return {"type": "ollama", "endpoint": home.url, "models": list(models), "timeouts": PATIENT, **more}

    return {
        "backends": {
            "home": ollama("moved" if swapped else "m:1"),
            "aside": ollama("m:1" if swapped else "moved", p50Ms=1),
            "families": ollama("m:1", families={"qwen-coder": "coder:7b", "llama": "moved:latest"}),
            "slow": ollama("moved:latest", p50Ms=60_000),
            "old": {"type": "ollama", "endpoint": old.url, "timeouts": PATIENT, "local": True},
            "far": {"type": "openai", "endpoint": f"{far.url}/v1", "model": "c-1", "apiKeyEnv": ""},
        },
        "routes": [
            {"match": {"task": "code"}, "backend": "families", "fallback": ["aside", "far", "home"]},
            {
                "match": {"task": "summarisation"},
                "backend": "slow",
                "fallback": ["aside", "home"],
                "latencyBudgetMs": 9,
            },
            {"match": {"task": "classification"}, "backend": "far", "fallback": ["slow", "aside", "old", "home"]},
            {"default": "home", "fallback": ["aside", "old", "families"]},
        ],
        "ab": {"enabled": True, "sampleRate": 1.0, "candidates": {"home": "aside", "families": "slow", "old": "far"}},
        "sensitivity": {"detect": ["credit_card"]},
    }


@pytest.fixture
def servers() -> Iterator[tuple[Upstream, Upstream, Upstream]]:
    """A home with copied cloud models, an old Ollama that names no hosts, and a hosted service."""
    with (
        Upstream(models=HELD, remote=dict.fromkeys(REMOTE, CLOUD), text="fine") as home,
        Upstream(models=["m:1"], text="fine") as old,
        Upstream(models=["c-1"], text="fine", recording=False, eavesdropping=True) as far,
    ):
        old.script(reply(404, b"404 page not found", content_type="text/plain"), path="/api/show", repeat=True)
        yield home, old, far


def ask(router: Router, number: int, pin: str, text: str) -> Answer:
    """One private request: by header or detector, on a surface, as a stream or not."""
    by_detector, stream, responses = number % 3 == 0, number % 2 == 0, number % 5 == 0
    said = f"{CANARY}{number:05d} {text}" + (f" {CARD}" if by_detector else "")
    headers = {} if by_detector else {"X-LLR-Sensitivity": "high"}
    if responses:
        return router.post("/v1/responses", {"model": pin, "stream": stream, "input": said}, headers)
    return router.post("/v1/chat/completions", chat_body(said, model=pin, stream=stream), headers)


def play(router: Router, count: int, numbers: Iterator[int], asks: Iterator[tuple[str, str]]) -> list[Answer]:
    jobs = [(next(numbers), *next(asks)) for _ in range(count)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda job: ask(router, *job), jobs))


@contextmanager
def again_and_again(every_s: float, step: Any) -> Iterator[None]:
    over = threading.Event()

    def run() -> None:
        while not over.wait(every_s):
            step()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def leaks(*servers: Upstream) -> Counter[str]:
    """Canaries that were handed on, or that the hosted service heard."""
    home, old, far = servers
    found = Counter({"handed on": sum(CANARY.encode() in body for body in (*home.handed_on, *old.handed_on))})
    found["hosted"] = bytes(far.heard).count(CANARY.encode())
    return +found


def test_no_byte_of_2000_private_requests_is_handed_on(
    servers: tuple[Upstream, Upstream, Upstream], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home, old, far = servers
    numbers = itertools.count()
    combinations = [*itertools.product(PINS, TEXTS)]
    random.Random(7).shuffle(combinations)
    asks = itertools.cycle(combinations)
    answers: list[Answer] = []
    policies = itertools.cycle([policy(home, old, far, swapped=True), policy(home, old, far)])
    home.script(
        reply(200, {"models": [{"name": name} for name in HELD]}), path="/api/tags", repeat=True
    )  # not yet known
    with Router(policy(home, old, far), folder=tmp_path / "router", workers=2) as router:
        answers += play(router, 600, numbers, asks)
        home.reset()

        def reload() -> None:
            router.write_policy(next(policies))
            router.sighup()

        with again_and_again(2.0, reload):
            answers += play(router, 600, numbers, asks)
        for name, answer in ODD_ANSWERS.items():
            home.script(answer, path="/api/show", when=lambda request: request.number % 2 == 0, repeat=True)
            answers += play(router, 50, numbers, asks)
            home.reset()
            assert not leaks(*servers), name
        for host in (CLOUD, "", CLOUD, ""):  # `ollama cp` over a model that was called a moment ago
            home.remote = {**dict.fromkeys(REMOTE, CLOUD), **({"m:1": host, "flips:1": host} if host else {})}
            time.sleep(1.5)  # what the server said before holds for a second
            flips = itertools.cycle([(pin, "hello") for pin in ("home", "home/m:1", "home/flips:1", "flips:1", "auto")])
            answers += play(router, 100, numbers, flips)
            assert not leaks(*servers), host
        control(router, home)
        assert not leaks(*servers)
        log = router.log_file.read_text("utf-8", "replace")
    assert CANARY not in log
    statuses = Counter(answer.status for answer in answers)
    with capsys.disabled():
        print(f"\n  {len(answers)} private requests {dict(statuses)}; canaries handed on: 0", end="")  # noqa: T201
    assert len(answers) == REQUESTS
    assert set(statuses) <= {200, 404, 502, 503, 504}
    assert statuses[200] > REQUESTS / 4, "the models that run there served them"
    for answer in answers:
        if answer.status != 200:
            assert CANARY not in answer.body.decode("utf-8", "replace")
        elif b"data:" in answer.body[:200]:
            assert parse_events(answer.body)


def control(router: Router, home: Upstream) -> None:
    """Requests that are not private are handed on: the server can see them go."""
    before = len(home.handed_on)
    wait_until(lambda: router.chat("controle", model="home/coder:7b").status == 200, 10, "a control request")
    assert len(home.handed_on) > before


def test_without_the_question_private_requests_are_handed_on(
    servers: tuple[Upstream, Upstream, Upstream], tmp_path: Path
) -> None:
    """So the test above can fail: the server is not asked, and its list names no hosts."""
    home, old, far = servers
    home.script(reply(200, {"models": [{"name": name} for name in HELD]}), path="/api/tags", repeat=True)
    root = altered_copy(tmp_path / "copy", NO_QUESTION)
    asks = itertools.cycle(itertools.product(("home/moved", "home/coder:7b"), ("hello",)))
    with Router(policy(home, old, far), folder=tmp_path / "router", workers=2, root=root) as router:
        play(router, 40, itertools.count(), asks)
    assert leaks(*servers)["handed on"] > 10

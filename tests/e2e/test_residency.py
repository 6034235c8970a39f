"""The router before a scripted Ollama: it knows what is loaded, and loads a model once for all that wait for it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.server import Answer, Router, content, wait_until
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import Step, reply
from tests.fakes.upstream import Upstream

LOAD_S = 1.5
SLOW = Model("slow:latest", load_s=LOAD_S)
OTHER = Model("other:latest")
Start = Callable[..., Router]


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    with Ollama([SLOW, OTHER], window=4096) as server:
        yield server


@pytest.fixture
def start(tmp_path: Path, ollama: Ollama) -> Iterator[Start]:
    running: list[Router] = []

    def router(workers: int = 1, **own: Any) -> Router:
        gpu = {"type": "ollama", "api": "native", "endpoint": ollama.url, "models": ["slow", "other"], **own}
        policy = {"backends": {"gpu": gpu}, "routes": [{"default": "gpu"}]}
        running.append(Router(policy, folder=tmp_path, workers=workers).start())
        return running[-1]

    yield router
    for one in running:
        one.__exit__(None, None, None)


def row_of(router: Router, answer: Answer) -> dict[str, Any]:
    sql = "SELECT * FROM metrics WHERE request_id = ?"
    [row] = wait_until(lambda: router.rows(sql, answer.headers["X-LLR-Request-Id"]), 5, "the row")
    return row


def generated(ollama: Ollama) -> list[dict[str, Any]]:
    return [event.body for event in ollama.log if event.kind == "load"]


@pytest.mark.parametrize("api", ["native", "openai"])
@pytest.mark.parametrize("private", [False, True])
def test_five_requests_share_a_load(start: Start, ollama: Ollama, api: str, private: bool) -> None:
    router = start(api=api, numCtx=2048, keepAlive="10m")
    headers = {"X-LLR-Sensitivity": "high"} if private else {}
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: router.chat("hello", model="gpu/slow", headers=headers), range(5)))
    assert [answer.status for answer in answers] == [200] * 5
    assert ollama.loads == ["slow:latest"], "the chats did not load it again"
    rows = [row_of(router, answer) for answer in answers]
    assert all(1 <= row["load_ms"] <= row["latency_ms"] for row in rows)
    assert max(row["load_ms"] for row in rows) >= 1000 * LOAD_S
    later = router.chat("hello", model="gpu/slow", headers=headers)
    assert row_of(router, later)["load_ms"] is None
    [loaded] = ollama.loaded()
    assert loaded["context_length"] == (2048 if api == "native" else 4096)


def test_a_load_goes_on_when_its_client_leaves(start: Start, ollama: Ollama) -> None:
    router = start()
    sock = router.raw(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b'Content-Length: 69\r\n\r\n{"model": "gpu/slow", "messages": [{"role": "user", "content": "h"}]}'
    )
    wait_until(lambda: ollama.loads, 5, "the load")
    sock.close()
    [row] = router.wait_rows(1)
    assert row["outcome"] == "cancelled"
    assert row["load_ms"]
    wait_until(lambda: router.chat("hello", model="gpu/slow").status == 200, 10, "an answer")
    assert [event.kind for event in ollama.log if event.model == "slow:latest"][:3] == ["load", "wait", "answer"]
    assert ollama.loads == ["slow:latest"]


def test_a_load_that_the_facts_missed_is_in_the_reply(start: Start, ollama: Ollama) -> None:
    """Another client evicts the model just before the call."""
    router = start(workers=1)
    assert router.chat("hello", model="gpu/slow").status == 200
    ollama.unload("slow")
    answers = [router.chat("hello", model="gpu/slow")]
    ollama.unload("slow")
    with router.stream("hello", model="gpu/slow") as stream:
        assert content(stream.events()) == "read 5 tokens"
    answers.append(stream)  # type: ignore[arg-type]
    for answer in answers:
        assert row_of(router, answer)["load_ms"] >= 1000 * LOAD_S


def model(router: Router, name: str, backend: str = "gpu") -> dict[str, Any]:
    """What the router knows of a model now."""
    [server] = [one for one in router.get("/v1/metrics").json["servers"] if one["backend"] == backend]
    return next((row for row in server["models"] if row["model"] in (name, f"{name}:latest")), {})


def test_loads_and_evictions_by_other_clients(start: Start, ollama: Ollama) -> None:
    router = start(workers=2)
    assert router.chat("hello", model="gpu/slow").status == 200
    wait_until(lambda: model(router, "slow").get("loaded"), 5, "the load to be noticed")
    ollama.unload("slow")
    wait_until(lambda: model(router, "slow").get("loaded") is False, 5, "the eviction to be noticed")
    assert (model(router, "slow")["loads"], model(router, "slow")["evictions"]) == (1, 1)
    assert router.chat("hello", model="gpu/slow").status == 200
    assert row_of(router, router.chat("hello", model="gpu/slow"))["load_ms"] is None


def test_an_expired_model(start: Start) -> None:
    """Nobody uses the server, so nobody asks it; the time of the expiry is known."""
    router = start(keepAlive="2s")
    assert router.chat("hello", model="gpu/slow").status == 200
    wait_until(lambda: model(router, "slow").get("loaded"), 5, "the load to be noticed")
    wait_until(lambda: model(router, "slow").get("loaded") is False, 10, "the expiry to be noticed")


def test_keep_alive_0_lets_the_chat_load(start: Start, ollama: Ollama) -> None:
    router = start(keepAlive=0)
    answer = router.chat("hello", model="gpu/slow")
    assert answer.status == 200
    assert row_of(router, answer)["load_ms"] >= 1000 * LOAD_S
    assert ollama.loads == ["slow:latest"]


def test_windows(start: Start, ollama: Ollama) -> None:
    """The window in force is learned, and learned again when the server was started with another one."""
    router = start()
    assert model(router, "slow").get("window") is None
    assert router.chat("hello", model="gpu/slow").status == 200
    wait_until(lambda: model(router, "slow").get("window") == 4096, 5, "the window")
    ollama.unload("slow")
    ollama.window = 8192
    assert router.chat("hello", model="gpu/slow").status == 200
    wait_until(lambda: model(router, "slow").get("window") == 8192, 5, "the new window")


@pytest.mark.parametrize("second", [Model("copy:latest", weights="w"), Model("slow2:latest", digest="a" * 64)])
def test_other_names_of_a_loaded_model(tmp_path: Path, second: Model) -> None:
    """/api/ps tells one of the names; the other one needs no load."""
    first = Model("slow:latest", load_s=LOAD_S, weights="w", digest=second.digest)
    second = Model(second.name, weights="w", digest=second.digest)
    with Ollama([first, second]) as ollama:
        gpu = {"type": "ollama", "api": "native", "endpoint": ollama.url, "models": ["slow", second.name]}
        with Router({"backends": {"gpu": gpu}, "routes": [{"default": "gpu"}]}, folder=tmp_path) as router:
            assert router.chat("hello", model="gpu/slow").status == 200
            wait_until(lambda: model(router, second.name).get("loaded"), 5, "the other name to count as loaded")
            assert row_of(router, router.chat("hello", model=f"gpu/{second.name}"))["load_ms"] is None
            assert ollama.loads == ["slow:latest"]


FAILURES = {
    "no memory": (500, "model requires more system memory (9.5 GiB) than is available (3.1 GiB)", "http_500"),
    "not found": (404, "model 'slow' not found", "http_404"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_load_that_fails_fails_the_call(tmp_path: Path, case: str) -> None:
    """The next target answers, as when the call itself fails."""
    status, message, failed = FAILURES[case]
    refused = Model("slow:latest", refuses_load=(status, message))
    with Ollama([refused]) as ollama, Ollama([OTHER]) as spare:
        backends = {
            "gpu": {"type": "ollama", "api": "native", "endpoint": ollama.url, "models": ["slow"]},
            "spare": {"type": "ollama", "api": "native", "endpoint": spare.url, "models": ["other"]},
        }
        policy = {"backends": backends, "routes": [{"default": "gpu", "fallback": "spare"}]}
        with Router(policy, folder=tmp_path) as router:
            answer = router.chat("hello")
            assert (answer.status, answer.headers["X-LLR-Backend"]) == (200, "spare")
            first = wait_until(lambda: router.rows("SELECT * FROM metrics ORDER BY id"), 5, "the rows")[0]
            assert (first["backend"], first["error"]) == ("gpu", failed)
            alone = router.chat("hello", model="gpu/slow")
            assert alone.status == (404 if status == 404 else 502), alone.body


def test_a_server_that_only_imitates_an_ollama(tmp_path: Path) -> None:
    """It lists no loaded model and cannot load one: it is asked once, not before every call and every second."""
    with Upstream(models=["m:1b"]) as up:
        gpu = {"type": "ollama", "endpoint": up.url, "models": ["m:1b"]}
        with Router({"backends": {"gpu": gpu}, "routes": [{"default": "gpu"}]}, folder=tmp_path) as router:
            for _ in range(5):
                assert router.chat("hello").status == 200
            rows = router.wait_rows(5)
            assert [row["load_ms"] for row in rows] == [None] * 5
            assert [request.path for request in up.requests].count("/api/generate") == 1
            assert model(router, "m:1b")["loaded"] is None


def test_a_server_that_hangs_delays_no_other(tmp_path: Path, ollama: Ollama) -> None:
    with Upstream(models=["m:1b"]) as up:
        up.script([60.0], path="/api/ps", repeat=True)
        backends = {
            "silent": {"type": "ollama", "endpoint": up.url, "models": ["m:1b"]},
            "gpu": {"type": "ollama", "endpoint": ollama.url, "models": ["slow", "other"]},
        }
        with Router({"backends": backends, "routes": [{"default": "silent"}]}, folder=tmp_path) as router:
            assert router.chat("hello", model="silent/m:1b").status == 200, "no fact, no load"
            assert router.chat("hello", model="gpu/slow").status == 200
            wait_until(lambda: model(router, "slow").get("window") == 4096, 5, "the facts of the other server")
            ollama.unload("slow")
            wait_until(lambda: model(router, "slow").get("loaded") is False, 5, "the eviction")


def test_a_budget_counts_the_load_of_a_model_that_another_client_evicted(tmp_path: Path, ollama: Ollama) -> None:
    with Ollama([OTHER]) as spare:
        backends = {
            "gpu": {"type": "ollama", "endpoint": ollama.url, "models": ["slow"]},
            "spare": {"type": "ollama", "endpoint": spare.url, "models": ["other"], "p50Ms": 50},
        }
        routes = [{"default": "gpu", "fallback": "spare", "latencyBudgetMs": 1000}]
        with Router({"backends": backends, "routes": routes}, folder=tmp_path, workers=2) as router:
            for name in ("gpu/slow", "spare/other"):
                assert router.chat("hello", model=name).status == 200
            wait_until(
                lambda: router.chat("hello").headers["X-LLR-Backend"] == "gpu", 10, "the model to count as loaded"
            )
            for _ in range(9):
                assert router.chat("hello").headers["X-LLR-Backend"] == "gpu"
            request = urllib.request.Request(f"{ollama.url}/api/generate", b'{"model": "other"}')
            with urllib.request.urlopen(request, timeout=20):
                pass
            looks = len(ollama.looks)
            wait_until(lambda: len(ollama.looks) >= looks + 4, 10, "a look of each worker")
            wait_until(lambda: model(router, "other", "spare").get("loaded"), 10, "the spare to count as loaded")
            for _ in range(4):
                answer = router.chat("hello", headers={"X-LLR-Explain": "1"})
                assert answer.headers["X-LLR-Backend"] == "spare", answer.headers["X-LLR-Trace"]
            assert "not loaded" in answer.headers["X-LLR-Trace"]
            assert ollama.evictions == ["slow:latest"], "no probe threw the model of the other client out"


def studio_list(window: int | None) -> list[Step]:
    state = {"state": "loaded", "loaded_context_length": window} if window else {"state": "not-loaded"}
    return reply(200, {"data": [{"id": "qwen", "type": "llm", "max_context_length": 32_768, **state}]})


def test_lm_studio_is_asked_when_the_policy_calls_it_local(tmp_path: Path) -> None:
    """Each second while it is in use: it loads and unloads models too."""
    with Upstream(models=["qwen"]) as up, Upstream(models=["qwen"]) as hosted:
        up.script(studio_list(None), path="/api/v0/models")
        up.script(studio_list(4096), path="/api/v0/models", repeat=True)
        known = {"type": "openai", "models": ["qwen"], "apiKeyEnv": ""}
        backends = {
            "studio": {**known, "endpoint": f"{up.url}/v1", "local": True},
            "hosted": {**known, "endpoint": f"{hosted.url}/v1"},
        }
        with Router({"backends": backends, "routes": [{"default": "studio"}]}, folder=tmp_path) as router:
            wait_until(lambda: model(router, "qwen", "studio").get("loaded") is False, 5, "the facts")
            for name in backends:
                assert router.chat("hello", model=f"{name}/qwen").status == 200
            wait_until(lambda: model(router, "qwen", "studio").get("window") == 4096, 5, "the load")
            assert {request.path for request in hosted.requests} == {"/v1/chat/completions"}


# --- preload ------------------------------------------------------------------------------------


def names(ollama: Ollama) -> list[str]:
    return [entry["name"] for entry in ollama.loaded()]


def test_a_preloaded_model_is_loaded_once_and_comes_back(start: Start, ollama: Ollama) -> None:
    router = start(workers=2, preload=["slow"], numCtx=2048)
    wait_until(lambda: names(ollama) == ["slow:latest"], 20, "the load at the start")
    assert router.chat("hello", model="gpu/slow").status == 200
    assert ollama.loads == ["slow:latest"], "one worker loads it, with the options of chats"
    assert ollama.loaded()[0]["expires_at"] > "2050"
    ollama.unload("slow")  # another client lets it go
    wait_until(lambda: names(ollama) == ["slow:latest"], 20, "the load after the eviction")


def test_another_client_is_not_robbed_of_its_model(start: Start, ollama: Ollama) -> None:
    start(preload="slow")
    wait_until(lambda: names(ollama) == ["slow:latest"], 20, "the load at the start")
    request = urllib.request.Request(f"{ollama.url}/api/generate", b'{"model": "other", "keep_alive": "1h"}')
    with urllib.request.urlopen(request, timeout=20):
        pass
    asked = len(ollama.looks)
    wait_until(lambda: len(ollama.looks) >= asked + 3, 30, "three looks")
    assert names(ollama) == ["other:latest"]


def test_of_two_that_do_not_fit_the_first_stays(start: Start, ollama: Ollama) -> None:
    router = start(preload=["slow", "other"])
    line = "preload: gpu has no room for other beside the models before it; it is left out"
    wait_until(lambda: line in router.log_text(), 20, "the line in the log")
    assert names(ollama) == ["slow:latest"]
    assert ollama.loads == ["other:latest", "slow:latest"]
    assert router.log_text().count(line) == 1


def test_no_prompt_is_cut_to_a_window_that_another_client_leaves(start: Start, ollama: Ollama) -> None:
    """Over /v1, the next call gets the server's own window again, and a longer prompt would be cut."""
    load_with(ollama, 65_536)
    router = start(api="openai")
    for window in (65_536, 512, 65_536):
        wait_until(lambda size=window: model(router, "slow").get("window") == size, 10, "the window of the client")
        long = router.chat("word " * 8000, model="gpu/slow")
        assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
        assert router.chat("word " * 1000, model="gpu/slow").text == "read 1004 tokens"
        load_with(ollama, 512 if window > 512 else 65_536)
    assert not any(event.cut for event in ollama.answers)


def test_no_prompt_is_cut_when_the_model_is_evicted_after_its_load(
    start: Start, ollama: Ollama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over /v1, the chat would load it again, with the window that it has got before."""
    router = start(api="openai")
    assert router.chat("hello", model="gpu/other").status == 200
    leave = ollama.leave

    def leave_and_evict(runner: Any) -> None:
        leave(runner)
        leave(ollama.take(SLOW, {}, None))

    monkeypatch.setattr(ollama, "leave", leave_and_evict)
    ollama.unload("other")
    wait_until(lambda: model(router, "other").get("loaded") is False, 10, "the eviction to be known")
    long = router.chat("word " * 8000, model="gpu/other")
    assert (long.status, long.error["code"]) == (400, "context_length_exceeded")
    assert not any(event.cut for event in ollama.answers)


def load_with(ollama: Ollama, window: int) -> None:
    """Load a model as another client does that wants a window of its own."""
    question = json.dumps({"model": "slow", "options": {"num_ctx": window}}).encode()
    urllib.request.urlopen(f"{ollama.url}/api/generate", question, timeout=10).close()

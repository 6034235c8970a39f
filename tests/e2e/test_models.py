"""What operators see of the models: the same from every worker, on the page, in JSON, Prometheus and a terminal."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import ROOT, Router, wait_until
from tests.fakes.ollama import Model, Ollama

pytestmark = pytest.mark.e2e

BROWSER = {"Accept": "text/html"}
CHAT, CODER = "llama3.1:8b", "qwen2.5-coder:7b"


@pytest.fixture
def ollama() -> Iterator[Ollama]:
    """It holds two models in memory for one, and runs one of them partly on the CPU."""
    models = [Model(CHAT, on_gpu=0.62, size_bytes=5_200_000_000, load_s=0.2), Model(CODER, num_ctx=16384, load_s=0.2)]
    with Ollama(models) as server:
        yield server


@pytest.fixture
def start(ollama: Ollama, router: Callable[..., Router]) -> Callable[[int], Router]:
    """`start(2)`: a router with so many workers."""
    local = {"type": "ollama", "endpoint": ollama.url, "models": [CHAT, CODER], "price": {"input": 0, "output": 0}}
    policy = {"backends": {"local": local}, "routes": [{"default": "local"}]}
    return lambda workers: router(policy, workers=workers)


def models(router: Router) -> dict[str, dict[str, Any]]:
    """The rows of /v1/metrics by model."""
    (server,) = router.get("/v1/metrics").json["servers"]
    return {row["model"]: row for row in server["models"]}


def samples(router: Router, name: str) -> dict[str, float]:
    """The values of a metric of models, by model."""
    families = text_string_to_metric_families(router.get("/metrics").body.decode())
    return {one.labels["model"]: one.value for family in families for one in family.samples if one.name == name}


def flask(router: Router, *command: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flask", *command, "--json"], cwd=ROOT, env=router.environment(), capture_output=True,
        timeout=60, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


def is_loaded(router: Router, model: str) -> bool:
    return all(models(router).get(model, {}).get("loaded") is True for _ in range(6))  # whichever worker answers


def test_every_worker_shows_the_same_models_everywhere(start: Callable[[int], Router], ollama: Ollama) -> None:
    running = start(2)
    for _ in range(3):
        assert running.chat("hello", model=CHAT).status == 200
    wait_until(lambda: is_loaded(running, CHAT), 20, "the model to be shown as loaded")
    row = models(running)[CHAT]
    assert (row["window"], row["trained"], row["gpu_share"]) == (4096, 131_072, 0.62)
    assert row["capabilities"] == ["completion", "tools"] and 0 < row["expires_in_s"] <= 300
    assert models(running)[CODER]["loaded"] is False and models(running)[CODER]["window"] == 16384
    for name, member in (("window_tokens", "window"), ("gpu_share", "gpu_share"), ("trained_tokens", "trained")):
        assert samples(running, f"llr_model_{name}")[CHAT] == row[member]
    assert samples(running, "llr_model_loaded") == {CHAT: 1, CODER: 0}
    page = re.sub(r"<[^>]*>|\s|\u00a0", " ", running.get("/", BROWSER).body.decode())
    words = " ".join(page.split())
    assert "llama3.1:8b loaded unloads in 5 min 4,096 of 131,072 5.2 GB 62 % on the GPU" in words
    (listed,) = flask(running, "backends", "list")
    assert {one["model"]: (one["loaded"], one["window"], one["gpu_share"]) for one in listed["models"]} == {
        CHAT: (True, 4096, 0.62), CODER: (False, 16384, None),
    }  # fmt: skip
    (server,) = flask(running, "metrics", "summary")["servers"]
    assert [(one["model"], one["loaded"]) for one in server["models"]] == [(CHAT, True), (CODER, False)]
    assert ollama.loads == [CHAT], "to show the models loads none"


@pytest.mark.parametrize("workers", [1, 2])
def test_loads_are_not_added_up_over_workers(start: Callable[[int], Router], ollama: Ollama, workers: int) -> None:
    """A worker that serves no calls asks seldom, so two workers may have seen fewer loads than one, but never more."""
    running = start(workers)
    for model in (CHAT, CODER, CHAT, CODER):
        assert running.chat("hello", model=model).status == 200
        wait_until(lambda model=model: is_loaded(running, model), 20, f"{model} to be shown as loaded")
    assert ollama.loads == [CHAT, CODER] * 2

    def shown() -> dict[str, tuple[int, int]]:
        return {name: (row["loads"], row["evictions"]) for name, row in models(running).items()}

    if workers == 1:
        wait_until(lambda: shown() == {CHAT: (2, 2), CODER: (2, 1)}, 20, "the loads and evictions to be counted")
        assert samples(running, "llr_model_loads_total") == {CHAT: 2, CODER: 2}
        assert samples(running, "llr_model_evictions_total") == {CHAT: 2, CODER: 1}
    assert all(loads <= 2 and evictions <= 2 for loads, evictions in shown().values())
    running.wait_rows(4)
    summary = running.get("/v1/metrics").json["total"]
    assert summary["load_waits"] == 4 and summary["p50_load"] >= 200

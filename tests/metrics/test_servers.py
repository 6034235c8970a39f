"""The state of the servers: what one worker reports, and what the reports of all workers say together."""

from __future__ import annotations

import json
from typing import Any

import pytest

from app.metrics.servers import MOST_MODELS, gpu_share, observed_rows, servers
from app.types import ModelFacts, Residency, Turnover
from tests import build

NOW = 1_700_000_000_000
SECOND_MS = 1000


def rows(names: list[str], **known: Any) -> list[dict[str, Any]]:
    facts = {"facts": {}, "residency": {}, "turnover": {}, **known}
    return list(observed_rows(names, **facts, expected=lambda model: {"warm_ms": len(model)}))


def test_loaded_models_come_first_and_names_are_joined() -> None:
    found = rows(
        ["b", "A:latest"],
        facts={
            "a:latest": ModelFacts(loaded=False, window=8192, trained=32768, capabilities=frozenset({"tools"})),
            "b:latest": ModelFacts(loaded=False, size_bytes=7),
            "c:1b": ModelFacts(loaded=True, window=4096, size_bytes=8, trained=131072),
        },
        residency={"c:1b": Residency(size_bytes=10, gpu_bytes=4, expires_at=NOW / 1000, window=2048)},
        turnover={"b:latest": Turnover(2, 1), "gone:7b": Turnover(1, 1)},
    )
    assert [row["model"] for row in found] == ["c:1b", "b", "A:latest", "gone:7b"]
    assert found[0] == {
        "model": "c:1b", "loaded": True, "window": 2048, "trained": 131072, "size_bytes": 10, "gpu_share": 0.4,
        "expires_ms": NOW, "capabilities": None, "loads": 0, "evictions": 0, "expected": {"warm_ms": 4},
    }  # fmt: skip
    assert [(row["loaded"], row["window"], row["size_bytes"]) for row in found[1:]] == [
        (False, None, 7), (False, 8192, None), (None, None, None),
    ]  # fmt: skip
    assert [(row["loads"], row["evictions"]) for row in found] == [(0, 0), (2, 1), (0, 0), (1, 1)]
    assert found[2]["capabilities"] == ["tools"]
    assert json.loads(json.dumps(found)) == found


def test_a_server_with_ten_thousand_models_makes_few_rows() -> None:
    names = [f"m{number}" for number in range(10_000)]
    found = rows(names, residency={"last": Residency()}, turnover=dict.fromkeys(names, Turnover()))
    assert (len(found), found[0]["model"]) == (MOST_MODELS, "last")


@pytest.mark.parametrize(
    "size, gpu, share",
    [(10, 10, 1), (10, 11, 1), (10, 0, 0), (3, 1, 0.3333), (0, 0, None), (None, 5, None), (5, None, None)],
)
def test_the_share_on_the_gpu(size: int | None, gpu: int | None, share: float | None) -> None:
    assert gpu_share(Residency(size_bytes=size, gpu_bytes=gpu)) == share


def test_no_worker_reports() -> None:
    assert servers(["local"], [], NOW) == []


def test_calls_add_up_and_models_do_not() -> None:
    old = build.worker_report(asked_ms=NOW - SECOND_MS, loads=9, evictions=1, window=8192)
    new = build.worker_report(asked_ms=NOW, loads=3, evictions=2, window=4096)
    for reports in ([old, new], [new, old]):
        (server,) = servers(["local"], reports, NOW)
        assert (server["in_flight"], server["waiting"]) == (4, {"interactive": 2, "agent": 6, "background": 0})
        (model,) = server["models"]
        assert (model["window"], model["loads"], model["evictions"]) == (4096, 9, 2)


def test_a_model_that_only_the_older_view_has_is_gone() -> None:
    old = build.worker_report(asked_ms=NOW - SECOND_MS, model="old:1b")
    new = build.worker_report(asked_ms=NOW, model="new:1b")
    (server,) = servers(["local"], [old, new], NOW)
    assert [model["model"] for model in server["models"]] == ["new:1b"]


@pytest.mark.parametrize("expires_ms, seconds", [(None, None), (NOW + 90_400, 90), (NOW - 5_000, 0)])
def test_the_moment_of_the_end_becomes_a_time_from_now(expires_ms: int | None, seconds: int | None) -> None:
    report = build.worker_report(expires_ms=expires_ms)
    for _ in range(2):  # a report stays as it is
        (server,) = servers(["local"], [report], NOW)
        assert server["models"][0]["expires_in_s"] == seconds
        assert "expires_ms" not in server["models"][0]


@pytest.mark.parametrize("report", [{}, {"waiting": {"local": 3}}, {"models": {}}, {"in_flight": {"other": 1}}])
def test_reports_of_older_workers_can_be_read(report: dict[str, Any]) -> None:
    (server,) = servers(["local"], [report], NOW)
    assert server["models"] == [] and server["in_flight"] == 0
    assert server["waiting"] == {"interactive": report.get("waiting", {}).get("local", 0), "agent": 0, "background": 0}

"""Numbers of judged answers after real requests: each report is compared with sums over the rows, made here by hand."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.server import ROOT, Router, wait_until
from tests.e2e.test_verify import QUESTION, RIGHT, WRONG, Stage
from tests.fakes.replies import completion, error, reply

pytestmark = pytest.mark.e2e

PRICES = {"local": (1, 2), "twin": (0.5, 0.5), "frontier": (10, 20)}  # USD per million tokens
PRIVATE = {"X-LLR-Sensitivity": "high"}
PROSE = "Each of the children gets the same number of apples, and the rest stays in the basket. " * 9


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A router after requests of every kind."""
    made = Stage(tmp_path_factory.mktemp("judged"), dailyShare=1, maxHoldTokens=60)
    made.backends = {name: {"price": {"input": price[0], "output": price[1]}} for name, price in PRICES.items()}
    with made as running:
        traffic(running)
        yield running


def traffic(stage: Stage) -> None:
    """13 requests: 4 kept, 4 escalated, 1 kept because the stronger target fails, 1 released, 1 observed, 1 by the
    fallback, 1 that all targets refuse."""
    router = stage.router
    ask = [lambda: router.chat(QUESTION), lambda: stream(router, QUESTION)]
    for number in range(4):
        ask[number % 2]()
    stage.twin.text = WRONG
    for number in range(3):
        ask[number % 2]()
    stage.frontier.script(error(503))
    router.chat(QUESTION)
    stage.twin.text = RIGHT
    stage.local.script(reply(200, completion("")))
    router.chat(QUESTION)
    stage.local.text = PROSE
    stream(router, QUESTION)
    stage.local.text = RIGHT
    router.chat(QUESTION, headers=PRIVATE)
    stage.local.script(error(500))
    router.chat(QUESTION)
    stage.local.script(error(500))
    stage.frontier.script(error(500))
    assert router.chat(QUESTION).status == 502
    wait_until(lambda: len(router.rows("SELECT id FROM metrics WHERE NOT shadow")) >= 19, 10, "rows")
    wait_until(lambda: router.get("/health").status == 200, 5, "health")


def stream(router: Router, text: str) -> None:
    with router.stream(text, stream_options={"include_usage": True}) as answer:
        answer.read()


@pytest.fixture(scope="module")
def rows(stage: Stage) -> list[dict[str, Any]]:
    return stage.router.rows("SELECT * FROM metrics ORDER BY id")


def usd(some: list[dict[str, Any]]) -> float:
    """The price list times the tokens, without the column of the cost."""
    total = 0.0
    for row in some:
        if row["input_tokens"] is not None and row["output_tokens"] is not None:
            low, high = PRICES[row["backend"]]
            total += (row["input_tokens"] * low + row["output_tokens"] * high) / 1e6
    return total


def test_the_rows_are_those_of_thirteen_requests(rows: list[dict[str, Any]]) -> None:
    live = [row for row in rows if not row["shadow"]]
    assert len({row["request_id"] for row in rows}) == sum(row["policy"] is not None for row in live) == 13
    assert Counter(row["verified"] for row in live if row["verified"]) == {
        "kept": 5,
        "escalated": 4,
        "released": 1,
        "observed": 1,
    }
    assert {row["backend"] for row in rows if row["kind"] == "verify"} == {"twin"}


def test_the_total_counts_requests_once(stage: Stage, rows: list[dict[str, Any]]) -> None:
    total = stage.router.get("/v1/metrics").json["total"]
    live = [row for row in rows if row["kind"] == "live"]
    aside = [row for row in live if row["verified"] == "escalated"]
    sent = [row for row in live if row["verified"] != "escalated"]
    good = [row for row in sent if row["outcome"] == "ok"]
    paid = [row for row in rows if row["kind"] in ("live", "verify")]
    assert total["requests"] == len({row["request_id"] for row in rows}) == 13
    assert (total["calls"], total["escalated"]) == (len(live), len(aside))
    assert total["success_rate"] == round(len(good) / len(sent), 4)
    assert total["local_share"] == round(sum(row["backend"] == "local" for row in good) / len(good), 4)
    assert total["cost_usd"] == pytest.approx(usd(paid), abs=1e-6)
    assert (total["input_tokens"], total["output_tokens"]) == (
        sum(row["input_tokens"] or 0 for row in live),
        sum(row["output_tokens"] or 0 for row in live),
    )


def test_the_report_of_the_route(stage: Stage, rows: list[dict[str, Any]]) -> None:
    (route,) = stage.router.get("/v1/metrics").json["verify"]["routes"]
    of = {name: [row for row in rows if row["verified"] == name] for name in ("kept", "escalated", "released")}
    first, opinions = [row for some in of.values() for row in some], [row for row in rows if row["kind"] == "verify"]
    held = sorted(row["held_ms"] for row in first)
    assert (route["requests"], route["asked_first"], route["observed"]) == (13, 10, 1)
    assert [route[name] for name in of] == [len(some) for some in of.values()]
    assert (
        route["reasons"]
        == Counter(row["verified_reason"] for row in of["escalated"])
        == {
            "agreement": 3,
            "structure": 1,
        }
    )
    assert route["avg_added_ms"] == pytest.approx(sum(held) / len(held), abs=0.06)
    assert route["p95_added_ms"] == held[-1]
    assert (route["second_opinions"], route["second_opinion_usd"]) == (
        len(opinions),
        pytest.approx(usd(opinions), abs=1e-6),
    )
    sent = of["kept"] + of["released"]
    there = sum((row["input_tokens"] or 0) * 10 + (row["output_tokens"] or 0) * 20 for row in sent) / 1e6
    assert route["saved_usd"] == pytest.approx(there - usd(first) - usd(opinions), abs=2e-6)
    assert (route["against"], route["unpriced"]) == ("frontier", [])


def test_prometheus_says_the_same(stage: Stage, rows: list[dict[str, Any]]) -> None:
    samples = [
        sample
        for family in text_string_to_metric_families(stage.router.get("/metrics").body.decode())
        for sample in family.samples
    ]
    verdicts = Counter((row["verified"], row["verified_reason"] or "") for row in rows if row["verified"])
    assert {
        (sample.labels["verdict"], sample.labels["reason"]): sample.value
        for sample in samples
        if sample.name == "llr_verified_total"
    } == verdicts
    for name, kinds, value in (
        ("llr_backend_calls_total", ("live",), len),
        ("llr_backend_verify_calls_total", ("verify",), len),
        ("llr_backend_cost_usd_total", ("live", "verify"), usd),
    ):
        by_backend = {sample.labels["backend"]: sample.value for sample in samples if sample.name == name}
        for backend in PRICES:
            some = [row for row in rows if row["backend"] == backend and row["kind"] in kinds]
            assert by_backend.get(backend, 0) == pytest.approx(value(some), abs=1e-6), (name, backend)


def test_the_page_and_the_commands_say_the_same(stage: Stage, rows: list[dict[str, Any]]) -> None:
    text = stage.router.get("/", headers={"Accept": "text/html"}).body.decode().replace("\u00a0", " ")
    table = text.partition('<div id="judged"')[2].partition("</table>")[0].partition("<tbody>")[2]
    cells = [" ".join(re.sub(r"<[^>]+>", " ", cell).split()) for cell in re.split(r"</t[hd]>", table)]
    assert cells[:7] == ["default", "13", "10", "5 50 %", "4 40 %", "1", "1"]
    assert "escalated because of 3 agreement, 1 structure." in " ".join(text.split())
    report = command(stage.router, "verify", "report", "--since", "1h", "--json")
    assert report["routes"] == stage.router.get("/v1/metrics?hours=1").json["verify"]["routes"]
    ledger = command(stage.router, "egress", "--since", "1h", "--json")
    left = [row for row in rows if row["destination"] is not None]
    assert ledger["total"]["calls"] == len(left) and {row["backend"] for row in left} == {"frontier"}
    assert {name: group["calls"] for name, group in ledger["reasons"].items()} == Counter(row["reason"] for row in left)


@pytest.mark.parametrize("doubt", [0.3, 0.0, 0.99])
def test_a_replay_judges_by_the_stored_doubts(stage: Stage, rows: list[dict[str, Any]], doubt: float) -> None:
    policy = stage.policy(doubt=doubt)
    if doubt != 0.3:
        policy["routes"][0]["reason"] = "another version"
    file = stage.router.folder / "new.yaml"
    file.write_text(json.dumps(policy), "utf-8")
    report = command(stage.router, "policy", "replay", str(file), "--since", "1h", "--json")
    assert (report["requests"], report["unchanged"]) == (13, 13)
    judged = report["verify"]
    then = Counter(row["verified"] for row in rows if row["verified"])
    assert {name: number for name, number in judged["then"].items() if number} == then
    if doubt == 0.3 and judged["changes"] == []:
        assert {name: number for name, number in judged["now"].items() if number} == then
        assert judged["cost_usd"]["then"] == judged["cost_usd"]["now"]
        return
    doubted = [row for row in rows if row["doubt"] is not None]
    faults = [row for row in rows if row["fault"] is not None]
    up = sum(row["doubt"] > doubt for row in doubted) + len(faults)
    assert (judged["now"]["escalated"], judged["now"]["kept"]) == (up, len(doubted) + len(faults) - up)


def command(router: Router, *arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "flask", *arguments], cwd=ROOT, env=router.environment(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

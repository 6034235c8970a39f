"""Judged answers in every number: one request stays one request, and each call that cost something counts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.metrics import window as windows
from app.metrics.aggregates import Aggregate, Key
from app.metrics.judged import judged_report
from app.metrics.report import read_summary
from app.metrics.store import Store
from app.types import CallRecord, Observations, Policy, Verification
from tests import build
from tests.metrics.judged_rows import ESCALATED, NOW, OPINION, POLICY, SMALL, STRONG, escalated, first, kept, later

HERE = Observations(local=frozenset({"small", "peer"}))


@pytest.fixture(params=[10**6, 0], ids=["rows", "sums"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A database whose windows are made of its rows, or of its stored sums."""
    monkeypatch.setattr(windows, "_EXACT_ROWS", request.param)
    made = Store(str(tmp_path / "metrics.db"))
    yield made
    made.close()


def judging(text: str = POLICY, **rules: Any) -> Policy:
    """The policy, whose default route judges answers."""
    made = build.policy(text)
    return replace(made, routes=(*made.routes[:-1], replace(made.routes[-1], verify=Verification(**rules))))


def summary(store: Store, calls: Iterable[CallRecord], policy: Policy | None = None) -> dict[str, Any]:
    store.write(list(calls))
    return read_summary(store, policy or judging(), HERE, {}, 1, NOW + 1000)[0]


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are of now."""
    monkeypatch.setattr(windows, "now_ms", lambda: NOW + 1000)


def default(document: dict[str, Any]) -> dict[str, Any]:
    (row,) = [row for row in document["verify"]["routes"] if row["route"] == "default"]
    return row


# --- one request stays one request --------------------------------------------------------------

FAILED = {"outcome": "error", "error": "timeout", "input_tokens": None, "output_tokens": None, "cost_usd": None}
LEFT = {**FAILED, "outcome": "cancelled", "error": None}
PEER = {"backend": "peer", "model": "p", **SMALL}
LOOP = [first(request_id="loop", **ESCALATED)]
CASES: list[tuple[str, list[CallRecord], dict[str, Any]]] = [
    ("not judged", [first()], {"requests": 1, "success_rate": 1, "local_share": 1, "cost_usd": 0}),
    ("kept", kept(1), {"requests": 1, "success_rate": 1, "local_share": 1, "cost_usd": 0}),
    ("escalated", escalated(1), {"requests": 1, "success_rate": 1, "local_share": 0, "cost_usd": 0.0014}),
    (
        "escalated after a paid opinion",
        [*escalated(1), later(**{**OPINION, **SMALL, "cost_usd": 0.5})],
        {"requests": 1, "success_rate": 1, "local_share": 0, "cost_usd": 0.5014},
    ),
    (
        "escalated, and the target failed: the first answer was sent",
        [*kept(1), later(**{**ESCALATED, **FAILED})],
        {"requests": 1, "success_rate": 0.5, "local_share": 1, "cost_usd": 0},
    ),
    (
        "escalated, and the client left",
        escalated(1, **LEFT),
        {"requests": 1, "success_rate": None, "local_share": None, "cost_usd": 0},
    ),
    (
        "the first target failed, the next one was judged",
        [first(**FAILED), later(**PEER, verified="kept", reason="fallback", fallback_for="small")],
        {"requests": 1, "success_rate": 0.5, "local_share": 1, "cost_usd": 0},
    ),
    ("in a tool loop that was escalated", LOOP, {"requests": 1, "success_rate": 1, "local_share": 0}),
    (
        "all in one window",
        [*kept(1), *kept(2), *escalated(1), *escalated(1, "structure"), first(verified="observed"), *LOOP],
        {"requests": 6, "success_rate": 1, "local_share": 0.5, "cost_usd": 0.0042},
    ),
]


@pytest.mark.parametrize("calls, numbers", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_request_counts_once(store: Store, calls: list[CallRecord], numbers: dict[str, Any]) -> None:
    total = summary(store, calls)["total"]
    assert {name: total[name] for name in numbers} == numbers
    assert total["calls"] == sum(call.kind == "live" for call in calls)


def test_the_numbers_of_backends_are_those_of_calls(store: Store) -> None:
    document = summary(store, [*kept(1), *escalated(1), *escalated(2)])
    of_calls = {row["backend"]: (row["calls"], row["success_rate"]) for row in document["backends"]}
    assert of_calls == {"small": (3, 1), "strong": (2, 1), "peer": (0, None)}
    assert {row["backend"]: row["second_opinions"] for row in document["backends"]} == {
        "small": 0,
        "strong": 0,
        "peer": 1,
    }


def test_a_route_has_one_answer_a_request(store: Store) -> None:
    """Two of three requests were answered; of the calls, four of five succeeded."""
    failed = later(request_id="failed", **{**STRONG, **FAILED}, reason="route")
    document = summary(store, [*escalated(1), *escalated(2), failed])
    (route,) = document["routes"]
    assert (route["calls"], route["escalated"], route["success_rate"]) == (5, 2, 0.6667)
    assert document["total"]["success_rate"] == 0.6667


def test_the_cost_is_that_of_all_calls_wherever_it_is_shown(store: Store) -> None:
    calls = [*kept(1), *escalated(1), later(**{**OPINION, **SMALL, "cost_usd": 0.25})]
    document = summary(store, calls)
    costs = {row["backend"]: row["cost_usd"] for row in document["backends"]}
    assert costs == {"small": 0, "peer": 0.25, "strong": 0.0014}
    assert document["total"]["cost_usd"] == document["routes"][0]["cost_usd"] == 0.2514


def test_savings_compare_the_answers_that_were_sent(store: Store) -> None:
    """At `strong` each request would have had one answer, and no second opinion."""
    document = summary(store, [*kept(1), *escalated(1)])
    there = (100 * 10 + 10 * 20 + 100 * 10 + 20 * 20) / 1e6
    assert document["savings"] == {
        "against": "strong",
        "calls": 2,
        "counted_calls": 2,
        "there_usd": there,
        "here_usd": 0.0014,
        "saved_usd": round(there - 0.0014, 6),
        "unpriced": [],
    }


def test_a_second_opinion_without_a_price_makes_the_cost_unknown(store: Store) -> None:
    document = summary(store, [*kept(1)[:1], later(**{**OPINION, **SMALL, "cost_usd": None})])
    assert document["total"]["unpriced"] == document["savings"]["unpriced"] == ["peer"]
    assert document["savings"]["saved_usd"] is None


# --- answers judged -----------------------------------------------------------------------------


def test_the_report_of_a_route(store: Store) -> None:
    calls = [
        *kept(1), *kept(2), *kept(3),
        *escalated(1), *escalated(2), *escalated(1, "structure"), *escalated(1, "confidence"),
        first(request_id="late", verified="released", held_ms=8000),
        first(request_id="seen", verified="observed"),
        first(request_id="plain"),
    ]  # fmt: skip
    there, here = 4 * (100 * 10 + 10 * 20) / 1e6, 0.0
    expected = {
        "route": "default",
        "requests": 10,
        "asked_first": 8,
        "kept": 3,
        "escalated": 4,
        "released": 1,
        "observed": 1,
        "escalated_share": 0.5,
        "reasons": {"agreement": 2, "confidence": 1, "structure": 1},
        "avg_added_ms": (3 * 200 + 4 * 400 + 8000) / 8,
        "second_opinions": 3,
        "second_opinion_usd": 0,
        "daily_share": 0.3,
        "against": "strong",
        "sent": 4,
        "counted": 4,
        "saved_usd": round(there - here, 6),
        "unpriced": [],
    }
    document = summary(store, calls)
    row = default(document)
    assert {name: row[name] for name in expected} == expected
    assert row["p95_added_ms"] == pytest.approx(8000, rel=0.07)
    assert set(row) == {*expected, "p95_added_ms"}
    total = document["verify"]["total"]
    assert {name: total[name] for name in total} == {name: row[name] for name in total}


@pytest.mark.parametrize(
    "calls, saved, unpriced",
    [
        (kept(1), 0.0012, []),
        (escalated(1), 0, []),  # both sides pay for the escalated call
        ([first(verified="escalated", verified_reason="structure", cost_usd=0.1)], -0.1, []),
        ([*kept(1), later(**{**OPINION, **SMALL, "cost_usd": 0.001})], 0.0002, []),
        ([first(verified="observed")], 0, []),  # a private request may not go there
        ([first(verified="kept", cost_usd=None)], None, ["small"]),
        ([first(verified="kept", input_tokens=None, output_tokens=None)], 0, []),  # not counted
        ([*kept(1), later(**{**OPINION, **SMALL, "cost_usd": None})], None, ["peer"]),
        ([], 0, []),
    ],
)  # fmt: skip
def test_money_saved(store: Store, calls: list[CallRecord], saved: float | None, unpriced: list[str]) -> None:
    row = default(summary(store, calls))
    assert (row["saved_usd"], row["unpriced"]) == (saved, unpriced)


UNPRICED = POLICY.replace(
    "strong: {type: openai, model: gpt, price: {input: 10, output: 20}}", "strong: {type: openai, model: gpt}"
).replace("savings: {against: strong}\n", "")
POOLED = POLICY.replace(
    "routes:",
    """\
  stronger: {type: sarmalink, price: {input: PRICE, output: 20}}
pools: {big: {members: [strong, stronger]}}
routes:""",
)


@pytest.mark.parametrize(
    "policy, against, saved, unpriced",
    [
        (judging(), "strong", 0.0012, []),
        (judging(escalate="peer"), "peer", 0, []),
        (judging(UNPRICED), "strong", None, ["strong"]),
        (judging(POOLED.replace("PRICE", "10"), escalate="big"), "big", 0.0012, []),
        (judging(POOLED.replace("PRICE", "11"), escalate="big"), "big", None, ["big"]),
        (build.policy(POLICY), None, None, []),  # the route judges no longer
    ],
)  # fmt: skip
def test_the_price_is_that_of_the_escalation_target(
    store: Store, policy: Policy, against: str | None, saved: float | None, unpriced: list[str]
) -> None:
    row = default(summary(store, kept(1), policy))
    assert (row["against"], row["saved_usd"], row["unpriced"]) == (against, saved, unpriced)


def test_routes_that_judge_nothing_are_not_in_the_report(store: Store) -> None:
    document = summary(store, [first(), first(route="pin", reason="pin")], build.policy(POLICY))
    assert document["verify"]["routes"] == []
    assert (document["verify"]["total"]["asked_first"], document["verify"]["total"]["saved_usd"]) == (0, None)


def test_a_route_that_judges_is_in_the_report_before_its_first_request() -> None:
    (row,) = judged_report({}, judging())["routes"]
    assert (row["route"], row["requests"], row["escalated_share"], row["avg_added_ms"]) == ("default", 0, None, None)


def test_the_total_is_unknown_while_a_part_is_unknown() -> None:
    sent = Aggregate(calls=1, counted=1, priced=1, input_tokens=100, output_tokens=10)
    former = {Key("small", "s", route, "live", "kept"): sent for route in ("default", "gone")}
    report = judged_report(former, judging())
    assert [row["saved_usd"] for row in report["routes"]] == [0.0012, None]
    assert (report["total"]["saved_usd"], report["total"]["sent"]) == (None, 2)


def test_pruning_changes_no_total(store: Store) -> None:
    store.write([*kept(1), *escalated(1)])
    before = store.totals()
    store.write([first(ts_ms=NOW + 10**9)])
    store.prune(NOW + 1)
    after = store.totals()
    assert {key: (sums.calls, sums.held.total) for key, sums in before.items() if key.verified} == {
        key: (sums.calls, sums.held.total) for key, sums in after.items() if key.verified
    }
    assert not store.window(NOW - 1000).aggregates.keys() & {key for key in before if key.verified}


# --- databases of older versions ----------------------------------------------------------------

OLD_SUMS = """
CREATE TABLE old AS SELECT * FROM llr_sums;
DROP TABLE llr_sums;
CREATE TABLE llr_sums (span INTEGER NOT NULL, bucket INTEGER NOT NULL, backend TEXT NOT NULL, model TEXT NOT NULL,
    route TEXT NOT NULL, kind TEXT NOT NULL, calls INTEGER NOT NULL, requests INTEGER NOT NULL,
    spills INTEGER NOT NULL, successes INTEGER NOT NULL, cancelled INTEGER NOT NULL, fallbacks INTEGER NOT NULL,
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, counted INTEGER NOT NULL,
    priced INTEGER NOT NULL, cost_usd REAL NOT NULL, latency TEXT NOT NULL, ttfb TEXT NOT NULL{waits},
    PRIMARY KEY (span, bucket, backend, model, route, kind));
INSERT INTO llr_sums SELECT span, bucket, backend, model, route, kind, calls, requests, spills, successes, cancelled,
    fallbacks, input_tokens, output_tokens, counted, priced, cost_usd, latency, ttfb{names} FROM old;
DROP TABLE old;
PRAGMA user_version = {version};
"""


@pytest.mark.parametrize("version, names", [(6, ()), (9, ("wait", "load"))])
def test_older_sums_stay_and_new_calls_are_added(tmp_path: Path, version: int, names: tuple[str, ...]) -> None:
    file = tmp_path / "metrics.db"
    with closing(Store(str(file))) as store:
        store.write([first(ts_ms=NOW + number) for number in range(3)])
    with closing(sqlite3.connect(file)) as database:
        schema = "SELECT sql FROM sqlite_master WHERE name = 'llr_sums'"
        fresh = database.execute(schema).fetchone()
        waits = "".join(f", {name} TEXT" for name in names)
        database.executescript(OLD_SUMS.format(waits=waits, names="".join(f", {n}" for n in names), version=version))
        assert database.execute(schema).fetchone() != fresh
    with closing(Store(str(file))) as store:
        store.write([*kept(1), *escalated(1)])
        calls = {key[4:]: sums.calls for key, sums in store.totals().items() if key[:2] == ("small", "s")}
        assert calls == {("", ""): 3, ("kept", ""): 1, ("escalated", "agreement"): 1}
    with closing(sqlite3.connect(file)) as database:
        assert database.execute(schema).fetchone() == fresh

"""Replay of judged answers: what another `doubt` would have kept and escalated, and what cannot be known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.metrics import replay as replays
from app.metrics.replay import Replay
from app.metrics.store import Store
from app.routing.decide import decide
from app.types import CallRecord, Classification, Observations
from tests import build
from tests.metrics.judged_rows import OPINION, SMALL, STRONG

POLICY = """\
backends:
  small: {type: ollama, models: [s], local: true, price: {input: 0, output: 0}}
  peer: {type: llamacpp, models: [p], local: true, price: {input: 0, output: 0}}
  strong: {type: openai, model: gpt, price: {input: 10, output: 20}}
routes:
  - default: small
    fallback: strong
    verify: {doubt: 0.5, second: peer}
"""
PLAIN = POLICY.replace("    verify: {doubt: 0.5, second: peer}\n", "")
TAGS = Classification("general", "low", "normal", "text", "any", 10, 0.2, 0.9)
TAGGED = {field.name: getattr(TAGS, field.name) for field in dataclasses.fields(TAGS)}
HERE = frozenset({"small", "peer"})
PAID = STRONG["cost_usd"]
THERE = (100 * 10 + 10 * 20) / 1e6  # the first answer's tokens at `strong`


class House:
    """Requests that were decided by a policy, and the rows of their calls."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(str(folder / "metrics.db"))
        self.number = 0

    def first(self, policy: str = POLICY, sensitivity: str = "normal", **fields: Any) -> CallRecord:
        self.number += 1
        tags = dataclasses.replace(TAGS, sensitivity=sensitivity)
        request = build.request(sensitivity=sensitivity)
        decision = decide(request, tags, build.policy(policy), Observations(local=HERE), lambda _: True)
        target = decision.targets[0]
        name = {"request_id": f"r{self.number}", "route": decision.route, "basis": decision.basis}
        known = {"backend": target.backend, "model": target.model, **TAGGED, **SMALL}
        return build.record(**{**name, **known, "sensitivity": sensitivity, **fields})

    def later(self, **fields: Any) -> CallRecord:
        return build.record(**{"request_id": f"r{self.number}", **TAGGED, **fields})

    def judged(self, verified: str | None, doubt: float | None = None, **fields: Any) -> None:
        """A request whose answer had this result."""
        calls = [self.first(verified=verified, doubt=doubt, **fields)]
        if verified == "escalated":
            calls.append(self.later(reason="escalated", **STRONG))
        self.store.write(calls)

    def replay(self, policy: str = POLICY) -> dict[str, Any]:
        again = Replay(build.policy(policy), HERE)
        for _, page in self.store.live_calls(0):
            list(again.take(page))
        list(again.finish())
        report: dict[str, Any] = again.report()
        assert again._early == again._waiting == {}
        return report


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.store.close()


def rules(text: str) -> str:
    return POLICY.replace("{doubt: 0.5, second: peer}", text)


def numbers(judged: dict[str, Any], when: str) -> dict[str, int]:
    return {name: number for name, number in judged[when].items() if number}


# --- the same policy ----------------------------------------------------------------------------


def test_the_policy_that_judged_changes_nothing(house: House) -> None:
    """Not even where the escalation target failed, so that a doubted answer was sent."""
    house.judged("kept", 0.2, agreement=1.0)
    house.judged("kept", 0.9)
    house.judged("escalated", 0.8)
    house.judged("escalated", None, fault="loop")
    house.judged("released")
    house.judged("observed", sensitivity="high")
    house.judged(None)
    judged = house.replay()["verify"]
    assert judged["requests"] == 6 and judged["changes"] == []
    assert (
        numbers(judged, "then")
        == numbers(judged, "now")
        == {
            "kept": 2,
            "escalated": 2,
            "released": 1,
            "observed": 1,
        }
    )
    assert judged["cost_usd"] == {"then": round(2 * PAID, 6), "now": round(2 * PAID, 6), "known": 6}


# --- another policy -----------------------------------------------------------------------------

STRICT, MILD = rules("{doubt: 0.3, second: peer}"), rules("{doubt: 0.7, second: peer}")
STRUCTURE = rules("{by: [structure]}")
WITHOUT_AGREEMENT = rules("{by: [structure, confidence], doubt: 0.3}")
OTHER_FIRST = STRICT.replace("default: small", "default: peer").replace("second: peer", "second: small")
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("less doubt is accepted", {"verified": "kept", "doubt": 0.4}, STRICT, "escalated"),
    ("as much as the limit is accepted", {"verified": "kept", "doubt": 0.3}, STRICT, "kept"),
    ("more doubt is accepted", {"verified": "escalated", "doubt": 0.6}, MILD, "kept"),
    ("too much in any case", {"verified": "escalated", "doubt": 0.9}, MILD, "escalated"),
    ("a fault is a fault", {"verified": "escalated", "doubt": None, "fault": "json"}, MILD, "escalated"),
    ("a fault that was sent", {"verified": "observed", "doubt": None, "fault": "json"}, MILD, "escalated"),
    ("released once", {"verified": "released", "doubt": None}, STRICT, "released"),
    ("private", {"verified": "observed", "doubt": None, "sensitivity": "high"}, STRICT, "observed"),
    ("only its structure was judged", {"verified": "observed", "doubt": None}, STRICT, "no_doubt"),
    ("its structure is enough", {"verified": "observed", "doubt": None}, STRUCTURE, "kept"),
    ("nothing but its structure could be judged", {"verified": "kept", "doubt": None}, STRICT, "kept"),
    ("the route gets verify", {"verified": None, "policy": PLAIN}, STRICT, "no_doubt"),
    ("the route loses verify", {"verified": "escalated", "doubt": 0.9}, PLAIN, "not_judged"),
    ("another model is first", {"verified": "kept", "doubt": 0.1}, OTHER_FIRST, "other_target"),
    ("judged with an opinion", {"verified": "kept", "doubt": 0.1, "agreement": 1.0}, WITHOUT_AGREEMENT, "other_parts"),
    ("judged without one", {"verified": "kept", "doubt": 0.4}, WITHOUT_AGREEMENT, "escalated"),
]


@pytest.mark.parametrize("fields, policy, result", [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_one_answer(house: House, fields: dict[str, Any], policy: str, result: str) -> None:
    house.judged(**fields)
    judged = house.replay(policy)["verify"]
    assert numbers(judged, "then") == {fields["verified"] or "not_judged": 1}
    if result in judged["unknown"]:
        assert numbers(judged, "now") == {"unknown": 1} and judged["unknown"][result] == 1
        assert judged["cost_usd"]["known"] == 0
    else:
        assert numbers(judged, "now") == {result: 1}
        changed = [] if result == fields["verified"] else [{"then": fields["verified"], "now": result, "requests": 1}]
        assert judged["changes"] == changed


def test_requests_that_nobody_judges_are_not_in_the_report(house: House) -> None:
    house.judged(None, policy=PLAIN)
    house.store.write([house.first(outcome="error", error="timeout"), house.later(reason="fallback", **STRONG)])
    assert house.replay(PLAIN)["verify"]["requests"] == 0
    assert house.replay()["verify"]["requests"] == 1, "a first call that failed has no answer to judge"


def test_answers_without_a_second_opinion_are_counted(house: House) -> None:
    house.judged("kept", 0.1)
    house.judged("kept", 0.1, agreement=0.9)
    house.judged("escalated", None, fault="loop")
    assert house.replay(STRICT)["verify"]["without_opinion"] == 1


# --- what it costs ------------------------------------------------------------------------------

DEARER = STRICT.replace("input: 10", "input: 100")
TO_PEER = rules("{doubt: 0.3, second: peer, escalate: peer}")
COSTS: list[tuple[str, dict[str, Any], str, float, float | None]] = [
    ("kept then, escalated now", {"verified": "kept", "doubt": 0.4}, STRICT, 0, THERE),
    ("escalated then, kept now", {"verified": "escalated", "doubt": 0.6}, MILD, PAID, 0),
    ("escalated both times", {"verified": "escalated", "doubt": 0.8}, MILD, PAID, PAID),
    ("escalated to another backend", {"verified": "escalated", "doubt": 0.8}, TO_PEER, PAID, 0),
    ("not judged now", {"verified": "escalated", "doubt": 0.8}, PLAIN, PAID, 0),
    ("a first answer that costs", {"verified": "kept", "doubt": 0.4, "cost_usd": 0.5}, STRICT, 0.5, 0.5 + THERE),
    ("no price", {"verified": "kept", "doubt": 0.4}, STRICT.replace(", price: {input: 10, output: 20}", ""), 0, None),
]


@pytest.mark.parametrize("fields, policy, then, now", [case[1:] for case in COSTS], ids=[case[0] for case in COSTS])
def test_the_cost(house: House, fields: dict[str, Any], policy: str, then: float, now: float | None) -> None:
    house.judged(**fields)
    cost = house.replay(policy)["verify"]["cost_usd"]
    known = {"then": then, "now": round(now, 6), "known": 1} if now is not None else None
    assert cost == (known or {"then": None, "now": None, "known": 0})


def test_second_opinions_cost_where_answers_are_held(house: House) -> None:
    opinion = {**OPINION, **SMALL, "cost_usd": 0.25}
    first = house.first(verified="kept", doubt=0.1, agreement=1.0)
    house.store.write([house.later(**opinion), first])
    assert house.replay(STRICT)["verify"]["cost_usd"] == {"then": 0.25, "now": 0.25, "known": 1}
    assert house.replay(PLAIN)["verify"]["cost_usd"] == {"then": 0.25, "now": 0, "known": 1}


# --- rows in any order ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["first, opinion, answer", "opinion, first, answer", "answer, opinion, first"])
def test_the_calls_of_a_request_come_in_any_order(house: House, order: str) -> None:
    calls = {
        "first": house.first(verified="escalated", doubt=0.9, agreement=0.0),
        "opinion": house.later(**OPINION, **SMALL),
        "answer": house.later(reason="escalated", **STRONG),
    }
    house.store.write([calls[name] for name in order.split(", ")])
    report = house.replay(
        STRICT.replace("default: small", "default: strong").replace("fallback: strong", "fallback: small")
    )
    assert (report["requests"], report["elsewhere"]) == (1, 1)
    assert report["cost_usd"]["then"] == PAID, "the answer and all that led to it"


def test_the_client_waited_for_both_answers(house: House) -> None:
    strong_first = "default: strong\n    fallback: small"
    policy = PLAIN.replace("default: small\n    fallback: strong", strong_first).replace("gpt,", "gpt, p50Ms: 900,")
    first = house.first(verified="escalated", doubt=0.9, latency_ms=300, held_ms=350)
    house.store.write([first, house.later(reason="escalated", latency_ms=1000, **STRONG)])
    assert house.replay(policy)["latency_ms"] == {"then": 1350, "now": 900, "known": 1}


def test_a_request_without_an_answer_is_one_request(house: House) -> None:
    left = {**STRONG, "outcome": "cancelled", "cost_usd": None}
    house.store.write([house.first(verified="escalated", doubt=0.9), house.later(reason="escalated", **left)])
    report = house.replay(MILD)
    assert report["requests"] == report["unchanged"] == 1
    assert numbers(report["verify"], "now") == {"escalated": 1} and report["verify"]["cost_usd"]["known"] == 0


def test_calls_without_a_first_one_use_bounded_memory(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_MOST_WAITING", 3)
    again = Replay(build.policy(POLICY), HERE)
    for number in range(20):
        house.store.write([build.record(request_id=f"lost-{number}", **OPINION, **SMALL)])
    for _, page in house.store.live_calls(0):
        assert list(again.take(page)) == []
    assert len(again._early) == 3 and again.report()["requests"] == 0

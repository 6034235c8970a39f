"""What a decision would lead to: a table of estimates, who gets nothing, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest

from app.dry_run import never
from app.routing import expected
from app.routing.expected import estimate, expected_time
from app.routing.explain import describe_calls
from app.types import Decision, Lane, ModelFacts, Observations, Price, Queue, Target
from tests import build
from tests.fakes.backends import config

TARGET = Target("a", "m")
PRICE, FREE = Price(2.5, 10), Price(0, 0)
POLICY = build.policy(
    "backends: {a: {type: echo}, b: {type: echo}, c: {type: sarmalink}}\nroutes: [{default: a, fallback: b}]"
)


@pytest.mark.parametrize(
    "measured, p50_ms, values",
    [
        (None, None, (None, None)),
        (None, 1800, (1800, "policy")),
        (420.0, 1800, (420.0, "measured")),
        (420.0, None, (420.0, "measured")),
        (0.0, 1800, (0.0, "measured")),
    ],
)
def test_expected_times(measured: float | None, p50_ms: float | None, values: tuple[Any, ...]) -> None:
    seen = {("a", "other"): 5.0} if measured is None else {("a", "m"): measured}
    found = estimate(TARGET, config("a", p50_ms=p50_ms), Observations(latency_ms=seen), 10, 0)
    assert (found.expected_ms, found.expected_from) == values


KEY, COLD = ("a", "m"), ModelFacts(loaded=False, size_bytes=5_200_000_000)
ONE = {("a", "*"): Queue(1, (2, 1, 3))}


@pytest.mark.parametrize(
    "seen, lane, document, ahead, delays",
    [
        ({}, "interactive", (0, 0, 1800), 0, ""),
        ({"facts": {"a": {"m:latest": ModelFacts(loaded=True)}}}, "interactive", (0, 0, 1800), 0, ""),
        ({"facts": {"a": {"m:latest": COLD}}}, "interactive", (0, 5200, 1800), 0, "not loaded: +5.2 s"),
        (
            {"facts": {"a": {"m:latest": COLD}}, "load_ms": {KEY: 5800.0}},
            "interactive", (0, 5800, 1800), 0, "not loaded: +5.8 s",
        ),
        (
            {"facts": {"a": {"m:latest": ModelFacts(loaded=False)}}},
            "interactive", (0, None, 1800), 0, "not loaded",
        ),
        ({"load_ms": {KEY: 5800.0}, "hold_ms": {KEY: 1600.0}}, "interactive", (0, 0, 1800), 0, ""),
        ({"queues": ONE, "hold_ms": {KEY: 1600.0}}, "interactive", (4800, 0, 1800), 3, "3 ahead: +4.8 s"),
        ({"queues": ONE, "hold_ms": {KEY: 1600.0}}, "agent", (6400, 0, 1800), 4, "4 ahead: +6.4 s"),
        ({"queues": ONE, "hold_ms": {KEY: 1600.0}}, "background", (11200, 0, 1800), 7, "7 ahead: +11.2 s"),
        ({"queues": {("a", "*"): Queue(4, (2, 0, 0))}, "hold_ms": {KEY: 1600.0}}, "agent", (1200, 0, 1800), 6,
         "6 ahead: +1.2 s"),
        (
            {"queues": {("a", "*"): Queue(1, (0, 0, 0), "n:latest")}, "hold_ms": {KEY: 1600.0, ("a", "n"): 300.0}},
            "interactive", (300, 0, 1800), 1, "1 ahead: +300 ms",
        ),
        (
            {"queues": {("a", "*"): Queue(1, (0, 0, 0), "n:1b")}, "hold_ms": {KEY: 1600.0, ("a", "n:1b"): 300.0}},
            "interactive", (300, 0, 1800), 1, "1 ahead: +300 ms",
        ),
        ({"queues": ONE}, "interactive", (5400, 0, 1800), 3, "3 ahead: +5.4 s"),
        ({"queues": {("a", "m"): Queue(1, (0, 0, 0)), ("b", "*"): Queue(1, (0, 0, 0))}}, "agent", (0, 0, 1800), 0, ""),
        (
            {"queues": ONE, "hold_ms": {KEY: 1600.0}, "facts": {"a": {"m:latest": COLD}}, "latency_ms": {KEY: 20.0}},
            "interactive", (4800, 5200, 20), 3, "3 ahead: +4.8 s, not loaded: +5.2 s",
        ),
    ],
)  # fmt: skip
def test_the_parts_of_an_expected_time(
    seen: dict[str, Any], lane: str, document: tuple[float | None, ...], ahead: int, delays: str
) -> None:
    found = expected_time(TARGET, config("a", p50_ms=1800), Observations(**seen), Lane(lane))
    assert (tuple(expected.document(found).values()), found.ahead, expected.parts(found)) == (document, ahead, delays)
    assert found.total_ms == found.known_ms == sum(part or 0 for part in document)


def test_the_places_of_a_model_have_a_queue_of_their_own() -> None:
    own = config("a", p50_ms=1000, max_concurrency={"m:latest": 1, "*": 2})
    seen = Observations(queues={("a", "m:latest"): Queue(1, (0, 0, 0)), ("a", "*"): Queue(2, (2, 0, 0))})
    assert [expected_time(Target("a", model), own, seen).ahead for model in ("m", "n")] == [1, 4]


def test_what_is_known_of_a_time_whose_warm_part_is_not() -> None:
    seen = Observations(facts={"a": {"m:latest": COLD}}, queues=ONE)
    found = expected_time(TARGET, config("a"), seen)
    assert (found.wait_ms, found.load_ms, found.known_ms, found.total_ms) == (None, 5200, 5200, None)
    assert expected.parts(found) == "3 ahead, not loaded: +5.2 s"


@pytest.mark.parametrize(
    "price, asked, out, input_usd, cost_usd",
    [
        (None, 0, None, None, None),
        (None, 500, 500, None, None),
        (FREE, 0, None, 0.0, 0.0),
        (FREE, 500, 500, 0.0, 0.0),
        (PRICE, 0, None, 0.0025, None),
        (PRICE, 500, 500, 0.0025, 0.0075),
    ],
)
def test_estimated_costs(
    price: Price | None, asked: int, out: int | None, input_usd: float | None, cost_usd: float | None
) -> None:
    found = estimate(TARGET, config("a", price=price), Observations(), 1000, asked)
    assert (found.input_tokens, found.output_tokens) == (1000, out)
    assert (found.input_usd, found.cost_usd) == (input_usd, cost_usd)


def decided(route: str = "default", **fields: Any) -> Decision:
    return Decision(route=route, targets=(TARGET,), trace=(), primary="a", **fields)


@pytest.mark.parametrize(
    "decision, why",
    [
        (decided(), {"b": "the route default does not name it", "c": "the route default does not name it"}),
        (decided("pin"), {"b": "the client named another", "c": "the client named another"}),
        (decided("continuation"), dict.fromkeys("bc", "the conversation is kept elsewhere")),
        (
            decided(private=True),
            {"b": "the route default does not name it", "c": "the request is private and it is not local"},
        ),
        (decided(dropped={"b": "too small"}), {"b": "too small", "c": "the route default does not name it"}),
    ],
)
def test_who_gets_nothing(decision: Decision, why: dict[str, str]) -> None:
    local = Observations(local=frozenset("ab"))
    assert never(POLICY, decision, local, frozenset("a")) == why
    assert never(POLICY, decision, local, frozenset("abc")) == {}


CALL = {
    "backend": "a", "model": "m", "local": True, "circuit": "closed", "expected_ms": 1800, "expected_from": "policy",
    "price": {"input": 2.5, "output": 10}, "input_tokens": 10, "output_tokens": None, "input_usd": 0.000025,
    "cost_usd": None, "url": "http://a/v1/chat/completions", "body": "passed_on", "sent_bytes": 1092, "key_env": None,
    "key_set": None, "expected": {"wait_ms": 0, "load_ms": 0, "warm_ms": 1800, "ahead": 0, "delays": ""},
}  # fmt: skip
FIRST = "a/m, local, about 1.8 s (p50Ms), $0.000025 in, $10.00 per 1M tokens out"
WAY = "POST http://a/v1/chat/completions"


@pytest.mark.parametrize(
    "members, lines",
    [
        ({}, (FIRST, WAY, "1,092 bytes, unchanged except for the model; no key")),
        ({"cost_usd": 0.0, "expected_from": "measured"}, ("a/m, local, about 1.8 s (measured), free",)),
        (
            {"price": None, "expected_ms": None, "local": False},
            ("a/m, NOT LOCAL, time unknown, cost unknown",),
        ),
        ({"cost_usd": 0.0051}, ("a/m, local, about 1.8 s (p50Ms), at most $0.0051",)),
        (
            {"expected_ms": 7600, "expected": {"delays": "not loaded: +5.8 s"}, "cost_usd": 0.0},
            ("a/m, local, about 7.6 s (p50Ms; not loaded: +5.8 s), free",),
        ),
        (
            {"expected_ms": None, "expected": {"delays": "3 ahead: +4.9 s"}, "cost_usd": 0.0},
            ("a/m, local, time unknown; 3 ahead: +4.9 s, free",),
        ),
        ({"circuit": "open"}, (FIRST.replace("local", "local, circuit open after failures"),)),
        ({"circuit": "half-open"}, (FIRST.replace("local", "local, circuit half-open: one trial call at a time"),)),
        ({"url": None}, (FIRST, "no request is sent: this backend is a part of the router")),
        (
            {"body": "translated", "key_env": "A_KEY", "key_set": True},
            (FIRST, WAY, "1,092 bytes, translated; key from A_KEY"),
        ),
        (
            {"body": "native", "key_env": "A_KEY", "key_set": False},
            (
                FIRST,
                WAY,
                "1,092 bytes, in the client's form, unchanged except for the model;"
                " A_KEY is not set: the call would fail",
            ),
        ),
    ],
)
def test_a_call_task_sign_in_words(members: dict[str, Any], lines: tuple[str, ...]) -> None:
    ((title, said),) = describe_calls({"calls": [{**CALL, **members}], "mirrors": [], "never": []})
    assert (title, said[: len(lines)]) == ("first", lines)


def test_all_of_it_task_sign_in_words() -> None:
    found = {
        "calls": [CALL, {**CALL, "backend": "b"}],
        "mirrors": [{**CALL, "backend": name, "kind": "shadow", "why": "5 % of what a answers"} for name in "bx"],
        "never": [{"backend": name, "why": "it is private"} for name in "cd"] + [{"backend": "e", "why": "too small"}],
    }
    said = list(describe_calls(found))
    assert [title for title, _ in said] == ["first", "then", "beside", "beside", "never", "never"]
    assert said[2][1] == ("b/m, local: 5 % of what a answers",), "where b is was said before"
    assert said[3][1][:2] == ("x/m, local: 5 % of what a answers", WAY)
    assert [lines for _, lines in said[4:]] == [("c, d: it is private",), ("e: too small",)]

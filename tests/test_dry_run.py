"""What a decision would lead to: a table of estimates, who gets nothing, and the words for it."""

from __future__ import annotations

from typing import Any

import pytest

from app.dry_run import never
from app.routing.expected import estimate
from app.routing.explain import describe_calls
from app.types import Decision, Observations, Price, Target
from tests import build
from tests.fakes.backends import config

TARGET = Target("a", "m")
PRICE, FREE = Price(2.5, 10), Price(0, 0)
POLICY = build.policy(
    "backends: {a: {type: echo}, b: {type: echo}, c: {type: sarmalink}}\nroutes: [{default: a, fallback: b}]"
)


@pytest.mark.parametrize(
    "measured, p50_ms, expected",
    [
        (None, None, (None, None)),
        (None, 1800, (1800, "policy")),
        (420.0, 1800, (420.0, "measured")),
        (420.0, None, (420.0, "measured")),
        (0.0, 1800, (0.0, "measured")),
    ],
)
def test_expected_times(measured: float | None, p50_ms: float | None, expected: tuple[Any, ...]) -> None:
    seen = {("a", "other"): 5.0} if measured is None else {("a", "m"): measured}
    found = estimate(TARGET, config("a", p50_ms=p50_ms), Observations(latency_ms=seen), 10, 0)
    assert (found.expected_ms, found.expected_from) == expected


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
    "key_set": None,
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
        ({"circuit": "open"}, (FIRST.replace("local", "local, circuit open after failures"),)),
        ({"circuit": "half-open"}, (FIRST.replace("local", "local, circuit half-open: one trial call at a time"),)),
        ({"url": None}, (FIRST, "no request is sent: this backend is a part of the router")),
        (
            {"body": "translated", "key_env": "A_KEY", "key_set": True},
            (FIRST, WAY, "1,092 bytes, translated to chat; key from A_KEY"),
        ),
        (
            {"body": "native", "key_env": "A_KEY", "key_set": False},
            (
                FIRST,
                WAY,
                "1,092 bytes, a Responses body, unchanged except for the model; A_KEY is not set: the call would fail",
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

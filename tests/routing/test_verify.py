"""The stage `verify`: which answers are judged, where a request goes then, and what stays as it was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from app.routing import basis
from app.routing.decide import decide
from app.types import Classification, Decision, ModelFacts, Observations, Reason, Target
from tests import build

TAGS = Classification("general", "low", "normal", "text", "any", 10)
POLICY = build.policy(
    """
    backends:
      local: {type: ollama, model: small}
      twin: {type: ollama, model: other, endpoint: "http://127.0.0.1:2"}
      mid: {type: openai, model: mid}
      frontier: {type: openai, model: gpt}
      reserve: {type: openai, model: big}
    pools:
      paid: {members: [frontier, reserve]}
    routes:
      - match: {task: code}
        backend: local
        fallback: [mid, frontier]
        verify: {escalate: frontier, second: twin/special}
      - match: {task: summarisation}
        backend: local
        verify: {escalate: paid, samples: 2}
      - default: local
        fallback: frontier
        verify: {}
    """
)
OBSERVATIONS = Observations(local=frozenset({"local", "twin"}))


def decided(task: str = "general", observations: Observations = OBSERVATIONS, **fields: Any) -> Decision:
    tags = {name: fields.pop(name) for name in ("sensitivity", "purpose") if name in fields}
    return decide(build.request(**fields), replace(TAGS, task=task, **tags), POLICY, observations)


def names(targets: tuple[Target, ...]) -> list[str]:
    return [f"{target.backend}/{target.model}" for target in targets]


def line(decision: Decision) -> str:
    """Return the line of the stage in the trace."""
    (outcome,) = [step.outcome for step in decision.trace if step.stage == "verify"]
    return outcome


def test_the_first_answer_is_held_and_judged():
    decision = decided()
    assert decision.verification is not None and decision.verification.holds
    assert names(decision.verification.escalation) == ["frontier/gpt"]
    assert decision.verification.second is None
    assert names(decision.targets) == ["local/small", "frontier/gpt"] and decision.reason == Reason.ROUTE
    assert line(decision) == (
        "the answer of local/small is held and judged (structure, confidence, agreement); when it does not hold, "
        "frontier/gpt is asked"
    )


def test_the_stronger_target_need_not_be_the_first_fallback():
    decision = decided("code")
    assert names(decision.targets) == ["local/small", "mid/mid", "frontier/gpt"]
    assert decision.verification is not None
    assert names(decision.verification.escalation) == ["frontier/gpt"]
    assert decision.verification.second == Target("twin", "special") and not decision.verification.is_sample


def test_a_target_that_is_no_fallback_becomes_the_last_one():
    decision = decided("summarisation")
    assert names(decision.targets) == ["local/small", "frontier/gpt", "reserve/big"]
    assert decision.verification is not None
    assert names(decision.verification.escalation) == ["frontier/gpt", "reserve/big"]
    assert decision.verification.second == Target("local", "small") and decision.verification.is_sample


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"sensitivity": "high"}, "the request is private"),
        ({"observations": replace(OBSERVATIONS, spent=frozenset({"default"}))}, "the dailyShare of the route is used"),
        ({"body": {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}}, "no target is left"),
    ],
)
def test_these_answers_are_sent_as_they_come(fields, why):
    facts = {"frontier": {"gpt:latest": ModelFacts(capabilities=frozenset({"completion"}))}}
    fields = {"observations": replace(OBSERVATIONS, facts=facts if "body" in fields else {}), **fields}
    decision = decided(**fields)
    assert decision.verification is not None and not decision.verification.holds
    assert decision.verification.second is None
    assert why in line(decision)


@pytest.mark.parametrize(
    "fields",
    [
        {"purpose": "background"},
        {"model": "local"},
        {"model": "frontier/gpt"},
        {"continues": Target("frontier", "gpt")},
        {"observations": replace(OBSERVATIONS, unhealthy=frozenset({"local"}))},
    ],
    ids=["a prompt of a program", "a backend by name", "a model by name", "a continuation", "an open circuit"],
)
def test_these_answers_are_not_judged(fields):
    assert decided(**fields).verification is None


@pytest.mark.parametrize(
    ("observations", "why"),
    [
        (Observations(local=frozenset({"local"})), "it is not local"),
        (
            replace(OBSERVATIONS, model_hosts={"twin": {"special:latest": "ollama.com:443"}}),
            "it is not local",
        ),
    ],
)
def test_a_second_opinion_that_is_not_local_is_not_asked(observations, why):
    decision = decided("code", observations)
    assert decision.verification is not None and decision.verification.holds
    assert decision.verification.second is None
    steps = [step.outcome for step in decision.trace if step.stage == "verify"]
    assert steps[0] == f"no second opinion of twin/special: {why}"


def test_an_escalated_tool_loop_stays_with_the_stronger_target():
    decision = decided(escalated=True)
    assert names(decision.targets) == ["frontier/gpt", "local/small"]
    assert decision.reason == Reason.ESCALATED and decision.verification is None
    assert line(decision) == "frontier/gpt goes first: its answer called the tools of this loop"


def test_a_private_request_leaves_its_escalated_tool_loop():
    decision = decided(escalated=True, sensitivity="high")
    assert names(decision.targets) == ["local/small"] and decision.reason == Reason.ROUTE


def test_the_basis_keeps_what_the_stage_depends_on():
    spent = replace(OBSERVATIONS, spent=frozenset({"default"}))
    decision = decided(escalated=True, observations=spent)
    assert decision.basis is not None
    again = basis.load(decision.basis.policy, "", basis.dump(decision.basis))
    assert again.escalated and again.observations.spent == {"default"}


def test_without_verify_nothing_changes():
    plain = build.policy("{backends: {local: {type: echo}}, routes: [{default: local}]}")
    decision = decide(build.request(), TAGS, plain, Observations())
    assert decision.verification is None
    assert not [step for step in decision.trace if step.stage == "verify"]

"""Pools: which member a request goes to, in what order the others follow, and what a name of a pool stands for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Any

import pytest

from app.routing import basis
from app.routing.decide import decide
from app.routing.names import resolve, usable
from app.routing.pools import conversation_of, ranks
from app.types import Classification, Decision, Lane, ModelFacts, Observations, Policy, Pool, Queue
from tests import build

BOXES = """\
backends:
  box1: {type: ollama, model: m, maxConcurrency: 1, maxWaitMs: 5000, p50Ms: 100}
  box2: {type: ollama, endpoint: "http://127.0.0.1:2", model: m, maxConcurrency: 1, maxWaitMs: 5000, p50Ms: 100}
  box3: {type: ollama, endpoint: "http://127.0.0.1:3", model: m, maxConcurrency: 1, maxWaitMs: 5000, p50Ms: 100}
  cloud: {type: openai, model: gpt}
pools:
  gpu: {members: [box1, box2, box3]}
routes:
  - default: gpu
    fallback: cloud
"""
LIMITED = build.policy(BOXES)
UNLIMITED = build.policy(BOXES.replace("maxConcurrency: 1, ", ""))
WEIGHTED = build.policy(BOXES.replace("box3]}", "box3], weights: {box1: 8}}"))
FREE_WEIGHTED = build.policy(BOXES.replace("maxConcurrency: 1, ", "").replace("box3]}", "box3], weights: {box1: 8}}"))
TAGS = Classification("general", "low", "normal", "text", "any", 10)  # type: ignore[arg-type]
LOCAL = frozenset({"box1", "box2", "box3"})
FULL = Queue(1, (0, 0, 0))


def tags(**fields: Any) -> Classification:
    return dataclasses.replace(TAGS, **fields)


def talk(start: str, turns: int = 1, **more: Any) -> dict[str, Any]:
    """The body of the request number `turns` of a conversation."""
    messages = [{"role": "system", "content": "You help."}, {"role": "user", "content": start}]
    for turn in range(1, turns):
        messages += [{"role": "assistant", "content": "yes"}, {"role": "user", "content": f"and {turn}?"}]
    return {"messages": messages, **more}


def go(rules: Policy, body: dict[str, Any], seen: Observations | None = None, **fields: Any) -> Decision:
    request = build.request(body, **fields)
    return decide(request, tags(sensitivity=request.sensitivity), rules, seen or Observations(local=LOCAL))


def order(decision: Decision) -> list[str]:
    return [target.backend for target in decision.targets]


def own_of(start: str, rules: Policy = LIMITED) -> str:
    """The member that the hash leads a conversation to."""
    pool = rules.pools["gpu"]
    rank = ranks(conversation_of(build.request(talk(start))).key, pool.members, pool)
    return min(rank, key=lambda name: rank[name])


def start_at(member: str, rules: Policy = LIMITED) -> str:
    """The first message of a conversation whose own member is `member`."""
    return next(start for start in map(str, range(1000)) if own_of(start, rules) == member)


# --- the hash -----------------------------------------------------------------------------------

STARTS = [f"conversation number {number}" for number in range(1000)]


@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5])
def test_weights_hold_over_a_thousand_conversations(share: float) -> None:
    pool = Pool(members=("old", "new"), weights={"old": 1 - share, "new": share})
    keys = [conversation_of(build.request(talk(start))).key for start in STARTS]
    taken = sum(ranks(key, pool.members, pool)["new"] == 0 for key in keys)
    assert abs(taken / len(STARTS) - share) <= 0.03


def test_weights_are_exact_over_all_keys() -> None:
    pool = Pool(members=("a", "b", "c"), weights={"a": 90, "b": 9})
    counts = Counter(
        min(rank, key=rank.__getitem__) for rank in (ranks(key, pool.members, pool) for key in range(2**16))
    )
    assert {name: round(count / 2**16, 2) for name, count in counts.items()} == {"a": 0.90, "b": 0.09, "c": 0.01}


def test_only_the_conversations_of_a_removed_member_move() -> None:
    four, three = Pool(members=("a", "b", "c", "d")), Pool(members=("a", "b", "d"))
    for key in range(2000):
        before, after = ranks(key, four.members, four), ranks(key, three.members, three)
        assert [name for name in sorted(before, key=before.__getitem__) if name != "c"] == sorted(
            after, key=after.__getitem__
        )


def test_the_order_in_which_members_are_listed_does_not_matter() -> None:
    pool = Pool(members=("a", "b", "c"))
    assert all(ranks(key, ("a", "b", "c"), pool) == ranks(key, ("c", "a", "b"), pool) for key in range(100))


def test_the_hash_is_the_same_in_every_version() -> None:
    """A worker that starts with a newer version must lead conversations to the same members."""
    assert conversation_of(build.request(talk("hello"), session="s")).key == 58320
    assert ranks(58320, ("a", "b", "c"), Pool(members=("a", "b", "c"), weights={"b": 2})) == {"b": 0, "a": 1, "c": 2}


def test_every_later_turn_returns_to_the_member_of_the_first() -> None:
    for start in STARTS[:200]:
        first = go(LIMITED, talk(start))
        assert first.targets[0].backend == own_of(start)
        assert all(go(LIMITED, talk(start, turns)).targets[0].backend == own_of(start) for turns in (2, 3, 9))


PARTS = [{"type": "text", "text": "hello"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]


@pytest.mark.parametrize(
    "one, other, same",
    [
        (talk("a"), talk("a", 5), True),
        (talk("a"), talk("b"), False),
        (talk("a", temperature=1, stream=True, model="gpu"), talk("a", 3), True),
        (
            {"messages": [{"role": "user", "content": PARTS}]},
            {"messages": [{"role": "user", "content": PARTS[:1]}]},
            False,
        ),
        ({"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "system", "content": "a"}]}, False),
        (talk("long " * 4000 + "a"), talk("long " * 4000 + "b"), True),  # the beginnings of texts are enough
    ],
)
def test_what_makes_a_conversation(one: dict[str, Any], other: dict[str, Any], same: bool) -> None:
    keys = [conversation_of(build.request(body)).key for body in (one, other)]
    assert (keys[0] == keys[1]) is same


def test_a_session_identifier_tells_equal_conversations_apart() -> None:
    keys = {conversation_of(build.request(talk("a"), session=session)).key for session in ("", "one", "two")}
    assert len(keys) == 3


@pytest.mark.parametrize(
    "messages", [[], None, "x", [None], [{"role": 7}], [{"role": "user", "content": [None, {"text": {"url": 5}}]}]]
)
def test_any_body_has_a_conversation(messages: Any) -> None:
    request = build.request("x")
    odd = dataclasses.replace(request, body=type("Odd", (), {"chat": {"messages": messages}})())
    assert conversation_of(odd).is_first


# --- the order ----------------------------------------------------------------------------------


def seen(**fields: Any) -> Observations:
    return Observations(**{"local": LOCAL, **fields})


def full(*members: str, waiting: int = 0) -> dict[tuple[str, str], Queue]:
    return {(member, "*"): Queue(1, (waiting, 0, 0)) for member in members}


def cold(*members: str, size: int | None = None) -> dict[str, dict[str, ModelFacts]]:
    return {member: {"m:latest": ModelFacts(loaded=False, size_bytes=size)} for member in members}


ONE = start_at("box1")
TWO = start_at("box2")
HOLD = {("box1", "m"): 1000.0, ("box2", "m"): 1000.0, ("box3", "m"): 1000.0}
CASES: dict[str, tuple[Policy, dict[str, Any], Observations, str]] = {
    "the own member": (LIMITED, talk(ONE), seen(), "box1"),
    "the own member, although it is cold": (LIMITED, talk(ONE), seen(facts=cold("box1")), "box1"),
    "not the own member when it is ill": (LIMITED, talk(ONE, 3), seen(unhealthy=frozenset({"box1"})), "box2 box3"),
    "not the own member when it asked for no calls": (
        LIMITED, talk(ONE, 3), seen(busy=frozenset({"box1"})), "box2 box3",
    ),
    "a first turn does not wait beside a free place": (LIMITED, talk(ONE), seen(queues=full("box1")), "box2 box3"),
    "nor beside a free place that is cold": (
        LIMITED, talk(ONE), seen(queues=full("box1", "box2"), facts=cold("box3")), "box3",
    ),
    "of the free ones, one that is loaded": (LIMITED, talk(ONE), seen(queues=full("box1"), facts=cold("box2")), "box3"),
    "then the fewest calls in flight": (
        LIMITED, talk(ONE), seen(queues=full("box1"), in_flight={"box2": 3, "box3": 2}), "box3",
    ),
    "nothing is free: the shortest wait": (
        LIMITED, talk(ONE),
        seen(queues=full("box1", "box2", waiting=3) | full("box3", waiting=1), hold_ms=HOLD), "box3",
    ),
    "nothing is free: loaded before cold": (
        LIMITED, talk(ONE), seen(queues=full("box1", "box2", "box3"), facts=cold("box1", "box3")), "box2",
    ),
    "a later turn waits for its own member": (LIMITED, talk(ONE, 2), seen(queues=full("box1")), "box1"),
    "not longer than the others need to read it": (
        LIMITED, talk(ONE, 2), seen(queues=full("box1", waiting=1), hold_ms=HOLD), "box2 box3",
    ),
    "longer when the others must load": (
        LIMITED, talk(ONE, 2),
        seen(queues=full("box1", waiting=1), hold_ms=HOLD, facts=cold("box2", "box3", size=4_000_000_000)), "box1",
    ),
    "a measured load counts": (
        LIMITED, talk(ONE, 2),
        seen(queues=full("box1", waiting=1), hold_ms=HOLD, facts=cold("box2", "box3", size=4_000_000_000),
             load_ms={("box2", "m"): 50.0}), "box2 box3",
    ),
    "not longer than maxWaitMs": (
        LIMITED, talk(ONE, 2),
        seen(queues=full("box1", waiting=5), hold_ms=HOLD, facts=cold("box2", "box3", size=10**11)), "box2 box3",
    ),
    "longer when the others have queues too": (
        LIMITED, talk(ONE, 2),
        seen(queues=full("box1", waiting=1) | full("box2", "box3", waiting=3), hold_ms=HOLD), "box1",
    ),
    "no limits: the own member when all are idle": (UNLIMITED, talk(TWO), seen(), "box2"),
    "no limits: fewest in flight for a first turn": (
        UNLIMITED, talk(TWO), seen(in_flight={"box1": 2, "box2": 2, "box3": 1}), "box3",
    ),
    "no limits: the own member among the fewest": (
        UNLIMITED, talk(TWO), seen(in_flight={"box1": 3, "box2": 2, "box3": 2}), "box2",
    ),
    "no limits: a later turn returns": (UNLIMITED, talk(TWO, 2), seen(in_flight={"box2": 9}), "box2"),
    "weights: a first turn follows the hash": (
        FREE_WEIGHTED, talk(start_at("box2", FREE_WEIGHTED)), seen(in_flight={"box2": 9}, facts=cold("box2")), "box2",
    ),
    "weights: full members are passed over": (
        WEIGHTED, talk(start_at("box2", WEIGHTED)), seen(queues=full("box2")), "box1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_first_member(name: str) -> None:
    rules, body, observations, first = CASES[name]
    decision = go(rules, body, observations)
    assert decision.targets[0].backend in first.split()
    assert {target.backend for target in decision.targets} == {"box1", "box2", "box3", "cloud"}
    assert decision.primary == decision.targets[0].backend
    assert decision.reason == "route"


def test_with_weights_first_turns_keep_the_shares_of_the_members_with_free_places() -> None:
    """A trial of a new model gets no more than its share when the others are full in turn."""
    rules = build.policy(BOXES.replace("box3]}", "box3], weights: {box1: 50, box2: 50}}"))
    taken = Counter(go(rules, talk(start), seen(queues=full("box1"))).targets[0].backend for start in STARTS)
    assert taken["box1"] == 0
    assert taken["box3"] <= 50


def test_a_later_turn_names_how_long_it_may_wait() -> None:
    patience = [
        go(LIMITED, talk(ONE, turns), seen(queues=queues, facts=cold("box2", "box3", size=2_000_000_000)))
        .targets[0].patience_ms
        for turns, queues in ((1, {}), (2, {}), (2, full("box1")))
    ]  # fmt: skip
    assert patience == [None, 2100, 2100]


def test_a_wait_counts_the_calls_that_go_before() -> None:
    """An interactive call does not wait for the background."""
    queues = {("box1", "*"): Queue(1, (0, 0, 50))}
    body, observations = talk(ONE, 2), seen(queues=queues, hold_ms={("box1", "m"): 50.0})
    assert go(LIMITED, body, observations).targets[0].backend == "box1"
    assert go(LIMITED, body, observations, lane=Lane.BACKGROUND).targets[0].backend != "box1"


def test_the_trace_says_who_was_passed_over_and_why_the_first_is_first() -> None:
    def trace(body: dict[str, Any], observations: Observations) -> list[str]:
        return [step.outcome for step in go(LIMITED, body, observations).trace if step.stage == "pool"]

    assert trace(talk(ONE), seen()) == ["gpu: box1/m goes first, the own member of the conversation"]
    assert trace(talk(ONE), seen(queues=full("box1"), facts=cold("box2"))) == [
        "gpu: box1/m is passed over, all its places are taken",
        "gpu: box3/m goes first, it has a free place",
    ]
    assert trace(talk(ONE, 2), seen(queues=full("box1"))) == [
        "gpu: box1/m goes first, the own member of the conversation, which waits up to 100 ms for a place"
    ]


def test_members_stand_side_by_side_and_ill_ones_go_to_the_end() -> None:
    decision = go(LIMITED, talk(ONE), seen(unhealthy=frozenset({"box1"})))
    assert order(decision)[2:] == ["cloud", "box1"]
    assert [target.pool for target in decision.targets] == ["gpu", "gpu", None, "gpu"]


def test_a_pool_as_fallback_and_a_member_named_twice() -> None:
    rules = build.policy(
        BOXES.replace("default: gpu\n    fallback: cloud", "default: box2\n    fallback: [gpu, box1, cloud]")
    )
    decision = go(rules, talk(ONE))
    assert order(decision)[:2] == ["box2", "box1"]
    assert order(decision)[3:] == ["cloud"]
    assert decision.primary == "box2"
    assert [target.pool for target in decision.targets] == [None, "gpu", "gpu", None]


def test_a_pool_of_one_member() -> None:
    rules = build.policy(BOXES.replace("[box1, box2, box3]", "box2"))
    decision = go(rules, talk(ONE))
    assert order(decision) == ["box2", "cloud"]
    assert (decision.primary, decision.targets[0].pool) == ("box2", "gpu")


def test_a_private_request_goes_to_the_local_members_only() -> None:
    rules = build.policy(BOXES.replace("box3]", "cloud]").replace("default: gpu\n    fallback: cloud", "default: gpu"))
    for model in ("auto", "gpu"):
        decision = go(rules, talk(ONE), seen(), sensitivity="high", model=model)
        assert set(order(decision)) == {"box1", "box2"}
        assert decision.primary == decision.targets[0].backend
        assert decision.dropped == {"cloud": "the request is private and it is not local"}


# --- replay -------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 3])
def test_the_stored_basis_leads_to_the_same_members_without_any_text(turns: int) -> None:
    secret = "the canary of Bluebird"
    decision = go(UNLIMITED, talk(secret, turns), seen(), session="canary-session", sensitivity="high")
    assert decision.basis is not None
    text = basis.dump(decision.basis)
    assert "anary" not in text
    loaded = basis.load("v", "", text)
    assert loaded.conversation == decision.basis.conversation
    empty = build.request("another text", conversation=loaded.conversation, sensitivity="high")
    assert order(decide(empty, tags(sensitivity="high"), UNLIMITED, seen())) == order(decision)


def test_a_decision_without_pools_stores_no_conversation() -> None:
    rules = build.policy("backends: {box1: {type: ollama, model: m}}\nroutes: [default: box1]")
    decision = go(rules, talk("x"))
    assert decision.basis is not None and decision.basis.conversation is None
    assert basis.dump(decision.basis) == '{"targets":["box1/m"],"local":["box1","box2","box3"]}'


# --- names --------------------------------------------------------------------------------------

NAMED = build.policy("""\
backends:
  box1: {type: ollama, models: [m, "llama3.2:3b"]}
  box2: {type: ollama, endpoint: "http://127.0.0.1:2", model: m, families: {gemma: seer}}
  cloud: {type: openai, model: gpt}
pools:
  gpu: {members: [box1, box2]}
  mixed: {members: [cloud, box2]}
routes: [default: gpu]
aliases: {fast: gpu, small: "gpu/llama3.2:3b", other: "gpu/phi"}
""")
LISTS = {"box1": ("m:latest", "llama3.2:3b"), "box2": ("m:latest", "phi:latest")}


@pytest.mark.parametrize(
    "model, models, meaning",
    [
        ("gpu", {}, "box1/m box2/m"),
        ("GPU", {}, "box1/m box2/m"),
        ("fast", {}, "box1/m box2/m"),
        ("gpu/m", {}, "box1/m* box2/m*"),
        ("gpu/m:latest", LISTS, "box1/m* box2/m*"),
        ("Gpu/M", LISTS, "box1/m* box2/m*"),
        ("gpu/llama3.2:3b", {}, "box1/llama3.2:3b* box2/llama3.2:3b*"),  # box2 has not said what it has
        ("gpu/llama3.2:3b", LISTS, "box1/llama3.2:3b*"),
        ("gpu/phi", LISTS, "box2/phi:latest*"),
        ("small", LISTS, "box1/llama3.2:3b"),
        ("other", LISTS, "box2/phi:latest"),
        ("gpu/new", {}, "box1/new* box2/new*"),
        ("gpu/new", {"box1": ("m:latest",)}, "box2/new*"),
        ("gpu/new", LISTS, "box1/new* box2/new*"),  # the backends say that they do not have it
        ("mixed/gpt", LISTS, "cloud/gpt*"),
    ],
)
def test_the_targets_of_a_pinned_pool(model: str, models: dict[str, tuple[str, ...]], meaning: str) -> None:
    targets = resolve(model, "any", NAMED, Observations(models=models)).targets
    assert " ".join(f"{one.backend}/{one.model}" + ("*" if one.client_named else "") for one in targets) == meaning
    assert {one.pool for one in targets} == {"mixed" if model.startswith("mixed") else "gpu"}


def test_a_family_chooses_the_model_of_each_member() -> None:
    targets = resolve("gpu", "gemma", NAMED, Observations()).targets
    assert [(one.backend, one.model) for one in targets] == [("box1", "m"), ("box2", "seer")]


@pytest.mark.parametrize(
    "model, nearest",
    [("gpus", "gpu"), ("gup/phi", "gpu/phi:latest"), ("gpu/llama3.2:3b ", ""), ("mixd/gpt", "mixed/gpt")],
)
def test_a_misspelled_pool_is_named(model: str, nearest: str) -> None:
    assert resolve(model.strip(), "any", NAMED, Observations(models=LISTS)).nearest == nearest


@pytest.mark.parametrize(
    "pins, model, targets",
    [
        ("any", "mixed", "cloud box2"),
        ("local", "mixed", "box2"),
        ("local", "gpu/phi", "box2"),
        ("declared", "gpu", "box1 box2"),
        ("declared", "gpu/llama3.2:3b", "box1"),
        ("declared", "gpu/phi", ""),
        ("none", "gpu", ""),
    ],
)
def test_pins_bar_members(pins: str, model: str, targets: str) -> None:
    rules = dataclasses.replace(NAMED, pins=pins)
    allowed = resolve(model, "any", rules, Observations(models=LISTS, local=frozenset({"box1", "box2"}))).targets
    assert " ".join(one.backend for one in allowed) == targets


def test_pools_are_listed_behind_the_backends() -> None:
    names = [name.text for name in usable(NAMED, Observations(models=LISTS))]
    assert names[:9] == ["auto", "fast", "small", "other", "box1", "box2", "cloud", "gpu", "mixed"]


def test_a_pinned_pool_is_a_pin() -> None:
    decision = go(LIMITED, talk(ONE), seen(), model="gpu")
    assert (decision.route, decision.reason, order(decision)[0]) == ("pin", "pin", "box1")
    assert len(decision.targets) == 3


# --- the latency budget -------------------------------------------------------------------------

BUDGET = BOXES.replace("fallback: cloud", "fallback: cloud\n    latencyBudgetMs: 1000").replace(
    "model: gpt", "model: gpt, p50Ms: 300"
)
WITH_BUDGET = build.policy(BUDGET)


@pytest.mark.parametrize(
    "observations, first, reason, told",
    [
        (seen(), "box1", "route", ""),
        (
            seen(facts=cold("box1", size=3_000_000_000)), "box2 box3", "route",
            "goes before box1/m: it is expected to be faster",
        ),
        (
            seen(latency_ms={("box1", "m"): 2000.0, ("box2", "m"): 1500.0, ("box3", "m"): 900.0}), "box3", "route",
            "box3/m goes before box1/m",
        ),
        (
            seen(latency_ms={("box1", "m"): 2000.0, ("box2", "m"): 1500.0, ("box3", "m"): 1400.0}), "cloud", "spill",
            "box3/m is expected to take 1400 ms, over the budget of 1000 ms; cloud/gpt goes first at 300 ms",
        ),
        (
            seen(latency_ms={("box3", "m"): 3000.0}, queues=full("box1", "box2", waiting=2), hold_ms=HOLD), "cloud",
            "spill", "box3/m is expected to take 3000 ms",
        ),
    ],
)  # fmt: skip
def test_a_budget_compares_the_best_member(observations: Observations, first: str, reason: str, told: str) -> None:
    decision = go(WITH_BUDGET, talk(ONE), observations)
    assert decision.targets[0].backend in first.split()
    assert decision.reason == reason
    steps = " ".join(step.outcome for step in decision.trace if step.stage == "budget")
    assert told in steps
    assert decision.primary == (decision.targets[0] if reason == "route" else decision.targets[1]).backend

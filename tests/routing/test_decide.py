"""Decisions: a table (decisions.yaml), then what no table row shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ContextTooLong, NoEligibleBackend, RouterError, UnsupportedByModels
from app.routing.basis import _load_facts
from app.routing.decide import decide
from app.routing.locality import is_local, model_key
from app.types import (
    PINS,
    BackendConfig,
    Classification,
    Lane,
    ModelFacts,
    Observations,
    Policy,
    Queue,
    Route,
    Target,
    Timeouts,
)
from tests import build

TABLE = yaml.safe_load((Path(__file__).parent / "decisions.yaml").read_text(encoding="utf-8"))
POLICIES = {name: build.policy(text) for name, text in TABLE["policies"].items()}

NORMAL = {
    "task": "general",
    "complexity": "low",
    "sensitivity": "normal",
    "modality": "text",
    "family": "any",
    "tokens": 10,
}


def tags(**fields: Any) -> Classification:
    return Classification(**{**NORMAL, **fields})


def observations(
    latency: dict[str, float] | None = None,
    cooling: list[str] | None = None,
    local: list[str] | None = None,
    models: dict[str, list[str]] | None = None,
    hosts: dict[str, dict[str, str]] | None = None,
    facts: dict[str, dict[str, dict[str, Any]]] | None = None,
    load: dict[str, float] | None = None,
    hold: dict[str, float] | None = None,
    slow: dict[str, bool] | None = None,
    queues: dict[str, list[Any]] | None = None,
    busy: list[str] | None = None,
) -> Observations:
    return Observations(
        latency_ms=_by_pair(latency),
        load_ms=_by_pair(load),
        hold_ms=_by_pair(hold),
        slow={tuple(name.split("/", 2)): value for name, value in (slow or {}).items()},  # type: ignore[misc]
        queues={pair: Queue(places, tuple(waiting)) for pair, (places, waiting) in _by_pair(queues).items()},
        busy=frozenset(busy or ()),
        unhealthy=frozenset(cooling or ()),
        local=frozenset(local or ()),
        models={name: tuple(held) for name, held in (models or {}).items()},
        model_hosts=hosts or {},
        facts={
            name: {model_key(model): _load_facts(told) for model, told in models.items()}
            for name, models in (facts or {}).items()
        },
    )


def _by_pair(values: dict[str, Any] | None) -> dict[tuple[str, str], Any]:
    return {(name.partition("/")[0], name.partition("/")[2]): value for name, value in (values or {}).items()}


def shown(target: Target) -> str:
    return f"{target.backend}/{target.model}" + ("*" if target.client_named else "")


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["name"])
def test_a_decision(case: dict[str, Any]) -> None:
    known = {
        "name",
        "policy",
        "tags",
        "asked",
        "out",
        "body",
        "lane",
        "seen",
        "trial",
        "targets",
        "route",
        "pin_refused",
    }
    assert set(case) <= known | {"primary", "skipped", "says", "asks", "error", "why", "goes_on"}, (
        "a key of the table is misspelt"
    )
    body = {"messages": [{"role": "user", "content": "x"}], **case.get("body", {})}
    body |= {"max_tokens": case["out"]} if "out" in case else {}
    asked: list[str] = []

    def trial(target: Target) -> bool:
        asked.append(target.backend)
        return target.backend in case.get("trial", ())

    def decided() -> Any:
        keeper = Target(*case["goes_on"].split("/")) if "goes_on" in case else None
        lane = Lane(case.get("lane", "interactive"))
        request = build.request(body, model=case.get("asked", ""), continues=keeper, lane=lane)
        return decide(
            request,
            tags(**case.get("tags", {})),
            POLICIES[case["policy"]],
            observations(**case.get("seen", {})),
            trial,
        )

    if "error" in case:
        with pytest.raises(RouterError) as caught:
            decided()
        assert [caught.value.status, caught.value.code] == case["error"]
        return
    decision = decided()
    assert [shown(target) for target in decision.targets] == case["targets"]
    assert decision.route == case["route"]
    assert decision.private == (case.get("tags", {}).get("sensitivity") == "high")
    assert decision.pin_refused == case.get("pin_refused", False)
    if "why" in case:
        assert decision.reason == case["why"]
    if "primary" in case:
        assert decision.primary == case["primary"]
    if "skipped" in case:
        assert (shown(decision.skipped) if decision.skipped else None) == case["skipped"]
    if "asks" in case:
        assert asked == case["asks"]
    trace = [f"{step.stage}: {step.outcome}" for step in decision.trace]
    for line in case.get("says", ()):
        assert line in trace
        trace = trace[trace.index(line) + 1 :]


def test_the_trace_tells_all_in_order() -> None:
    """One request on which every stage acts."""
    decision = decide(
        build.request(model="gpt-9"),
        tags(task="web_search", family="llama", tokens=3000),
        build.policy("""\
backends:
  local: {type: ollama, model: m, p50Ms: 2000}
  cloud: {type: openai, model: c, p50Ms: 100}
  small: {type: openai, model: s, contextWindow: 2000}
  ill: {type: openai, model: i}
  empty: {type: ollama, endpoint: "http://127.0.0.1:1"}
routes:
  - match: {task: code}
    backend: cloud
  - match: {task: web_search}
    backend: local
    fallback: [ill, small, empty, cloud]
    latencyBudgetMs: 1000
    reason: search
  - default: local
"""),
        observations(local=["local"], cooling=["ill"]),
    )
    assert [(step.stage, step.outcome) for step in decision.trace] == [
        ("match", "model 'gpt-9' is not one of ours: routed as auto"),
        ("match", "task=code: no, task is web_search"),
        ("match", "task=web_search: yes (search)"),
        ("privacy", "not private: every target may be used"),
        ("fit", "dropped small/s: about 3000 tokens, its declared window holds 2000"),
        ("health", "the circuit of ill/i is open after failures: tried last"),
        ("budget", "local/m is expected to take 2000 ms, over the budget of 1000 ms; cloud/c goes first at 100 ms"),
        ("model", "cloud: c"),
        ("model", "local: m"),
        ("model", "empty: dropped, no model is known for it"),
        ("model", "ill: i"),
    ]
    assert [shown(target) for target in decision.targets] == ["cloud/c", "local/m", "ill/i"]


def test_a_detector_is_named_as_the_reason_for_privacy() -> None:
    request = build.request(sensitivity="high", sensitivity_reason="detector:email")
    decision = decide(request, tags(sensitivity="high"), POLICIES["home"], observations(local=["local"]))
    assert decision.trace[0].outcome == "private, because of detector:email"


WAY_OUT = "Give the policy a route whose backend is local, or name a local model."


@pytest.mark.parametrize(
    "fields, message",
    [
        (
            {},
            "The request is private (because of the header X-LLR-Sensitivity) and no local backend may serve it. "
            + WAY_OUT,
        ),
        (
            {"sensitivity_reason": "detector:email"},
            "The request is private (because of detector:email) and no local backend may serve it. " + WAY_OUT,
        ),
        (
            {"sensitivity_reason": "detector:email", "model": "Cloud"},
            "The request is private (because of detector:email), the model that it names, 'Cloud', is not local, "
            "and no route of the policy has a local backend. " + WAY_OUT,
        ),
        (
            {"sensitivity_reason": "detector:email", "continues": Target("cloud", "gpt")},
            "The request is private (because of detector:email), and the backend that keeps its conversation, 'cloud', "
            "is not local. Send the whole conversation as `input`, without `previous_response_id`.",
        ),
    ],
)
def test_nothing_local_is_said_with_its_cause_and_what_to_do(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(NoEligibleBackend) as caught:
        decide(build.request(**fields), tags(sensitivity="high"), POLICIES["home"], observations())
    assert caught.value.message == message
    assert caught.value.is_final


def test_too_long_is_said_with_numbers() -> None:
    request = build.request({"messages": [{"role": "user", "content": "x"}], "max_tokens": 30})
    with pytest.raises(ContextTooLong) as caught:
        decide(request, tags(tokens=40), POLICIES["clouds"], observations())
    assert caught.value.message == (
        "This request needs about 70 tokens (40 in and 30 out); "
        "the largest context window among its backends is 50 tokens."
    )
    assert (caught.value.param, caught.value.type) == ("messages", "invalid_request_error")


@pytest.mark.parametrize(
    "fields, room",
    [
        ({}, 0),
        ({"max_tokens": 7}, 7),
        ({"max_completion_tokens": 9, "max_tokens": 7}, 9),
        ({"max_completion_tokens": None, "max_tokens": 7}, 7),
        ({"max_tokens": -7}, 0),
        ({"max_tokens": True}, 0),
        ({"max_tokens": "7"}, 0),
        ({"max_tokens": 7.5}, 0),
    ],
)
def test_the_room_asked_for_the_answer(fields: dict[str, Any], room: int) -> None:
    request = build.request({"messages": [{"role": "user", "content": "x"}], **fields})
    with pytest.raises(ContextTooLong) as caught:
        decide(request, tags(tokens=1000), POLICIES["clouds"], observations())
    assert f"(1000 in and {room} out)" in caught.value.message


def test_a_long_or_odd_model_name_is_quoted_short() -> None:
    decision = decide(build.request(model="x\n" * 500), tags(), POLICIES["home"], observations())
    assert decision.trace[0].outcome == "model '" + "x\\n" * 40 + "' is not one of ours: routed as auto"


# --- what holds for every policy and request ----------------------------------------------------

NAMES = ("a", "b", "c", "d")


@st.composite
def _policies(draw: st.DrawFn) -> Policy:
    timeouts = Timeouts(1, 1, 1)
    backends = {
        name: BackendConfig(
            name=name,
            type="ollama",
            endpoint="http://x",
            timeouts=timeouts,
            models=draw(st.sampled_from([(), ("m",), ("m:cloud",), ("m", "n-cloud")])),
            families=draw(st.sampled_from([{}, {"llama": "l"}, {"llama": "l:cloud"}])),
            p50_ms=draw(st.sampled_from([None, 10, 1000])),
            context_windows=draw(st.sampled_from([{}, {"*": 100}])),
        )
        for name in NAMES
    }
    routes = []
    for number in range(draw(st.integers(0, 3))):
        routes.append(
            Route(
                label=f"r{number}",
                match={"task": frozenset({draw(st.sampled_from(["code", "general"]))})},
                backend=draw(st.sampled_from(NAMES)),
                fallbacks=tuple(draw(st.lists(st.sampled_from(NAMES), max_size=4))),
                latency_budget_ms=draw(st.sampled_from([None, 500.0])),
            )
        )
    last = Route(label="default", match={}, backend=draw(st.sampled_from(NAMES)), latency_budget_ms=500)
    return Policy(backends=backends, routes=(*routes, last))


def _facts() -> st.SearchStrategy[dict[str, dict[str, ModelFacts]]]:
    facts = st.builds(
        ModelFacts,
        loaded=st.sampled_from([None, True, False]),
        window=st.sampled_from([None, 50, 900, 5000]),
        refuses=st.booleans(),
        capabilities=st.sampled_from([None, *map(frozenset, ((), ("completion",), ("completion", "tools", "vision")))]),
        size_bytes=st.sampled_from([None, 10**9]),
    )
    return st.dictionaries(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(["m:latest", "l:latest"]), facts))


@given(
    rules=_policies(),
    task=st.sampled_from(["code", "general"]),
    family=st.sampled_from(["llama", "any"]),
    private=st.booleans(),
    tokens=st.sampled_from([1, 1000]),
    model=st.sampled_from(["", "auto", "a", "b/x", "b/x:cloud", "m", "M", "gpt-4o"]),
    pins=st.sampled_from(PINS),
    local=st.sets(st.sampled_from(NAMES)),
    cooling=st.sets(st.sampled_from(NAMES)),
    slow=st.sets(st.sampled_from(NAMES)),
    facts=_facts(),
    tools=st.booleans(),
    tries=st.booleans(),
)
def test_whatever_happens_privacy_and_order_hold(
    rules: Policy,
    task: str,
    family: str,
    private: bool,
    tokens: int,
    model: str,
    pins: str,
    local: set[str],
    cooling: set[str],
    slow: set[str],
    facts: dict[str, dict[str, ModelFacts]],
    tools: bool,
    tries: bool,
) -> None:
    seen = Observations(
        latency_ms={(name, held): 9000.0 for name in slow for held in ("m", "l")},
        unhealthy=frozenset(cooling),
        local=frozenset(local),
        facts=facts,
    )
    rules = dataclasses.replace(rules, pins=pins)
    asked = tags(task=task, family=family, tokens=tokens, sensitivity="high" if private else "normal")
    body = {"messages": [{"role": "user", "content": "x"}], **({"tools": [{"type": "function"}]} if tools else {})}
    try:
        decision = decide(build.request(body, model=model), asked, rules, seen, lambda _: tries)
    except (NoEligibleBackend, ContextTooLong, UnsupportedByModels):
        return
    assert decision.targets, "an empty list is an error, never a decision"
    assert len(set(decision.targets)) == len(decision.targets)
    assert all(target.model for target in decision.targets)
    assert decision.private == private
    if pins == "none" or (pins == "local" and decision.route == "pin"):
        assert decision.route != "pin" or all(is_local(target, seen) for target in decision.targets)
    if private:
        assert all(is_local(target, seen) for target in decision.targets)
        assert decision.skipped is None or is_local(decision.skipped, seen)
    assert decision.skipped is None or decision.skipped in decision.targets
    down = [target.backend in cooling for target in decision.targets]
    assert down == sorted(down), "the targets with an open circuit come last"


def test_what_every_model_lacks_is_said_by_model() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    body = {"messages": [{"role": "user", "content": "x"}], "tools": tools}
    pair = build.policy(
        "backends: {local: {type: ollama, model: m}, spare: {type: ollama, endpoint: 'http://localhost:2', model: s}}\n"
        "routes: [{default: local, fallback: spare}]\n"
    )
    seen = observations(facts={"local": {"m": {"can": ["completion"]}}, "spare": {"s": {"can": ["embedding"]}}})
    with pytest.raises(UnsupportedByModels) as caught:
        decide(build.request(body), tags(modality="image"), pair, seen)
    assert caught.value.message == (
        "No model that may serve this request has what it needs: local/m does not support tools and vision; "
        "spare/s does not support completion, so it cannot chat. "
        "Name another model, or add one to the route."
    )
    assert caught.value.refusal == "unsupported_by_models"
    assert caught.value.is_final

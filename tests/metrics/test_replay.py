"""Past requests put to a policy: through the database, as they are kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import ContextTooLong, NoEligibleBackend, UnsupportedByModels
from app.metrics import replay as replays
from app.metrics.replay import Replay, Verdict
from app.metrics.store import Store
from app.routing.basis import dump, load, storable_name
from app.routing.decide import decide
from app.storage.model import Metric
from app.types import CallRecord, Classification, Decision, Lane, ModelFacts, Observations, Policy, Queue, Target
from tests import build
from tests.routing.test_decide import _facts, _policies

POLICY = """\
backends:
  local:
    type: ollama
    models: [m]
    families: {qwen-coder: coder}
    p50Ms: 900
    contextWindow: 1000
    price: {input: 0, output: 0}
  cloud: {type: openai, model: gpt, p50Ms: 300, price: {input: 10, output: 20}}
  other: {type: openai, model: o, p50Ms: 600}
routes:
  - match: {sensitivity: high}
    backend: local
  - match: {complexity: high}
    backend: cloud
    fallback: [other, local]
  - default: local
    fallback: [cloud, other]
    latencyBudgetMs: 1000
"""
TAGS = Classification("general", "low", "normal", "text", "llama", 10, 0.2, 0.9)
LOCAL = frozenset({"local"})


class House:
    """Requests decided under a policy, and their rows."""

    def __init__(self, folder: Path, policy: str = POLICY) -> None:
        self.store = Store(str(folder / "metrics.db"))
        self.policy = build.policy(policy)
        self.number = 0

    def decide(self, model: str = "auto", seen: Observations | None = None, **tags: Any) -> Decision:
        seen = seen or Observations(local=LOCAL)
        asked = dataclasses.replace(TAGS, **tags)
        request = build.request(model=model, sensitivity=asked.sensitivity)
        return decide(request, asked, self.policy, seen, lambda _: True)

    def call(self, decision: Decision, **fields: Any) -> CallRecord:
        """The record of the first call."""
        self.number += 1
        first = decision.targets[0]
        known = {"request_id": f"r{self.number}", "route": decision.route, "basis": decision.basis}
        return build.record(**{**known, "backend": first.backend, "model": first.model, **TAGGED, **fields})

    def request(self, model: str = "auto", seen: Observations | None = None, **fields: Any) -> CallRecord:
        """One that was answered at once; `fields` are tags or of the record."""
        tags = {name: fields[name] for name in TAGGED if name in fields}
        call = self.call(self.decide(model, seen, **tags), **fields)
        self.store.write([call])
        return call

    def replay(self, policy: str | None = None, local: frozenset[str] = LOCAL) -> tuple[dict[str, Any], list[Verdict]]:
        asked = Replay(build.policy(policy) if policy else self.policy, local)
        verdicts = [verdict for _, rows in self.store.live_calls(0) for verdict in asked.take(rows)]
        verdicts += asked.finish()
        report = asked.report()
        assert report["requests"] == len(verdicts)
        return json.loads(json.dumps(report)), verdicts


TAGGED = dataclasses.asdict(TAGS)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def counts(report: dict[str, Any]) -> dict[str, int]:
    return {name: report[name] for name in ("unchanged", *replays.CHANGES) if report[name]}


# --- what is kept -------------------------------------------------------------------------------


def test_every_tag_has_a_column() -> None:
    columns = {field.column_name for field in Metric._meta.sorted_fields}
    assert {field.name for field in dataclasses.fields(Classification)} <= columns


@pytest.mark.parametrize(
    "model, known, private, kept",
    [
        ("", False, False, ""),
        ("AUTO", False, False, ""),
        ("gpt-4o", False, False, "gpt-4o"),
        ("org/name:7b@x", False, False, "org/name:7b@x"),
        ("gpt-4o", False, True, ""),
        ("my secret plan", False, False, ""),
        ("x" * 101, False, False, ""),
        ("my gpu", True, True, "my gpu"),
        ("local/" + "x" * 200, True, False, None),
        ("local/a\nb", True, False, None),
    ],
)
def test_which_names_are_kept(model: str, known: bool, private: bool, kept: str | None) -> None:
    assert storable_name(model, is_known=known, private=private) == kept


def test_what_is_kept_is_short_whatever_was_observed(house: House) -> None:
    many = tuple(f"model-{number}" for number in range(1000))
    seen = Observations(
        latency_ms={("local", model): 5.0 for model in (*many, "m")}, local=LOCAL, models={"local": many, "gone": many}
    )
    basis = house.decide("model-7", seen).basis
    assert basis is not None and basis.observations.models == {"local": ("model-7",)}
    assert basis.observations.latency_ms == {("local", "m"): 5.0, ("local", "model-7"): 5.0}
    assert len(dump(basis)) < 150


@pytest.mark.parametrize("asked", ["auto", "m", "local/m", "local/M:latest", "x", "local/x", "local/x@sha256:00"])
def test_what_is_kept_of_hosts_is_what_the_decision_could_depend_on(house: House, asked: str) -> None:
    many = {f"model-{number}:latest": "o:443" for number in range(1000)}
    seen = Observations(local=LOCAL, model_hosts={"local": {**many, "m:latest": "o:443", "x:latest": "o:443"}})
    basis = house.decide(asked, seen).basis
    assert basis is not None
    kept = basis.observations.model_hosts
    assert kept == {"local": dict.fromkeys(("m:latest", *(["x:latest"] if "x" in asked else [])), "o:443")}
    assert load("p", asked, dump(basis)).observations.model_hosts == kept


def test_what_is_kept_of_facts_and_queues_is_short(house: House) -> None:
    facts = ModelFacts(loaded=True, window=4096, capabilities=frozenset(("completion", "tools", "vision")))
    many = {f"model-{number}:latest": facts for number in range(1000)}
    cold = dataclasses.replace(facts, loaded=False, capabilities=frozenset(("completion",)))
    seen = Observations(
        local=LOCAL,
        facts={"local": {**many, "m:latest": facts, "coder:latest": cold}, "gone": many},
        load_ms={("local", model): 5800.0 for model in ("m", "coder", *many)},
        hold_ms={("local", model): 900.0 for model in ("m", "coder", *many)},
        slow={("default", "local", model): True for model in ("m", *many)},
        queues={("local", "*"): Queue(1, (2, 0, 0), "a text of a client:latest"), ("gone", "*"): Queue(1, (2, 0, 0))},
    )
    basis = house.decide(seen=seen).basis
    assert basis is not None
    assert basis.observations.facts == {"local": {"coder:latest": cold, "m:latest": ModelFacts(window=4096)}}, (
        "a loaded model that can do all is told by its window"
    )
    assert basis.observations.load_ms == {("local", "coder"): 5800.0}
    assert basis.moment is not None
    assert basis.moment.queues == {("local", "*"): Queue(1, (2, 0, 0))}
    assert basis.moment.hold_ms == {("local", model): 900.0 for model in ("m", "coder")}
    assert len(dump(basis)) < 500
    assert load("p", "auto", dump(basis)).moment == basis.moment
    assert "client" not in dump(basis)


def test_queues_do_not_change_what_is_shared(house: House) -> None:
    """Queues change with every request, and the rest of the observations does not."""
    first = Observations(local=LOCAL, latency_ms={("local", "m"): 5.0})
    then = dataclasses.replace(first, queues={("local", "*"): Queue(1, (2, 0, 0))}, model_hosts={})
    bases = [house.decide(seen=seen).basis for seen in (first, then)]
    assert bases[0].observations is bases[1].observations
    assert bases[0].moment is None and bases[1].moment.queues == then.queues


def test_a_basis_of_an_older_version_is_read() -> None:
    basis = load("p", "", '{"targets":["local/m"],"ms":{"local/m":5.0},"local":["local"]}')
    assert (basis.needs, basis.moment) == (frozenset({"completion"}), None)
    assert basis.observations == Observations(latency_ms={("local", "m"): 5.0}, local=LOCAL)


def test_a_request_whose_model_was_handed_on_left_and_would_come_home(house: House) -> None:
    handed_on = Observations(local=LOCAL, model_hosts={"local": {"m:latest": "ollama.com:443"}})
    house.request(seen=handed_on)
    report, _ = house.replay(POLICY.replace("models: [m]", "models: [own]"))
    assert report["privacy"] == {"leaves": 0, "comes_home": 1, "private_refused": 0}


_PAIRS = st.tuples(st.sampled_from("abcd"), st.sampled_from(["m", "l", "seen", "x"]))


@st.composite
def _moments(draw: st.DrawFn) -> dict[str, Any]:
    """Loads, flags, queues and busy servers, as members of Observations."""
    waiting = st.tuples(*[st.integers(0, 3)] * 3)
    queue = st.builds(
        Queue,
        st.integers(1, 4),
        waiting,
        st.sampled_from(["", "m:latest", "l:latest", "x:latest", "a text of a client:latest"]),
    )
    return {
        "load_ms": draw(st.dictionaries(_PAIRS, st.floats(1, 9e3))),
        "hold_ms": draw(st.dictionaries(_PAIRS, st.floats(1, 9e3))),
        "slow": {(route, *pair): draw(st.booleans()) for route in ("r0", "default") for pair in draw(st.sets(_PAIRS))},
        "queues": draw(st.dictionaries(st.tuples(st.sampled_from("abcde"), st.just("*")), queue)),
        "busy": draw(st.frozensets(st.sampled_from("abcd"))),
    }


# --- the same policy ----------------------------------------------------------------------------


@given(
    rules=_policies(),
    task=st.sampled_from(["code", "general"]),
    family=st.sampled_from(["llama", "any"]),
    private=st.booleans(),
    tokens=st.sampled_from([1, 1000]),
    out=st.sampled_from([0, 99]),
    model=st.sampled_from(["", "auto", "a", "b/x", "b/x:cloud", "m", "seen", "gpt-4o", "no name"]),
    local=st.sets(st.sampled_from("abcd")),
    cooling=st.sets(st.sampled_from("abcd")),
    medians=st.dictionaries(st.tuples(st.sampled_from("abcd"), st.sampled_from(["m", "l", "seen"])), st.floats(1, 9e3)),
    held=st.dictionaries(st.sampled_from("abcd"), st.sampled_from([(), ("seen",), ("m", "seen"), ("l", "x", "seen")])),
    hosts=st.dictionaries(
        st.sampled_from("abcd"),
        st.dictionaries(
            st.sampled_from(["m:latest", "l:latest", "x:latest", "seen:latest"]), st.sampled_from(["", "o:443"])
        ),
    ),
    facts=_facts(),
    moment=_moments(),
    lane=st.sampled_from(list(Lane)),
    longest=st.sampled_from([None, 500.0]),
    tools=st.booleans(),
    modality=st.sampled_from(["text", "image"]),
    tries=st.booleans(),
)
def test_whatever_was_decided_is_decided_again(
    rules: Policy,
    task: str,
    family: str,
    private: bool,
    tokens: int,
    out: int,
    model: str,
    local: set[str],
    cooling: set[str],
    medians: dict[tuple[str, str], float],
    held: dict[str, tuple[str, ...]],
    hosts: dict[str, dict[str, str]],
    facts: dict[str, dict[str, ModelFacts]],
    moment: dict[str, Any],
    lane: Lane,
    longest: float | None,
    tools: bool,
    modality: str,
    tries: bool,
) -> None:
    """From what a row keeps alone."""
    seen = Observations(
        latency_ms=medians,
        unhealthy=frozenset(cooling),
        local=frozenset(local),
        models=held,
        model_hosts=hosts,
        facts=facts,
        **moment,
    )
    waiting = {name: dataclasses.replace(one, max_wait_ms=longest) for name, one in rules.backends.items()}
    rules = dataclasses.replace(rules, backends=waiting)
    sensitivity = "high" if private else "normal"
    tags = dataclasses.replace(
        TAGS, task=task, family=family, tokens=tokens, sensitivity=sensitivity, modality=modality
    )
    body: dict[str, Any] = {"messages": [{"role": "user", "content": "x"}], "max_tokens": out, "model": model}
    request = build.request(body | ({"tools": [{"type": "function"}]} if tools else {}))
    request = dataclasses.replace(request, sensitivity=sensitivity, lane=lane)
    try:
        decision = decide(request, tags, rules, seen, lambda _: tries)
    except (NoEligibleBackend, ContextTooLong, UnsupportedByModels):
        return
    assert decision.basis is not None
    kept = load(decision.basis.policy, decision.basis.asked_model, dump(decision.basis))
    plain = tuple(Target(target.backend, target.model) for target in decision.targets)
    assert kept == dataclasses.replace(decision.basis, targets=plain)
    first = build.record(route=decision.route, lane=lane, basis=decision.basis, **dataclasses.asdict(tags))
    row = Row(first, kept.policy, kept.asked_model, dump(kept))
    (verdict,) = Replay(rules, frozenset()).take([row])
    assert verdict.change == replays.Change.UNCHANGED


class Row:
    """A record as its row reads."""

    def __init__(self, call: CallRecord, policy: str, asked_model: str | None, basis: str) -> None:
        self.__dict__ |= vars(build.flat(call))
        self.ok, self.ts, self.tags = True, call.times.ts_ms, call.tags
        self.policy, self.asked_model, self.basis = policy, asked_model, basis


def test_an_unchanged_policy_keeps_the_tags_and_places_of_the_time(house: House) -> None:
    """Even where the classifier or the network would say something else now."""
    house.request(difficulty=0.99, complexity="low")
    house.request(sensitivity="high", seen=Observations(local=frozenset({"local", "other"})))
    report, _ = house.replay(local=frozenset())
    assert counts(report) == {"unchanged": 2}


# --- another policy -----------------------------------------------------------------------------


def test_each_kind_of_change(house: House) -> None:
    house.request()
    house.request(complexity="high", difficulty=0.9)
    house.request(sensitivity="high")
    house.request(sensitivity="high", tokens=500)
    new = POLICY.replace("fallback: [other, local]", "fallback: [local]")  # order
    new = new.replace("match: {sensitivity: high}", "match: {sensitivity: high, tokens: {max: 100}}")  # rule
    new = new.replace("default: local\n    fallback: [cloud, other]", "default: cloud")  # elsewhere
    report, verdicts = house.replay(new)
    assert [verdict.change for verdict in verdicts] == ["elsewhere", "order", "rule", "refused"]
    assert [verdict.route for verdict in verdicts][2:] == ["sensitivity=high,tokens=..100", "no_eligible_backend"]
    assert (report["changed"], report["unchanged"]) == (4, 0)
    assert report["privacy"] == {"leaves": 1, "comes_home": 0, "private_refused": 1}
    assert {tuple(change["examples"]) for change in report["changes"]} == {("r1",), ("r2",), ("r3",), ("r4",)}


def test_cost_and_latency_of_what_goes_elsewhere(house: House) -> None:
    answered = {"input_tokens": 1000, "output_tokens": 500, "cost_usd": 0.0}
    house.request(**answered, latency_ms=1000)
    house.request(**answered, latency_ms=2000, stream=True, ttfb_ms=500)
    house.request(cost_usd=0.0)  # its tokens were not told
    report, _ = house.replay(POLICY.replace("default: local\n    fallback: [cloud, other]", "default: cloud"))
    assert report["cost_usd"] == {"then": 0, "then_known": 3, "now": 0.04, "now_known": 2}
    assert report["latency_ms"] == {"then": round(1600 / 3, 1), "now": 300, "known": 3}
    (change,) = report["changes"]
    assert (change["requests"], change["target_then"], change["target_now"]) == (3, "local/m", "cloud/gpt")
    assert change["cost_usd"] == report["cost_usd"]
    report, _ = house.replay(POLICY.replace("default: local\n    fallback: [cloud, other]", "default: other"))
    assert report["cost_usd"] == {"then": 0, "then_known": 3, "now": None, "now_known": 0}


def test_expected_latency_is_the_median_of_the_time(house: House) -> None:
    house.request(seen=Observations(local=LOCAL, latency_ms={("cloud", "gpt"): 50.0, ("local", "m"): 800.0}))
    report, _ = house.replay(POLICY.replace("latencyBudgetMs: 1000", "latencyBudgetMs: 700"))
    assert report["elsewhere"] == 1
    assert report["latency_ms"]["now"] == 50


def test_expected_latency_has_the_wait_and_the_load_of_the_time(house: House) -> None:
    seen = Observations(
        local=LOCAL,
        facts={"local": {"m:latest": ModelFacts(loaded=False)}},
        load_ms={("local", "m"): 5000.0},
        hold_ms={("local", "m"): 600.0},
        queues={("local", "*"): Queue(1, (0, 2, 0))},
    )
    house.request(complexity="high", difficulty=0.9, seen=seen, lane="agent")
    report, _ = house.replay(POLICY.replace("backend: cloud", "backend: local").replace("[other, local]", "[other]"))
    assert report["latency_ms"]["now"] == 900 + 5000 + 3 * 600


def test_complexity_is_cut_anew(house: House) -> None:
    house.request(difficulty=0.6, complexity="medium")
    house.request(difficulty=0.5, complexity="medium")
    report, _ = house.replay(POLICY + "complexity: {high: 0.55}\n")
    assert counts(report) == {"unchanged": 1, "elsewhere": 1}


def test_what_is_local_is_asked_anew(house: House) -> None:
    house.request(sensitivity="high")
    assert counts(house.replay(POLICY + "# new\n")[0]) == {"unchanged": 1}
    assert counts(house.replay(POLICY + "# new\n", local=frozenset())[0]) == {"refused": 1}


def test_pins(house: House) -> None:
    for model in ("cloud", "local/odd", "coder", "gpt-4o"):
        house.request(model)
    assert counts(house.replay()[0]) == {"unchanged": 4}
    report, verdicts = house.replay(POLICY.replace("model: gpt,", "models: [gpt, gpt-4o],"))
    assert counts(report) == {"unchanged": 3, "elsewhere": 1}
    assert (verdicts[3].route, verdicts[3].target) == ("pin", Target("cloud", "gpt-4o", client_named=True))


def test_a_conversation_that_a_backend_keeps(house: House) -> None:
    request = dataclasses.replace(build.request(), continues=Target("cloud", "gpt"))
    decision = decide(request, TAGS, house.policy, Observations(local=LOCAL))
    house.store.write([house.call(decision)])
    assert counts(house.replay()[0]) == {"unchanged": 1}
    report, verdicts = house.replay(POLICY.replace("model: gpt,", "model: gpt, responses: chat,"))
    assert (counts(report), verdicts[0].route) == ({"refused": 1}, "previous_response_not_found")


# --- rows ---------------------------------------------------------------------------------------


def failed_over(house: House, **fields: Any) -> Iterable[CallRecord]:
    first = house.call(house.decide(), outcome="error", error="http_503")
    yield first
    second = {"backend": "cloud", "model": "gpt", "basis": None, "fallback_for": "local", "reason": "fallback"}
    yield build.changed(first, outcome="ok", error=None, **{**second, **fields})


def test_a_fallback_belongs_to_its_request(house: House) -> None:
    one, other = (list(failed_over(house, input_tokens=100, output_tokens=0, cost_usd=0.001)) for _ in range(2))
    house.store.write([one[0], other[0], other[1], one[1]])
    assert counts(house.replay()[0]) == {"unchanged": 2}
    report, _ = house.replay(POLICY.replace("default: local\n    fallback: [cloud, other]", "default: cloud"))
    assert counts(report) == {"elsewhere": 2}
    assert report["cost_usd"] == {"then": 0.002, "then_known": 2, "now": 0.002, "now_known": 2}


def test_who_was_never_answered_is_judged_at_the_end(house: House) -> None:
    house.store.write([house.call(house.decide(), outcome="error", error="http_503")])
    house.store.write([house.call(house.decide(), outcome="cancelled")])
    report, verdicts = house.replay()
    assert counts(report) == {"unchanged": 2}
    assert [verdict.past.answer for verdict in verdicts] == [None, None]


def test_calls_that_are_no_requests_and_rows_of_old_are_left_out(house: House) -> None:
    house.request()
    house.request(kind="shadow")
    old = {"sensitivity": None, "tokens": None, "difficulty": None, "confidence": None, "basis": None}
    house.store.write([house.call(house.decide(), **old)])
    house.request("local/" + "x" * 200)
    report, _ = house.replay()
    assert (report["requests"], report["not_replayed"]) == (1, 2)


def test_memory_does_not_grow_with_rows(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replays, "_MOST_WAITING", 3)
    monkeypatch.setattr(replays, "_MOST_GROUPS", 2)
    for number in range(8):
        house.store.write([house.call(house.decide(f"local/m{number}"), outcome="error", error="http_500")])
    cloudless = "backends: {cloud: {type: openai, model: gpt}}\nroutes: [{default: cloud}]\n"
    asked = Replay(build.policy(cloudless), frozenset())
    rows = [row for _, page in house.store.live_calls(0) for row in page]
    assert len(list(asked.take(rows))) == 5 and len(list(asked.finish())) == 3
    assert [(change["target_then"], change["requests"]) for change in asked.report()["changes"]] == [
        ("…", 6), ("local/m0", 1), ("local/m1", 1)
    ]  # fmt: skip


def test_rows_come_in_pages_and_those_of_later_are_not_waited_for(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.metrics.queries._PAGE_ROWS", 2)
    decision = house.decide()
    house.store.write([house.call(decision, ts_ms=1000 + number) for number in range(7)])
    pages = house.store.live_calls(1002)
    seen = [next(pages)]
    house.store.write([house.call(decision, ts_ms=5000)])
    seen += pages
    assert [[row.ts for row in rows] for _, rows in seen] == [[1002, 1003], [1004, 1005], [1006]]
    assert [share for share, _ in seen] == [0.4, 0.8, 1.0]
    assert list(house.store.live_calls(9000)) == []

"""`flask doctor` on the models of the servers: windows, memory, loads, queues and abilities, each with its fix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.request import Request, urlopen

import pytest
import yaml
from click.testing import Result

from app.cli import checks
from app.cli.checks import Discovery, Facts, Finding
from app.cli.checks.loads import Load, loads
from app.metrics.queries import CallGroup, TimedPart
from app.settings import Settings
from app.types import ModelFacts, Residency, Timings
from tests import build
from tests.e2e.server import Router
from tests.fakes.ollama import Model, Ollama
from tests.fakes.replies import reply as reply_of
from tests.fakes.upstream import Upstream

MINUTE = 60_000
NOW = 1_700_000_000_000
POLICY: Mapping[str, Any] = {
    "backends": {"local": {"type": "ollama", "model": "a:8b", "price": {"input": 0, "output": 0}}},
    "routes": [{"default": "local"}],
}


def with_backend(**more: Any) -> dict[str, Any]:
    return {**POLICY, "backends": {"local": {**POLICY["backends"]["local"], **more}}}


def reply(**told: Any) -> Discovery:
    """What a good Ollama tells about two models."""
    facts = ModelFacts(
        loaded=True, window=32768, refuses=True, capabilities=frozenset({"completion", "tools"}), trained=131072
    )
    known: dict[str, Any] = {
        "models": ("a:8b", "b:7b"),
        "windows": {"a:8b": 32768, "b:7b": 32768},
        "facts": {"a:8b": facts, "b:7b": facts},
        "residency": {"a:8b": Residency(size_bytes=5 * 10**9, gpu_bytes=5 * 10**9, window=32768)},
        "version": "0.33.0",
        "speaks_native": True,
    }
    return Discovery(**{**known, **told})


def findings(discovery: Discovery, policy: Mapping[str, Any] = POLICY, **facts: Any) -> list[Finding]:
    made = build.policy(yaml.safe_dump(dict(policy)))
    return checks.findings(Facts(settings=Settings(), policy=made, discoveries={"local": discovery}, **facts))


def window(tokens: int | None, trained: int | None = 131072, *, refuses: bool = True) -> dict[str, Any]:
    """What a server tells that runs `a:8b` with this window."""
    return {
        "windows": {"a:8b": tokens} if tokens else {},
        "facts": {"a:8b": ModelFacts(loaded=True, window=tokens, trained=trained, refuses=refuses)},
        "speaks_native": refuses,
    }


# --- what the server tells now ------------------------------------------------------------------

PARTLY = Residency(size_bytes=10 * 10**9, gpu_bytes=62 * 10**8)
ON_CPU = Residency(size_bytes=10 * 10**9, gpu_bytes=0)
IMAGES = [{"match": {"modality": "image"}, "backend": "local"}, {"default": "local"}]

WRONG: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any], str, str, str]] = {
    # name: (reply, keys of the backend, facts, check, what, fix)
    "the 4k window": (
        window(4096),
        {},
        {},
        "context",
        "a:8b runs with a context of 4096 tokens, although it was trained for 131072",
        "write `numCtx: 16384` at this backend",
    ),
    "the 4k window of an old Ollama": (
        window(4096, refuses=False),
        {"api": "openai"},
        {},
        "context",
        "although it was trained for 131072",
        "start Ollama with OLLAMA_CONTEXT_LENGTH=16384",
    ),
    "a window of a model whose trained length is not told": (
        window(2048, None),
        {},
        {},
        "context",
        "a:8b runs with a context of 2048 tokens, which is small",
        "numCtx",
    ),
    "a policy that says more than the server": (
        window(8192),
        {"contextWindow": 32768},
        {},
        "context",
        "`contextWindow` says 32768 tokens for a:8b, but the server runs it with 8192: it refuses longer prompts",
        "or write `contextWindow: 8192`",
    ),
    "the same where the server cuts": (
        window(8192, refuses=False),
        {"contextWindow": 32768, "api": "openai"},
        {},
        "context",
        "it cuts longer prompts",
        "or write `contextWindow: 8192`",
    ),
    "an unknown window where the server cuts": (
        window(None, refuses=False),
        {"api": "openai"},
        {},
        "context",
        "the context window of a:8b is unknown",
        "OLLAMA_CONTEXT_LENGTH=16384",
    ),
    "an Ollama that is too old": (
        {"version": "0.11.4", "speaks_native": False},
        {"api": "native"},
        {},
        "version",
        "its version 0.11.4 is too old for `api: native`",
        "update Ollama",
    ),
    "a model to preload that is not there": (
        {},
        {"preload": ["a:8b", "gone:7b"]},
        {},
        "preload",
        "`preload` names gone:7b, which its server does not have",
        "`ollama pull gone:7b`, or remove it from `preload`",
    ),
    "a part on the CPU": (
        {"residency": {"a:8b": PARTLY}},
        {},
        {},
        "offload",
        "62% of a:8b is on the GPU and the rest runs on the CPU",
        "a smaller window (`numCtx`)",
    ),
    "all on the CPU beside a GPU": (
        {"residency": {"a:8b": ON_CPU}},
        {},
        {"has_gpu": True},
        "offload",
        "a:8b runs on the CPU",
        "install the driver",
    ),
    "all on the CPU of another machine": (
        {"residency": {"a:8b": ON_CPU}},
        {"endpoint": "http://192.168.1.5:11434"},
        {},
        "offload",
        "a:8b runs on the CPU",
        "install the driver",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_problem_of_the_models_is_named_with_its_fix(name: str) -> None:
    told, keys, facts, check, what, fix = WRONG[name]
    (one,) = findings(reply(**told), with_backend(**keys), **facts)
    assert (one.check, one.where) == (check, "local")
    assert what in one.what and fix in one.fix, one


RIGHT: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "all is well": ({}, {}, {}),
    "a model that was trained for so few": (window(4096, 4096), {}, {}),
    "a window that is unknown, of a server that refuses": (window(None), {}, {}),
    "a policy that says less than the server": (window(32768), {"contextWindow": 16384}, {}),
    "an old Ollama whose operator knows": ({"version": "0.11.4", "speaks_native": False}, {"api": "openai"}, {}),
    "an Ollama that does not tell its version": ({"version": "", "speaks_native": False}, {"api": "native"}, {}),
    "a machine without a GPU": ({"residency": {"a:8b": ON_CPU}}, {}, {}),
    "a share that is not told": ({"residency": {"a:8b": Residency(size_bytes=5)}}, {}, {}),
    "images for a model that reads them": (
        {"facts": {"a:8b": ModelFacts(window=32768, capabilities=frozenset({"vision"}))}},
        {},
        {},
    ),
    "models to preload, by any of their names": (
        {"models": ("a:8b", "b:latest"), "facts": {}},
        {"preload": ["a:8b", "b"]},
        {},
    ),
    "images for a model of which nothing is known": ({"facts": {}}, {}, {}),
}


@pytest.mark.parametrize("name", RIGHT)
def test_models_in_order_are_left_in_peace(name: str) -> None:
    told, keys, facts = RIGHT[name]
    policy = {**with_backend(**keys), "routes": IMAGES if "images" in name else POLICY["routes"]}
    assert not findings(reply(**told), policy, **facts)


def test_a_route_for_images_and_a_model_that_reads_none() -> None:
    seeing = ModelFacts(window=32768, capabilities=frozenset({"completion", "vision"}))
    blind = reply().facts["a:8b"]
    (one,) = findings(reply(facts={"a:8b": blind, "b:7b": seeing}), {**POLICY, "routes": IMAGES})
    assert (one.check, one.where) == ("ability", "modality=image")
    assert "a:8b of local reads none" in one.what and one.fix.endswith("local has b:7b")
    (one,) = findings(reply(), {**POLICY, "routes": IMAGES})
    assert "no server has one" in one.fix


def test_a_route_for_images_and_a_family_that_reads_them() -> None:
    seeing = ModelFacts(window=32768, capabilities=frozenset({"completion", "vision"}))
    told = reply(facts={"a:8b": reply().facts["a:8b"], "b:7b": seeing})
    policy = with_backend(families={"gemma": "b:7b"})
    assert not findings(told, {**policy, "routes": IMAGES})


@pytest.mark.parametrize("number, is_found", [(2, False), (3, True)])
def test_tools_are_asked_of_models_without(number: int, is_found: bool) -> None:
    group = CallGroup("local", "default", "route", "error", "unsupported", False, None, number, NOW, NOW)
    others = group._replace(outcome="ok", error=None, calls=20)
    found = findings(reply(), calls=[group, others])
    assert [(one.check, one.where) for one in found] == [("ability", "local")] * is_found
    assert not is_found or ("refused 3 calls" in found[0].what and "local has a:8b" in found[0].fix)


# --- loads --------------------------------------------------------------------------------------


def call(at_min: float, model: str, load_ms: int | None = None, **more: Any) -> TimedPart:
    """A call that began at that minute and took a second beside the load."""
    latency_ms = 1000 + (load_ms or 0) + (more.get("wait_ms") or 0)
    ts = NOW + round(at_min * MINUTE) + latency_ms
    known = {"backend": "local", "wait_ms": None, "load_ms": load_ms}
    return TimedPart(**{**known, "ts": ts, "model": model, "latency_ms": latency_ms, **more})


def test_loads_are_found_in_the_calls() -> None:
    calls = [
        call(0, "a", 5000),
        call(1, "a"),
        call(2, "b", 6000),
        call(3, "a", 5000),
        call(3.01, "a", 4400),  # it waited for the same load
        call(13, "a", 5000, wait_ms=2000),
        call(14, "c", 100, backend="other"),
    ]
    assert sorted(loads(reversed(calls)), key=lambda load: load.backend) == [
        Load("local", "a", 5000),
        Load("local", "b", 6000),
        Load("local", "a", 5000, 2 * MINUTE - 1000, frozenset({"b"})),
        Load("local", "a", 5000, 10 * MINUTE - 4000, frozenset()),
        Load("other", "c", 100),
    ]


def test_a_thousand_calls_that_waited_for_one_load_are_one_load() -> None:
    calls = [call(0, "a", 9000)] + [call(n / 10_000, "a", 9000 - n * 6) for n in range(1, 1000)]
    assert [load.took_ms for load in loads(calls)] == [9000]


IDLE = [call(at, "a:8b", 5800) for at in (0, 10, 20, 30)]
TURNS = [call(minute, ("a:8b", "b:7b")[minute % 2], 5800) for minute in range(8)]
STOLEN = [call(minute, "a:8b", 5800) for minute in range(5)]
HOURS: dict[str, tuple[list[TimedPart], dict[str, Any], list[tuple[str, str, str]]]] = {
    # name: (calls, keys of the backend, [(check, what, fix)])
    "it is called too seldom": (
        IDLE,
        {},
        [
            (
                "unloading",
                "a:8b was unloaded before it was called again, 3 times in the last hour: it stays loaded for 5 min, "
                "and a load takes 5.8 s",
                "write `keepAlive: 10m` or longer (-1: without end) at this backend, and `preload: [a:8b]`",
            )
        ],
    ),
    "it is called too seldom for its keepAlive": (
        IDLE,
        {"keepAlive": "8m", "api": "native"},
        [("unloading", "it stays loaded for 8 min", "keepAlive: 10m")],
    ),
    "it stays, so another client removes it": (
        IDLE,
        {"keepAlive": -1, "api": "native"},
        [("switching", "other clients remove a:8b", "`preload: [a:8b]`")],
    ),
    "it is preloaded, so another client removes it": (
        IDLE,
        {"preload": ["a:8b"]},
        [("switching", "other clients remove a:8b", "the router too")],
    ),
    "two families take turns": (
        TURNS,
        {"families": {"qwen-coder": "b:7b"}},
        [
            (
                "switching",
                "a:8b and b:7b take turns in its memory: 6 loads in the last hour took 34.8 s, in the median 5.8 s",
                "use one model for all families",
            )
        ],
    ),
    "another client removes it": (
        STOLEN,
        {},
        [("switching", "other clients remove a:8b: 4 loads in the last hour took 23.2 s", "the router too")],
    ),
    "one load in the morning": ([call(0, "a:8b", 5800), *[call(n, "a:8b") for n in range(1, 9)]], {}, []),
    "two turns": (TURNS[:4], {}, []),
    "both models stay loaded": ([call(minute, ("a:8b", "b:7b")[minute % 2]) for minute in range(50)], {}, []),
    "loads of a backend that is gone": ([one._replace(backend="gone") for one in TURNS], {}, []),
    "a quarter waits": (
        [call(n, "a:8b", wait_ms=2400 if n % 4 == 0 else None) for n in range(12)],
        {"maxConcurrency": 1},
        [
            (
                "queue",
                "3 of 12 calls (25%) of the last hour waited for a place under `maxConcurrency`, in the median 2.4 s",
                "OLLAMA_NUM_PARALLEL",
            )
        ],
    ),
    "waits that are not felt": ([call(n, "a:8b", wait_ms=300) for n in range(12)], {}, []),
    "a few of many wait": ([call(n, "a:8b", wait_ms=2400 if n % 5 == 0 else None) for n in range(50)], {}, []),
}


@pytest.mark.parametrize("name", HOURS)
def test_an_hour_of_loads_and_waits(name: str) -> None:
    timed, keys, wanted = HOURS[name]
    found = findings(reply(), with_backend(**keys), timed=timed)
    assert [(one.check, one.where) for one in found] == [(check, "local") for check, _, _ in wanted]
    for one, (_, what, fix) in zip(found, wanted, strict=True):
        assert what in one.what and fix in one.fix, one


# --- budgets and cold calls ---------------------------------------------------------------------

BUDGET = {
    **POLICY,
    "routes": [{"match": {"task": "code"}, "backend": "local", "latencyBudgetMs": 1000}, {"default": "local"}],
}
SPILLED = CallGroup("cloud", "task=code", "spill", "ok", None, False, None, 9, NOW, NOW)


@pytest.mark.parametrize(
    "warm_ms, fix, is_raised",
    [(180.0, "keep it loaded (`keepAlive`, `preload`)", False), (None, "raise the route's `latencyBudgetMs`", True)],
)
def test_a_budget_that_only_loads_exceed_is_no_reason_to_raise_it(
    warm_ms: float | None, fix: str, is_raised: bool
) -> None:
    timings = Timings(warm_ms={("local", "a:8b"): warm_ms} if warm_ms else {}, load_ms={("local", "a:8b"): 5800.0})
    (one,) = findings(reply(), BUDGET, calls=[SPILLED], timings=timings)
    assert (one.check, one.where) == ("spill", "task=code")
    assert fix in one.fix and ("raise the route's" in one.fix) is is_raised


def test_a_budget_below_the_warm_median_is_named() -> None:
    timings = Timings(warm_ms={("local", "a:8b"): 1800.0}, load_ms={("local", "a:8b"): 5800.0})
    (one,) = findings(reply(), BUDGET, timings=timings)
    assert one.check == "budget" and "is expected to take 1800 ms" in one.what and "7600" not in one.what


# --- through the command, with an Ollama that follows a script ----------------------------------


def test_doctor_asks_the_server(examine: Callable[..., Result]) -> None:
    models = [
        Model("a:8b", on_gpu=0.62),
        Model("b:7b", capabilities=("completion",), num_ctx=16384),
        Model("c:1b", trained=4096),
    ]
    with Ollama(models) as server:
        for name in ("a:8b", "c:1b"):
            server.most_loaded = 2
            urlopen(Request(f"{server.url}/api/generate", data=json.dumps({"model": name}).encode())).read()
        policy = with_backend(
            endpoint=server.url, families={"gemma": "b:7b", "llama": "c:1b"}, contextWindow={"b:7b": 32768}
        )
        report = json.loads(examine({**policy, "routes": IMAGES}, "--json").stdout)
        assert server.loads == ["a:8b", "c:1b"], "to ask loads nothing"
        server.version = "0.12.5"
        old = json.loads(examine({**policy, "routes": IMAGES}, "--json").stdout)
    assert [(one["check"], one["where"], one["what"].partition(",")[0]) for one in report["findings"]] == [
        ("context", "local", "a:8b runs with a context of 4096 tokens"),
        ("context", "local", "`contextWindow` says 32768 tokens for b:7b"),
        ("offload", "local", "62% of a:8b is on the GPU and the rest runs on the CPU"),
        ("ability", "modality=image", "the route is for images"),
    ]
    assert "it refuses longer prompts" in report["findings"][1]["what"]
    assert [one["check"] for one in old["findings"]] == ["context", "context", "version", "offload", "ability"]
    assert "it cuts longer prompts" in old["findings"][1]["what"]


@pytest.mark.parametrize("window, names", [(4096, ["context"]), (16384, [])])
def test_the_window_of_lm_studio(
    examine: Callable[..., Result], upstream: Callable[..., Upstream], window: int, names: list[str]
) -> None:
    studio = upstream(models=["qwen3-4b"])
    told = {
        "id": "qwen3-4b",
        "type": "llm",
        "state": "loaded",
        "max_context_length": 32768,
        "loaded_context_length": window,
    }
    studio.script(reply_of(200, {"data": [told]}), path="/api/v0/models", repeat=True)
    config = {"type": "openai", "endpoint": f"{studio.url}/v1", "model": "qwen3-4b", "local": True, "apiKeyEnv": ""}
    policy = {"backends": {"studio": config}, "routes": [{"default": "studio"}]}
    report = json.loads(examine(policy, "--json").stdout)
    assert [one["check"] for one in report["findings"]] == names


@pytest.mark.e2e
def test_two_families_in_memory_for_one(examine: Callable[..., Result], router: Callable[..., Router]) -> None:
    """Through a real router, whose rows tell the loads."""
    with Ollama([Model("a:8b", load_s=0.2), Model("b:7b", load_s=0.2)], window=32768) as server:
        running = router(with_backend(endpoint=server.url, families={"qwen-coder": "b:7b"}), workers=1)
        for number in range(8):
            assert running.chat("hello", model=("a:8b", "b:7b")[number % 2]).status == 200
        running.wait_rows(8)
        text = running.policy_file.read_text("utf-8")
        done = examine(text, "--json", LLR_DB=str(running.database), LLR_PORT=str(running.port))
    (one,) = json.loads(done.stdout)["findings"]
    assert (one["check"], one["where"]) == ("switching", "local")
    assert "a:8b and b:7b take turns in its memory: 6 loads in the last hour took" in one["what"]

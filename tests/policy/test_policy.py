"""Policies that load, and every mistake with the exact lines a person reads."""

from __future__ import annotations

import dataclasses
import io
import os
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import yaml

from app import policy
from app.backends import BACKEND_TYPES
from app.errors import PolicyError
from app.policy.check import main, resolver
from app.policy.schema import MatchSchema
from app.settings import Settings
from app.types import (
    ABTest,
    BackendConfig,
    Classification,
    Cuts,
    Price,
    Range,
    ResponsesRules,
    Route,
    SensitivityRules,
    Timeouts,
)

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TYPES = ", ".join(BACKEND_TYPES)
MISTAKES = yaml.safe_load((HERE / "mistakes.yaml").read_text(encoding="utf-8"))

ORIGINAL = """\
backends:
  local:
    type: ollama
    endpoint: http://localhost:11434
    families:
      qwen-coder: "qwen2.5-coder:7b"
      gemma: "gemma3:12b"
      llama: "llama4:16x17b"
    p50Ms: 1800
  sarmalink:
    type: sarmalink
    endpoint: "https://api.sarmalink.ai/v1"
    model: smart
    p50Ms: 600
  frontier:
    type: openai
    model: gpt-4o
    p50Ms: 900
routes:
  - match: {sensitivity: high}
    backend: local
    reason: "never leaves the machine"
  - match: {task: code, complexity: low}
    backend: local
    fallback: sarmalink
    latencyBudgetMs: 2500
  - match:
      task: vision
    backend: frontier
    fallback: sarmalink
  - default: local
    fallback: sarmalink
    latencyBudgetMs: 1200
ab:
  enabled: false
  sampleRate: 0.05
  candidates:
    local: sarmalink
"""

# What the cases in mistakes.yaml change, one line at a time.
GOOD = """\
backends:
  local: {type: ollama}
  cloud: {type: openai, model: gpt-4o}
routes:
  - match: {task: code}
    backend: local
    fallback: cloud
    latencyBudgetMs: 2500
  - default: local
"""

DEFAULT_TIMEOUTS = Timeouts(connect_s=3.0, first_byte_s=120.0, idle_s=60.0)


def load(text: str, **settings: Any) -> policy.Loaded:
    return policy.load(text, "policy.yaml", Settings(**settings))


def problems(text: str, resolve: Any = None) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        policy.load(text, "policy.yaml", Settings(), resolve)
    return list(caught.value.problems)


# --- policies that load -------------------------------------------------------------------------


def test_a_policy_of_the_original_program_loads_unchanged() -> None:
    loaded = load(ORIGINAL)
    assert loaded.warnings == ()
    assert loaded.policy.backends == {
        "local": BackendConfig(
            name="local",
            type="ollama",
            endpoint="http://localhost:11434",
            timeouts=DEFAULT_TIMEOUTS,
            families={"qwen-coder": "qwen2.5-coder:7b", "gemma": "gemma3:12b", "llama": "llama4:16x17b"},
            p50_ms=1800,
            local=None,  # what `localhost` leads to is looked up
        ),
        "sarmalink": BackendConfig(
            name="sarmalink",
            type="sarmalink",
            endpoint="https://api.sarmalink.ai/v1",
            timeouts=DEFAULT_TIMEOUTS,
            models=("smart",),
            p50_ms=600,
            local=False,
            api_key_env="SARMALINK_API_KEY",
        ),
        "frontier": BackendConfig(
            name="frontier",
            type="openai",
            endpoint="https://api.openai.com/v1",
            timeouts=DEFAULT_TIMEOUTS,
            models=("gpt-4o",),
            p50_ms=900,
            local=False,
            api_key_env="OPENAI_API_KEY",
            responses="native",
        ),
    }
    assert loaded.policy.routes == (
        Route(
            label="sensitivity=high",
            match={"sensitivity": frozenset({"high"})},
            backend="local",
            reason="never leaves the machine",
        ),
        Route(
            label="task=code,complexity=low",
            match={"task": frozenset({"code"}), "complexity": frozenset({"low"})},
            backend="local",
            fallbacks=("sarmalink",),
            latency_budget_ms=2500,
        ),
        Route(label="task=vision", match={"task": frozenset({"vision"})}, backend="frontier", fallbacks=("sarmalink",)),
        Route(label="default", match={}, backend="local", fallbacks=("sarmalink",), latency_budget_ms=1200),
    )
    assert loaded.policy.ab == ABTest(enabled=False, sample_rate=0.05, candidates={"local": "sarmalink"})
    assert loaded.policy.sensitivity == SensitivityRules()
    assert (loaded.policy.aliases, loaded.policy.pins, loaded.policy.unknown_model) == ({}, "any", "auto")
    assert loaded.policy.responses == ResponsesRules(store=True, store_private=False, ttl_hours=24, max_rows=10_000)


@pytest.mark.parametrize("rate, expected", [("", 0.05), ("sampleRate: 0, ", 0), ("sampleRate: 0.5, ", 0.5)])
def test_a_trial_without_a_rate_mirrors_as_much_as_in_the_original(rate: str, expected: float) -> None:
    trial = f"ab: {{enabled: true, {rate}candidates: {{local: cloud}}}}\n"
    assert load(GOOD + trial).policy.ab == ABTest(True, expected, {"local": "cloud"})


def test_every_key_that_is_new_reaches_the_policy() -> None:
    rules = load("""\
backends:
  local:
    type: ollama
    endpoint: http://10.0.0.5:11434/v1/
    models: [big, small, big]
    model: first
    local: true
    contextWindow: {big: 8192, "*": 4096}
    price: {input: 0, output: 1.5}
    timeouts: {connectMs: 500, firstByteMs: 90000, idleMs: 1500}
    maxConcurrency: 2
    apiKeyEnv: MY_KEY
  open: {type: openai, model: m, apiKeyEnv: "", contextWindow: 100}
  parrot: {type: echo}
routes:
  - match: {task: [vision, code], tokens: {min: 10, max: 4000}}
    backend: local
    fallback: [open, parrot]
  - default: parrot
sensitivity: {detect: [api_key, email], patterns: ["(?i)project bluebird"]}
aliases: {gpt-4o: auto, fast: "local/llama3.2:3b", large: BIG, bird: parrot}
pins: declared
unknownModel: refuse
responses: {store: false, storePrivate: true, ttlHours: 1.5, maxRows: 7, maxBytes: 9000, maxTurnBytes: 2048}
""").policy
    local = rules.backends["local"]
    assert local.endpoint == "http://10.0.0.5:11434"
    assert local.models == ("first", "big", "small")
    assert (local.local, local.price, local.max_concurrency, local.api_key_env) == (
        True,
        Price(0, 1.5),
        {"*": 2},
        "MY_KEY",
    )
    assert local.timeouts == Timeouts(connect_s=0.5, first_byte_s=90.0, idle_s=1.5)
    assert (local.context_window("big"), local.context_window("other")) == (8192, 4096)
    assert {local.context_window(name) for name in ("Big", "big:latest", "library/big")} == {8192}
    assert (rules.backends["open"].api_key_env, rules.backends["open"].context_window("m")) == (None, 100)
    assert (rules.backends["parrot"].models, rules.backends["parrot"].price) == (("echo",), None)
    assert rules.routes[0] == Route(
        label="task=code|vision,tokens=10..4000",
        match={"task": frozenset({"code", "vision"}), "tokens": Range(10, 4000)},
        backend="local",
        fallbacks=("open", "parrot"),
    )
    assert rules.sensitivity == SensitivityRules(("api_key", "email"), ("(?i)project bluebird",))
    assert rules.aliases == {"gpt-4o": "auto", "fast": "local/llama3.2:3b", "large": "BIG", "bird": "parrot"}
    assert (rules.pins, rules.unknown_model) == ("declared", "refuse")
    assert rules.responses == ResponsesRules(
        store=False, store_private=True, ttl_hours=1.5, max_rows=7, max_bytes=9000, max_turn_bytes=2048
    )


def test_the_cuts_of_complexity() -> None:
    assert load(GOOD).policy.complexity == Cuts(0.35, 0.65) == Cuts()
    assert load(GOOD + "complexity: {high: 0.9}\n").policy.complexity == Cuts(0.35, 0.9)
    assert load(GOOD + "complexity: {medium: 0, high: 1}\n").policy.complexity == Cuts(0, 1)


def test_what_the_classifier_says_is_what_a_policy_can_match_on() -> None:
    keys = [field.data_key or name for name, field in MatchSchema().fields.items()]
    assert keys == [field.name for field in dataclasses.fields(Classification)]


def test_numbers_in_a_match_are_ranges_and_stand_in_the_label() -> None:
    match = "{difficulty: {min: 0.35, max: 0.8}, confidence: {max: 0.5}, tokens: {min: 1234567}}"
    route = load(GOOD.replace("{task: code}", match)).policy.routes[0]
    assert route.match == {"difficulty": Range(0.35, 0.8), "confidence": Range(max=0.5), "tokens": Range(1234567)}
    assert route.label == "tokens=1234567..,difficulty=0.35..0.8,confidence=..0.5"


def test_deadlines_come_from_the_settings_where_the_policy_sets_none() -> None:
    text = GOOD.replace("{type: ollama}", "{type: ollama, timeouts: {idleMs: 250}}")
    rules = load(text, connect_timeout_s=1.0, first_byte_timeout_s=2.0, idle_timeout_s=3.0).policy
    assert rules.backends["local"].timeouts == Timeouts(1.0, 2.0, 0.25)
    assert rules.backends["cloud"].timeouts == Timeouts(1.0, 2.0, 3.0)


def test_the_version_tells_texts_apart() -> None:
    assert load(GOOD).policy.version == load(GOOD).policy.version == "7891149ddc4f"
    assert load(GOOD + "\n").policy.version != load(GOOD).policy.version


def test_anchors_and_merge_keys_may_be_used() -> None:
    rules = load("""\
backends:
  one: &home {type: ollama, endpoint: "http://127.0.0.1:1", p50Ms: 5}
  two: {<<: *home, endpoint: "http://127.0.0.1:2"}
routes:
  - default: two
    fallback: [one]
""").policy
    assert (rules.backends["two"].endpoint, rules.backends["two"].p50_ms) == ("http://127.0.0.1:2", 5)


def test_plain_shows_a_policy_as_json_can_say_it() -> None:
    shown = policy.as_document(load(GOOD).policy)
    assert shown["routes"][0] == {
        "label": "task=code", "match": {"task": ["code"]}, "backend": "local", "model": None, "fallbacks": ["cloud"],
        "latency_budget_ms": 2500, "verify": None, "reason": "",
    }  # fmt: skip
    assert shown["backends"]["cloud"]["api_key_env"] == "OPENAI_API_KEY"


@pytest.mark.parametrize(
    "endpoint, normal",
    [
        ("http://localhost:11434", "http://localhost:11434"),
        ("http://localhost:11434/", "http://localhost:11434"),
        ("http://localhost:11434/v1", "http://localhost:11434"),
        ("http://localhost:11434/v1/", "http://localhost:11434"),
        ("https://gpu.lan/ollama/v1", "https://gpu.lan/ollama"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_endpoints_are_taken_as_people_write_them(endpoint: str, normal: str) -> None:
    text = GOOD.replace("{type: ollama}", f"{{type: ollama, endpoint: '{endpoint}'}}")
    assert load(text).policy.backends["local"].endpoint == normal


# --- mistakes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("case", MISTAKES, ids=lambda case: case["now"].strip()[:60])
def test_a_mistake_is_named_with_its_line_and_path(case: dict[str, Any]) -> None:
    lines = GOOD.splitlines()
    lines[case["at"] - 1 : case["at"]] = case["now"].splitlines()
    says = case["says"].replace("<types>", TYPES).splitlines()
    assert problems("\n".join(lines) + "\n") == [f"policy.yaml:{line}" for line in says]


MISSING = "is missing; add it (docs/policy.md lists its values)"
CORRECT = "correct this line or the one above it"
WHOLE_FILES = {
    "empty": ("", ["policy.yaml: is empty; it needs `backends` and `routes`"]),
    "only a comment": ("# nothing yet\n", ["policy.yaml: is empty; it needs `backends` and `routes`"]),
    "a list": ("- backends\n", ["policy.yaml: must be a mapping with `backends` and `routes`"]),
    "a word": ("hello", ["policy.yaml: must be a mapping with `backends` and `routes`"]),
    "nothing in it": ("{}", [f"policy.yaml:1: backends: {MISSING}", f"policy.yaml:1: routes: {MISSING}"]),
    "two documents": (
        GOOD + "---\n" + GOOD,
        [f"policy.yaml:10: not valid YAML: but found another document; {CORRECT}"],
    ),
    "bad indentation": (
        GOOD.replace("  cloud", "   cloud"),
        [f"policy.yaml:3: not valid YAML: expected <block end>, but found '<block mapping start>'; {CORRECT}"],
    ),
    "a tab": (
        GOOD.replace("  local", "\tlocal"),
        [f"policy.yaml:2: not valid YAML: found character '\\t' that cannot start any token; {CORRECT}"],
    ),
    "a quote that is not closed": (
        GOOD.replace("type: ollama", 'type: "ollama'),
        [f"policy.yaml:10: not valid YAML: found unexpected end of stream; {CORRECT}"],
    ),
    "an alias of nothing": (
        GOOD.replace("task: code", "task: *code"),
        [f"policy.yaml:5: not valid YAML: found undefined alias 'code'; {CORRECT}"],
    ),
    "a Python object": (
        GOOD.replace("backend: local", "backend: !!python/object/apply:os.getcwd []"),
        [
            "policy.yaml:6: not valid YAML: could not determine a constructor for the tag "
            f"'tag:yaml.org,2002:python/object/apply:os.getcwd'; {CORRECT}"
        ],
    ),
    "a Python name": (
        GOOD.replace("backend: local", "backend: !!python/name:os.system"),
        [
            "policy.yaml:6: not valid YAML: could not determine a constructor for the tag "
            f"'tag:yaml.org,2002:python/name:os.system'; {CORRECT}"
        ],
    ),
    "an alias that contains itself": (
        GOOD.replace("{task: code}", "&m {task: *m}"),
        ["policy.yaml:5: routes[0].match.task: this alias contains itself; write its content in full"],
    ),
    "a control character": (
        GOOD + "# \x00\n",
        [
            "policy.yaml:10: not valid YAML: unacceptable character #x0000: special characters are not allowed; "
            "remove it"
        ],
    ),
    "a date that is none": (
        GOOD.replace("task: code", "task: 2024-13-45"),
        [f"policy.yaml:5: not valid YAML: month must be in 1..12; {CORRECT}"],
    ),
    "nested too deeply": (
        GOOD + "ab: " + "[" * 3000 + "]" * 3000,
        ["policy.yaml: is nested too deeply; remove levels, of which a policy needs seven"],
    ),
    "a list as a key": (GOOD + "? [a, b]\n: 1\n", ["policy.yaml:10: a key must be text"]),
    "several at once, line by line": (
        "backends:\n  a: {type: echo, type: ollma}\n  a: {type: ecko}\nroutes:\n  - default: b\n  - defalt: a\nab: 3\n",
        [
            "policy.yaml:2: backends.a.type: is written twice (first in line 2); keep one of them",
            f"policy.yaml:2: backends.a.type: 'ecko' is not one of {TYPES} (did you mean echo?)",
            "policy.yaml:3: backends.a: is written twice (first in line 2); keep one of them",
            "policy.yaml:5: routes[0].default: no backend is called 'b'; name one of a",
            "policy.yaml:6: routes[1]: needs `match` and `backend` (or `default: NAME` in the last route)",
            "policy.yaml:6: routes[1].defalt: unknown key (did you mean default?)",
            "policy.yaml:6: routes[1]: stands after the default route, so no request reaches it; "
            "move it up or remove it",
            "policy.yaml:7: ab: must be a mapping of keys to values",
        ],
    ),
}


@pytest.mark.parametrize("name", WHOLE_FILES)
def test_a_file_that_is_wrong_as_a_whole(name: str) -> None:
    text, lines = WHOLE_FILES[name]
    assert problems(text) == lines


def test_an_alias_bomb_costs_neither_time_nor_memory() -> None:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12)]
    tracemalloc.start()
    began = time.process_time()
    found = problems("\n".join(rows))
    assert time.process_time() - began < 1.0
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()
    assert found == ["policy.yaml: has more than 20000 values when its aliases are expanded; make it smaller"]


def test_at_most_forty_lines_however_wrong_it_is() -> None:
    text = "backends:\n" + "".join(f"  b{n}: {{type: nonsense}}\n" for n in range(100)) + "routes: [default: b0]\n"
    found = problems(text)
    assert len(found) == 40
    assert found[38] == (f"policy.yaml:40: backends.b38.type: 'nonsense' is not one of {TYPES}")
    assert found[39] == "… and 61 more problems"


def test_a_mistake_behind_an_alias_is_said_where_it_was_written() -> None:
    found = problems(GOOD.replace("local: {type: ollama}", "local: &a {type: olama}\n  other: *a"))
    assert [line.partition(": '")[0] for line in found] == [
        "policy.yaml:2: backends.local.type",
        "policy.yaml:2: backends.other.type",
    ]


PASTED = "sk-proj-Abc123Def456Ghi789Jkl012Mno345"
HEX = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize(
    "old, new",
    [
        ("type: ollama", "type: {key}"),
        ("type: ollama", "type: ollama, apiKey: {key}"),
        ("type: ollama", "type: ollama, {key}: apiKey"),
        ("type: ollama", "type: ollama, apiKeyEnv: {key}"),
        ("type: ollama", "type: ollama, p50Ms: {key}"),
        ("type: ollama", "type: ollama, local: {key}"),
        ("type: ollama", "type: ollama, contextWindow: {{{key}: x}}"),
        ("type: ollama", "type: ollama, endpoint: 'http://{key}@localhost'"),
        ("type: ollama", "type: ollama, endpoint: 'http://x:{key}@localhost'"),
        ("type: ollama", "type: ollama, endpoint: '{key}'"),
        ("backend: local", "backend: {key}"),
        ("fallback: cloud", "fallback: [{key}]"),
        ("task: code", "task: {key}"),
        ("task: code", "{key}: code"),
        ("task: code", "task: *{key}"),
        ("type: ollama", "{key}: a, {key}: b"),
        ("- default: local", "- default: local\nab: {{candidates: {{{key}: cloud}}}}"),
        ("- default: local", "- default: local\nsensitivity: {{patterns: ['({key}']}}"),
        ("- default: local", "- default: local\nsensitivity: {{detect: [{key}]}}"),
        ("  cloud:", "  {key}: {{type: ecko}}\n  cloud:"),
        ("backends:", "'{key}': x\nbackends:"),
        ("backends:", "!{key} x: x\nbackends:"),
        ("type: ollama", 'type: "{key}'),
    ],
)
@pytest.mark.parametrize("key", [PASTED, HEX], ids=["sk", "hex"])
def test_a_pasted_key_is_never_printed(old: str, new: str, key: str) -> None:
    assert old in GOOD
    said = "\n".join(problems(GOOD.replace(old, new.format(key=key), 1)))
    assert key not in said
    assert key[:20] not in said


# --- privacy: what the policy promises is proven at start ---------------------------------------

PRIVATE = """\
backends:
  here: {{type: ollama}}
  other: {{{other}}}
routes:
  - match: {{sensitivity: {sensitivity}}}
    backend: {backend}
    fallback: {fallback}
  - default: here
"""
ADDRESSES = {
    "hijacked.localhost": ("127.0.0.1", "93.184.216.34"),
    "lan.example": ("192.168.1.7", "fd00::7"),
    "web.example": ("93.184.216.34",),
    "both.example": ("10.0.0.1", "93.184.216.34"),
}
MUST = "a route for `sensitivity: high` may use local backends only, and 'other' is not local: "
NOT_LOCAL = [
    ("type: openai, model: m", "type openai is a hosted kind (say `local: true` if it is yours)"),
    ("type: sarmalink", "type sarmalink is a hosted kind (say `local: true` if it is yours)"),
    (
        "type: openai, model: m, endpoint: 'http://127.0.0.1:8000/v1'",
        "type openai is a hosted kind (say `local: true` if it is yours)",
    ),
    ("type: ollama, local: false", "the policy says `local: false`"),
    ("type: echo, local: false", "the policy says `local: false`"),
    ("type: ollama, endpoint: 'http://8.8.8.8:11434'", "8.8.8.8 is a public address"),
    ("type: ollama, endpoint: 'http://100.64.0.1:11434'", "100.64.0.1 is a public address"),
    ("type: vllm, endpoint: 'http://[2001:db8::1]:8000'", "2001:db8::1 is a public address"),
    ("type: ollama, endpoint: 'http://web.example'", "web.example resolves to a public address"),
    ("type: ollama, endpoint: 'http://both.example'", "both.example resolves to a public address"),
    ("type: ollama, endpoint: 'http://hijacked.localhost'", "hijacked.localhost resolves to a public address"),
]


@pytest.mark.parametrize("other, why", NOT_LOCAL, ids=[other for other, _ in NOT_LOCAL])
def test_a_sensitive_route_names_no_backend_that_is_not_local(other: str, why: str) -> None:
    def found(**names: str) -> list[str]:
        text = PRIVATE.format(**{"other": other, "sensitivity": "high", **names})
        return problems(text, lambda host: ADDRESSES.get(host, ()))

    assert found(backend="other", fallback="here") == [f"policy.yaml:6: routes[0].backend: {MUST}{why}"]
    assert found(backend="here", fallback="other") == [f"policy.yaml:7: routes[0].fallback: {MUST}{why}"]
    assert found(backend="here", fallback="[here, other]", sensitivity="[high]") == [
        f"policy.yaml:7: routes[0].fallback[1]: {MUST}{why}"
    ]
    mixed = PRIVATE.format(other=other, sensitivity="[high, normal]", backend="here", fallback="other")
    assert policy.load(mixed, "policy.yaml", Settings(), lambda host: ADDRESSES.get(host, ())).warnings == ()


@pytest.mark.parametrize(
    "other",
    [
        "type: ollama, endpoint: 'http://192.168.1.7:11434'",
        "type: ollama, endpoint: 'http://localhost'",
        "type: ollama, endpoint: 'http://GPU.LocalHost.:1'",
        "type: llamacpp, endpoint: 'http://[::1]:8080'",
        "type: ollama, endpoint: 'http://8.8.8.8', local: true",
        "type: openai, model: m, endpoint: 'http://127.0.0.1/v1', local: true",
        "type: ollama, endpoint: 'http://lan.example'",
        "type: echo",
    ],
)
def test_a_sensitive_route_may_name_local_backends(other: str) -> None:
    text = PRIVATE.format(other=other, sensitivity="high", backend="other", fallback="here")
    loaded = policy.load(text, "policy.yaml", Settings(), lambda host: ADDRESSES.get(host, ()))
    assert loaded.warnings == ()


def test_a_name_that_does_not_resolve_is_a_warning_and_not_local_yet() -> None:
    other = "type: ollama, endpoint: 'http://ollama:11434'"
    text = PRIVATE.format(other=other, sensitivity="high", backend="other", fallback="other")
    said = "'other' counts as not local for now: ollama does not resolve yet"
    for resolve in (None, lambda _: ()):
        loaded = policy.load(text, "policy.yaml", Settings(), resolve)
        assert loaded.warnings == (
            f"policy.yaml:6: routes[0].backend: {said}",
            f"policy.yaml:7: routes[0].fallback: {said}",
        )
        assert loaded.policy.backends["other"].local is None


def test_a_sensitive_route_names_no_backend_with_cloud_models_alone() -> None:
    text = PRIVATE.format(
        other="type: ollama, models: ['gpt-oss:120b-cloud', 'kimi:cloud']",
        sensitivity="high",
        backend="other",
        fallback="here",
    )
    assert problems(text) == [
        "policy.yaml:6: routes[0].backend: a route for `sensitivity: high` may use local backends only, and 'other' "
        "only has models that run in the cloud (gpt-oss:120b-cloud)"
    ]
    assert load(text.replace("kimi:cloud", "kimi:1b")).warnings == ()


# --- the file -----------------------------------------------------------------------------------


def read_problem(path: Path) -> str:
    with pytest.raises(PolicyError) as caught:
        policy.read(str(path))
    (line,) = caught.value.problems
    return line.removeprefix(f"{path}: ")


def test_reading_a_file(tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    assert read_problem(file) == "no such file. `flask init` writes a first policy; LLR_POLICY names another"
    file.write_bytes(b"backends: caf\xe9\n")
    assert read_problem(file) == "not UTF-8 text (byte 13); save it as UTF-8"
    file.write_bytes(b"#" * 200_001)
    assert read_problem(file) == "is larger than 200000 bytes, so it is no policy; name another file"
    assert (
        read_problem(tmp_path)
        == "cannot be read: Is a directory; name another file, or let the router's user read this one"
    )
    file.write_text(GOOD.replace("# ", "# ä "), encoding="utf-8")
    assert policy.read(str(file)) == GOOD


def test_the_check_says_each_problem_on_a_line_and_no_traceback(tmp_path: Path) -> None:
    """As gunicorn's master runs it: a process of its own."""
    file = tmp_path / "policy.yaml"
    file.write_text(GOOD.replace("ollama", "olama").replace("backend: local", "backend: lcal"))
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from app.policy.check import main; sys.exit(main(sys.argv[1:]))"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "LLR_POLICY": str(file)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.splitlines() == [
        f"{file}:2: backends.local.type: 'olama' is not one of {TYPES} (did you mean ollama?)",
        f"{file}:6: routes[0].backend: no backend is called 'lcal' (did you mean local?); name one of local, cloud",
    ]


NO_HOST = PRIVATE.format(
    other="type: ollama, endpoint: 'http://no-such-host.invalid'",
    sensitivity="high",
    backend="other",
    fallback="here",
)


@pytest.mark.parametrize(
    "arguments, text, environ, status, lines",
    [
        (["-"], GOOD, {}, 0, []),
        ([], "", {"LLR_POLICY": "good.yaml"}, 0, []),
        (["good.yaml"], "", {"LLR_POLICY": "no.yaml"}, 0, []),
        (["-"], "", {}, 3, ["./policy.yaml: is empty; it needs `backends` and `routes`"]),
        (["-"], "", {"LLR_POLICY": "mine.yaml"}, 3, ["mine.yaml: is empty; it needs `backends` and `routes`"]),
        (
            ["no.yaml"],
            "",
            {},
            3,
            ["no.yaml: no such file; name a file that exists"],
        ),
        (["-"], GOOD, {"LLR_PORT": "x"}, 3, ["environment: LLR_PORT: must be a whole number from 1 to 65535"]),
        (
            ["-"],
            "#" * 200_001,
            {},
            3,
            ["./policy.yaml: is larger than 200000 bytes, so it is no policy; name another file"],
        ),
        (
            ["-"],
            NO_HOST,
            {},
            0,
            [
                "warning: ./policy.yaml:6: routes[0].backend: 'other' counts as not local for now: "
                "no-such-host.invalid does not resolve yet"
            ],
        ),
    ],
)
def test_the_check(
    arguments: list[str],
    text: str,
    environ: dict[str, str],
    status: int,
    lines: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "good.yaml").write_text(GOOD)
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("LLR_")]:
        monkeypatch.delenv(name)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert main(arguments) == status
    said = capsys.readouterr()
    assert (said.out, said.err.splitlines()) == ("", lines)


def test_names_are_looked_up_for_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name at once may hang; the check still ends, and the names count as not resolving."""
    asked: list[str] = []
    never = threading.Event()

    def hang(host: str, *_: object) -> list[object]:
        asked.append(host)
        never.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    resolve = resolver(0.1)
    assert [resolve(name) for name in ("a", "b", "c")] == [(), (), ()]
    assert time.monotonic() - began < 2
    never.set()
    assert asked == ["a", "b", "c"]


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "a, " * 60_000 + "]",
        "".join(f"k{n}: 1\n" for n in range(18_000)),
        "[" * 190_000,
        "backends:\n"
        + "".join(f"  k{n}: {{type: ecko}}\n" for n in range(3000))
        + "routes:\n"
        + "".join(f"  - match: {{task: cod}}\n    backend: z{n}\n" for n in range(1500)),
    ],
    ids=["list", "keys", "brackets", "backends"],
)
def test_the_worst_file_is_told_within_two_seconds(text: str) -> None:
    began = time.process_time()
    found = problems(text)
    assert time.process_time() - began < 2
    assert len(found) <= 40
    assert max(map(len, found)) < 500

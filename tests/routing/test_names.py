"""What a request's `model` stands for, and which unknown names are misspellings."""

from __future__ import annotations

import dataclasses
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.routing.match import unknown_model
from app.routing.names import HOSTED_NAMES, Names, edits, names_of, resolve, spellings_of, usable
from app.types import Observations, Policy
from tests import build

HOME = build.policy("""\
backends:
  local:
    type: ollama
    models: ["llama3.1:8b", mistral, "hf.co/org/Tiny-GGUF:Q4_K_M"]
    families: {qwen-coder: "qwen2.5-coder:7b"}
  coder: {type: llamacpp, models: [Qwen2.5-Coder-14B]}
  frontier: {type: openai, models: [gpt-4o, gpt-4.1-mini]}
  openai: {type: openai, model: o3}
routes: [default: local]
aliases: {gpt-4o: auto, fast: "local/llama3.2:3b", writer: frontier, Claude-Sonnet-4-5: coder, lama: mistral}
""")
SEEN = Observations(
    local=frozenset({"local", "coder"}),
    models={"local": ("llama3.1:8b", "mistral:latest", "phi4:latest", "gpt-oss:120b-cloud"), "coder": ("other",)},
)


def means(model: str, rules: Policy = HOME, seen: Observations = SEEN, family: str = "any") -> str:
    """`local/mistral*`, `auto`, `barred`, `unknown`, or `did you mean …`."""
    meaning = resolve(model, family, rules, seen)
    if meaning.name is None:
        return f"did you mean {meaning.nearest}" if meaning.nearest else "unknown"
    if meaning.is_barred:
        return "barred"
    targets = (f"{one.backend}/{one.model}" + ("*" if one.client_named else "") for one in meaning.targets)
    return " ".join(targets) or "auto"


@pytest.mark.parametrize(
    "model, meaning",
    [
        ("", "auto"),
        ("auto", "auto"),
        ("AUTO", "auto"),
        ("local", "local/llama3.1:8b"),
        ("LOCAL", "local/llama3.1:8b"),
        ("Coder", "coder/Qwen2.5-Coder-14B"),
        ("llama3.1:8b", "local/llama3.1:8b*"),
        ("Llama3.1:8B", "local/llama3.1:8b*"),
        ("qwen2.5-coder-14b", "coder/Qwen2.5-Coder-14B*"),
        ("HF.co/org/tiny-gguf:q4_k_m", "local/hf.co/org/Tiny-GGUF:Q4_K_M*"),
        ("other", "coder/other*"),
        ("local/llama3.1:8b", "local/llama3.1:8b*"),
        ("Local/LLAMA3.1:8B", "local/llama3.1:8b*"),
        ("local/never-heard-of", "local/never-heard-of*"),
        ("FRONTIER/GPT-9", "frontier/GPT-9*"),
        # Ollama's own tag for a name without one
        ("mistral", "local/mistral*"),
        ("mistral:latest", "local/mistral*"),
        ("local/Mistral:latest", "local/mistral*"),
        ("phi4", "local/phi4:latest*"),
        ("Phi4:LATEST", "local/phi4:latest*"),
        ("local/phi4", "local/phi4:latest*"),
        ("llama3.1", "unknown"),
        ("other:latest", "unknown"),
        # aliases go before models
        ("gpt-4o", "auto"),
        ("GPT-4O", "auto"),
        ("frontier/gpt-4o", "frontier/gpt-4o*"),
        ("fast", "local/llama3.2:3b"),
        ("Writer", "frontier/gpt-4o"),
        ("claude-sonnet-4-5", "coder/Qwen2.5-Coder-14B"),
        ("lama", "local/mistral"),
        # what clients have built in
        ("gpt-4", "unknown"),
        ("openai/gpt-4", "openai/gpt-4*"),
        ("anthropic/claude-3-5-sonnet-latest", "unknown"),
        ("/", "unknown"),
        ("local/", "did you mean local"),
        ("a" * 100_000, "unknown"),
        ("İ" * 300, "unknown"),
    ],
)
def test_what_a_name_stands_for(model: str, meaning: str) -> None:
    assert means(model) == meaning


def test_a_backend_takes_the_model_for_the_family() -> None:
    assert means("local", family="qwen-coder") == "local/qwen2.5-coder:7b"
    assert means("LOCAL", family="qwen-coder") == "local/qwen2.5-coder:7b"


TWINS = build.policy("""\
backends:
  a: {type: vllm, models: [Org/Model, plain]}
  b: {type: vllm, endpoint: "http://localhost:2", models: [org/model, plain, A]}
  openai: {type: openai, model: m}
  c: {type: vllm, endpoint: "http://localhost:3", models: [openai/gpt-oss-20b]}
routes: [default: a]
""")


@pytest.mark.parametrize(
    "model, meaning",
    [
        ("Org/Model", "a/Org/Model*"),
        ("org/model", "b/org/model*"),
        ("ORG/MODEL", "a/Org/Model* b/org/model*"),
        ("plain", "a/plain* b/plain*"),
        ("a", "a/Org/Model"),
        ("A", "b/A*"),
        ("openai/gpt-oss-20b", "c/openai/gpt-oss-20b*"),  # a model that is held, not one of the hosted backend
        ("OpenAI/GPT-OSS-20b", "c/openai/gpt-oss-20b*"),
        ("openai/gpt-oss-120b", "openai/gpt-oss-120b*"),
    ],
)
def test_the_exact_name_goes_first(model: str, meaning: str) -> None:
    assert means(model, TWINS, Observations()) == meaning


# --- misspellings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model, nearest",
    [
        ("codr", "coder"),
        ("Codre", "coder"),
        ("codeer", "coder"),
        ("cider", "coder"),
        ("co-der", "coder"),
        ("lokal", "local"),
        ("frontire", "frontier"),
        ("atuo", "auto"),
        ("misstral", "mistral"),
        ("mistrl:latest", "mistral"),
        ("fats", "fast"),
        ("llama-3.1:8b", "llama3.1:8b"),
        ("llama31:8b", "llama3.1:8b"),
        ("lama3.1:8b", "llama3.1:8b"),
        ("lama3,1:8b", "llama3.1:8b"),
        ("qwen25_coder:7b", "qwen2.5-coder:7b"),
        ("Qwen2.5Coder14B", "Qwen2.5-Coder-14B"),
        ("codr/whatever:1b", "coder/whatever:1b"),
        ("locl/llama3.1:8b", "local/llama3.1:8b"),
        ("local/lama3.1:8b", ""),  # the backend is named: it says what it does not hold
        ("gpt4o", "gpt-4o"),
        ("gpt-4.1-min", "gpt-4.1-mini"),
        # another model, no misspelling
        ("codr2", ""),
        ("coder2", ""),
        ("llama3.2:8b", ""),
        ("llama3.1:70b", ""),
        ("llama3.1:8b-instruct", ""),
        ("llama3.1", ""),
        ("locla1", ""),
        ("cdr", ""),
        ("frontie", "frontier"),
        ("fronti", ""),
        ("frntr", ""),
        # of the vendors' own
        ("gpt-4", ""),
        ("GPT-4", ""),
        ("gpt-4.1", ""),
        ("o3-mini", ""),
        ("azure/gpt-4", ""),
    ],
)
def test_which_names_are_misspellings(model: str, nearest: str) -> None:
    assert resolve(model, "any", HOME, SEEN).nearest == nearest


def test_short_names_have_no_misspellings() -> None:
    rules = build.policy("backends: {a: {type: echo, models: [m, ab]}}\nroutes: [default: a]")
    assert {means(model, rules, Observations()) for model in ("x", "mm", "ac", "abc")} == {"unknown"}


def test_a_refusal_says_the_way_out() -> None:
    way_out = "GET /v1/models lists the names; `aliases` in the policy can add one."
    error = unknown_model("codr", resolve("codr", "any", HOME, SEEN), HOME)
    assert error.message == f"No model here is called 'codr'; did you mean 'coder'? {way_out}"
    assert (error.status, error.code, error.param, error.is_final) == (404, "model_not_found", "model", True)
    error = unknown_model("gpt-9", resolve("gpt-9", "any", HOME, SEEN), HOME)
    assert error.message == f"No model here is called 'gpt-9'. {way_out}"
    strict = dataclasses.replace(HOME, pins="local")
    error = unknown_model("frontier", resolve("frontier", "any", strict, SEEN), strict)
    assert error.message == f"The model 'frontier' may not be named here (policy: `pins: local`). {way_out}"
    assert len(unknown_model("x" * 10_000, resolve("x" * 10_000, "any", HOME, SEEN), HOME).message) < 200


def distance(left: str, right: str) -> int:
    """The textbook's optimal string alignment, every cell of it."""
    rows = [[i + j if not i or not j else 0 for j in range(len(right) + 1)] for i in range(len(left) + 1)]
    for i, j in product(range(1, len(left) + 1), range(1, len(right) + 1)):
        same = left[i - 1] == right[j - 1]
        best = min(rows[i - 1][j] + 1, rows[i][j - 1] + 1, rows[i - 1][j - 1] + (not same))
        if i > 1 and j > 1 and left[i - 1] == right[j - 2] and left[i - 2] == right[j - 1]:
            best = min(best, rows[i - 2][j - 2] + 1)
        rows[i][j] = best
    return rows[-1][-1]


@given(st.text("abc", max_size=8), st.text("abc", max_size=8), st.sampled_from([1, 2]))
def test_edits_are_counted_as_far_as_they_matter(left: str, right: str, most: int) -> None:
    assert edits(left, right, most) == min(distance(left, right), most + 1)


# --- pins ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pins, meanings",
    [
        ("any", {"local": "local/llama3.1:8b", "frontier": "frontier/gpt-4o", "phi4": "local/phi4:latest*",
                 "frontier/gpt-9": "frontier/gpt-9*", "gpt-oss:120b-cloud": "local/gpt-oss:120b-cloud*"}),
        ("declared", {"local": "local/llama3.1:8b", "frontier": "frontier/gpt-4o", "phi4": "barred",
                      "frontier/gpt-9": "barred", "frontier/gpt-4o": "frontier/gpt-4o*", "local/mistral:latest":
                      "local/mistral*", "gpt-oss:120b-cloud": "barred", "fronteir": "did you mean frontier"}),
        ("local", {"local": "local/llama3.1:8b", "frontier": "barred", "phi4": "local/phi4:latest*",
                   "frontier/gpt-9": "barred", "gpt-oss:120b-cloud": "barred", "local/x": "local/x*",
                   "local/x:cloud": "barred", "fronteir": "unknown", "codr": "did you mean coder"}),
        ("none", {"local": "barred", "frontier": "barred", "phi4": "barred", "local/x": "barred", "codr": "unknown",
                  "fsat": "did you mean fast"}),
    ],
)  # fmt: skip
def test_which_names_may_be_pinned(pins: str, meanings: dict[str, str]) -> None:
    rules = dataclasses.replace(HOME, pins=pins)
    assert {model: means(model, rules) for model in meanings} == meanings
    always = {"auto": "auto", "gpt-4o": "auto", "fast": "local/llama3.2:3b", "writer": "frontier/gpt-4o"}
    assert {model: means(model, rules) for model in always} == always


def test_of_several_that_hold_a_model_those_that_may_be_pinned_stay() -> None:
    rules = build.policy("""\
backends: {a: {type: ollama, model: m-1}, b: {type: openai, model: m-1}}
routes: [default: a]
pins: local
""")
    assert means("m-1", rules, Observations(local=frozenset({"a"}))) == "a/m-1*"
    assert means("m-1", rules, Observations()) == "barred"


# --- the list -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pins, names",
    [
        ("any", "auto gpt-4o fast writer Claude-Sonnet-4-5 lama local coder frontier openai llama3.1:8b mistral "
                "hf.co/org/Tiny-GGUF:Q4_K_M qwen2.5-coder:7b phi4:latest gpt-oss:120b-cloud Qwen2.5-Coder-14B other "
                "gpt-4.1-mini o3"),
        ("local", "auto gpt-4o fast writer Claude-Sonnet-4-5 lama local coder llama3.1:8b mistral "
                  "hf.co/org/Tiny-GGUF:Q4_K_M qwen2.5-coder:7b phi4:latest Qwen2.5-Coder-14B other"),
        ("none", "auto gpt-4o fast writer Claude-Sonnet-4-5 lama"),
    ],
)  # fmt: skip
def test_the_names_that_are_listed(pins: str, names: str) -> None:
    rules = dataclasses.replace(HOME, pins=pins)
    listed = usable(rules, SEEN)
    assert " ".join(name.text for name in listed) == names
    assert all(means(name.text, rules) not in ("barred", "unknown") for name in listed)


def test_the_index_is_built_once_for_what_stays_the_same() -> None:
    names = names_of(HOME, SEEN)
    assert names_of(HOME, dataclasses.replace(SEEN, unhealthy=frozenset({"local"}), models=dict(SEEN.models))) is names
    assert names_of(HOME, dataclasses.replace(SEEN, models={})) is not names
    assert names_of(dataclasses.replace(HOME), SEEN) is not names


def test_what_is_remembered_of_unknown_names_is_bounded() -> None:
    names = Names(HOME, SEEN.models)
    for number in range(10_000):
        names.similar(f"unknown {number}")
    assert len(names._similar) <= 256
    assert [name.text for name in names.similar("codr")] == ["coder"]


def test_the_names_of_vendors_are_what_clients_send() -> None:
    assert {"gpt-4o", "gpt-4", "gpt-3.5-turbo", "claude-3-5-sonnet-latest", "gemini-2.5-pro"} <= HOSTED_NAMES
    assert all(name == name.casefold().strip("`\"',:") for name in HOSTED_NAMES)


@pytest.mark.parametrize(
    "kind, model, spellings",
    [
        ("ollama", "x", ("x", "x:latest")),
        ("ollama", "x:latest", ("x:latest", "x")),
        ("ollama", "X", ("X", "x:latest", "x")),
        ("ollama", "library/x", ("library/x", "x:latest", "x")),
        ("ollama", "x:8b", ("x:8b",)),
        ("ollama", "hf.co:443/x", ("hf.co:443/x", "hf.co:443/x:latest")),
        ("vllm", "x", ("x",)),
        ("vllm", "x:latest", ("x:latest",)),
    ],
)
def test_the_spellings_of_a_model(kind: str, model: str, spellings: tuple[str, ...]) -> None:
    assert spellings_of(kind, model) == spellings

"""The facts that an Ollama tells: tables of its documents, good and odd."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from app.backends.ollama_facts import OllamaFacts
from app.types import ModelFacts, Residency, Turnover

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def listed(name: str, digest: str = "", trained: object = 131_072, **more: Any) -> dict[str, Any]:
    known = {"name": name, "model": name, "digest": digest, "size": 5_000, "capabilities": ["completion", "tools"]}
    return {**known, "details": {"context_length": trained}, **more}


def running(name: str, window: object = 4096, digest: str = "", **more: Any) -> dict[str, Any]:
    known = {"name": name, "model": name, "digest": digest, "size": 6_000, "size_vram": 3_000}
    return {**known, "context_length": window, **more}


def facts_of(
    tags: list[dict[str, Any]],
    loaded: list[dict[str, Any]] | None = None,
    shown: dict[str, dict[str, Any]] | None = None,
    wanted: int | None = None,
    native: bool = True,
) -> OllamaFacts:
    facts = OllamaFacts(lambda _: wanted, lambda: native)
    facts.learn_list({"models": tags})
    facts.learn_descriptions(shown or {})
    facts.learn_loaded(None if loaded is None else {"models": loaded})
    return facts


def test_all_of_a_loaded_model() -> None:
    facts = facts_of([listed("m:1b", A)], [running("m:1b", 4096, A)])
    assert facts.by_model == {
        "m:1b": ModelFacts(
            loaded=True,
            window=4096,
            refuses=True,
            capabilities=frozenset({"completion", "tools"}),
            size_bytes=5_000,
            trained=131_072,
        )
    }
    assert facts.residency == {"m:1b": Residency(size_bytes=6_000, gpu_bytes=3_000, window=4096)}


def test_over_v1_prompts_may_be_cut() -> None:
    assert facts_of([listed("m:1b")], [], native=False).by_model["m:1b"].refuses is False


def from_file(blob: str, parameters: str = "", **more: Any) -> dict[str, Any]:
    return {"modelfile": f"# a comment\nFROM /models/blobs/sha256-{blob}\nTEMPLATE x", "parameters": parameters, **more}


WINDOWS: dict[str, tuple[dict[str, Any], tuple[bool | None, int | None]]] = {
    "loaded": ({"loaded": [running("m:1b", 8192)]}, (True, 8192)),
    "not loaded": ({"loaded": []}, (False, None)),
    "nobody knows what is loaded": ({"loaded": None}, (None, None)),
    "another one is loaded": ({"loaded": [running("other:1b", 8192)]}, (False, None)),
    "the Modelfile": ({"loaded": [], "shown": {"m:1b": from_file(A, "num_ctx    8192")}}, (False, 8192)),
    "the Modelfile, beyond the trained": (
        {"loaded": [], "shown": {"m:1b": from_file(A, "num_ctx 999999")}},
        (False, 131_072),
    ),
    "the policy": ({"loaded": [], "wanted": 16_384}, (False, 16_384)),
    "the policy before the Modelfile": (
        {"loaded": [], "wanted": 16_384, "shown": {"m:1b": from_file(A, "num_ctx 8192")}},
        (False, 16_384),
    ),
    "the policy, beyond the trained": ({"loaded": [], "wanted": 10**6}, (False, 131_072)),
    "loaded as the policy says": ({"loaded": [running("m:1b", 16_384)], "wanted": 16_384}, (True, 16_384)),
    "loaded with all it was trained for": ({"loaded": [running("m:1b", 131_072)], "wanted": 10**6}, (True, 131_072)),
    "loaded by another client": ({"loaded": [running("m:1b", 4096)], "wanted": 16_384}, (False, 16_384)),
    "loaded before the Modelfile": (
        {"loaded": [running("m:1b", 4096)], "shown": {"m:1b": from_file(A, "num_ctx 8192")}},
        (True, 4096),
    ),
    "loaded, without a window": ({"loaded": [running("m:1b", None)], "wanted": 16_384}, (True, 16_384)),
}


@pytest.mark.parametrize("case", WINDOWS)
def test_the_window(case: str) -> None:
    told, (loaded, window) = WINDOWS[case]
    facts = facts_of([listed("m:1b")], **told).by_model["m:1b"]
    assert (facts.loaded, facts.window) == (loaded, window)


def test_the_window_of_the_last_load_is_believed() -> None:
    facts = facts_of([listed("m:1b")], [running("m:1b", 8192)])
    facts.learn_loaded({"models": []})
    assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (False, 8192)
    facts.learn_loaded({"models": [running("m:1b", 2048)]})  # the server was started again, with another window
    assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (True, 2048)


@pytest.mark.parametrize(("given", "window"), [(4096, 4096), (65_536, 16_384)])
def test_the_server_gave_another_window_than_the_policy_asks_for(given: int, window: int) -> None:
    """Memory was short, or an old version tells the sum of the windows of all its slots."""
    facts = facts_of([listed("m:1b")], [running("m:1b", given)], wanted=16_384)
    assert facts.by_model["m:1b"].loaded is False
    facts.accept_window("m:1b")
    assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (True, window)
    facts.learn_loaded({"models": []})
    assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (False, window)
    facts.learn_loaded({"models": [running("m:1b", 1234)]})
    assert facts.by_model["m:1b"].loaded is False


def test_the_window_of_another_client() -> None:
    """The next request of the router gets the window that the server gave it before."""
    facts = facts_of([listed("m:1b")], [running("m:1b", 4096)])
    assert facts.may_change_window("m:1b")
    facts.accept_window("m:1b")
    assert not facts.may_change_window("m:1b")
    for other in (512, 65_536):
        facts.learn_loaded({"models": [running("m:1b", other)]})
        assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (False, 4096)
    facts.learn_loaded(None)  # the server may start again, with another default
    facts.learn_loaded({"models": [running("m:1b", 512)]})
    assert (facts.by_model["m:1b"].loaded, facts.by_model["m:1b"].window) == (True, 512)


SHARED: dict[str, tuple[dict[str, Any], bool]] = {
    "a copy": ({"digests": (A, A)}, True),
    "a copy, in another spelling": ({"digests": (A, f"sha256:{A}")}, True),
    "the same weights": ({"digests": (A, B), "shown": (from_file(C), from_file(C))}, True),
    "the same weights and options": (
        {"digests": (A, B), "shown": (from_file(C, "num_gpu 8"), from_file(C, "num_gpu 8\ntemperature 1"))},
        True,
    ),
    "the same weights with another window": (
        {"digests": (A, B), "shown": (from_file(C), from_file(C, "num_ctx 8192"))},
        False,
    ),
    "the same weights with an adapter": (
        {"digests": (A, B), "shown": (from_file(C), {"modelfile": f"FROM /b/sha256-{C}\nADAPTER /b/sha256-{A}"})},
        False,
    ),
    "other weights": ({"digests": (A, B), "shown": (from_file(A), from_file(C))}, False),
    "nothing is known": ({"digests": ("", "")}, False),
    "digests that are none": ({"digests": ("00", "00")}, False),
}


@pytest.mark.parametrize("case", SHARED)
def test_names_of_one_runner(case: str) -> None:
    """/api/ps names only the model by which it was loaded."""
    told, shared = SHARED[case]
    first, second = told["digests"]
    shown = dict(zip(("one:latest", "two:latest"), told.get("shown", ()), strict=False))
    facts = facts_of(
        [listed("one:latest", first), listed("two:latest", second)], [running("one:latest", 4096, first)], shown
    )
    assert facts.by_model["one:latest"].loaded is True
    assert facts.by_model["two:latest"].loaded is shared
    assert (facts.by_model["two:latest"].window == 4096) is shared


def test_a_name_without_a_tag_is_the_latest() -> None:
    facts = facts_of([listed("m:latest")], [running("M")])
    assert facts.by_model["m:latest"].loaded is True


@pytest.mark.parametrize("more", [{"remote_host": "https://ollama.com:443"}, {"remote_model": "m"}])
def test_a_remote_model_is_never_loaded_here(more: dict[str, str]) -> None:
    facts = facts_of([listed("m:1b", **more), listed("x:120b-cloud")], [])
    assert [(one.loaded, one.window) for one in facts.by_model.values()] == [(None, None), (None, None)]
    assert not list(facts.to_describe([]))


def test_older_versions_tell_in_the_description() -> None:
    old = {"name": "m:1b", "size": 5_000}
    info = {"general.architecture": "llama", "llama.context_length": 8192}
    facts = facts_of([old], [], {"m:1b": {"model_info": info}}).by_model["m:1b"]
    assert (facts.trained, facts.capabilities) == (8192, None)


def test_a_model_is_described_once_and_again_when_it_was_made_anew() -> None:
    facts = facts_of([listed("a:1", A), listed("b:1", B), listed("c:1", C)], [running("c:1")])
    assert list(facts.to_describe(["b:1", "nobody"])) == ["b:1", "c:1", "a:1"]
    facts.learn_descriptions({name: {} for name in ("a:1", "b:1", "c:1")})
    assert not list(facts.to_describe([]))
    facts.learn_list({"models": [listed("a:1", A), listed("b:1", A), listed("c:1", C), listed("d:1", "00")]})
    assert list(facts.to_describe([])) == ["b:1"], "without a digest nobody knows when to ask again"
    assert list(facts.to_describe(["d:1"])) == ["d:1", "b:1"]


def test_the_same_object_until_a_fact_changes() -> None:
    facts = facts_of([listed("m:1b")], [running("m:1b", expires_at="2026-01-01T00:00:00Z")])
    before = facts.by_model
    facts.learn_list({"models": [listed("m:1b", modified_at="now")]})
    facts.learn_loaded({"models": [running("m:1b", expires_at="2026-01-01T00:00:01Z")]})
    assert facts.by_model is before
    assert facts.residency["m:1b"].expires_at == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC).timestamp()
    facts.learn_loaded({"models": []})
    assert facts.by_model is not before
    assert before["m:1b"].loaded is True, "it is never changed in place"


def test_loads_and_evictions_are_counted() -> None:
    facts = facts_of([listed("m:1b"), listed("n:1b")])
    for names in (["m:1b"], ["m:1b"], ["n:1b"], [], ["m:1b", "n:1b"]):  # the first shows what was there before
        facts.learn_loaded({"models": [running(name) for name in names]})
    assert facts.turnover == {"m:1b": Turnover(1, 1), "n:1b": Turnover(2, 1)}
    facts.learn_loaded({"models": [running("m:1b", 8192), running("n:1b")]})
    assert facts.turnover["m:1b"] == Turnover(2, 2)
    facts.learn_loaded(None)  # the server was away
    facts.learn_loaded({"models": []})
    assert facts.turnover == {"m:1b": Turnover(2, 2), "n:1b": Turnover(2, 1)}


EXPIRIES = {
    "2026-11-28T07:02:36Z": 1795849356.0,
    "2026-11-28T07:02:36.831753123-07:00": 1795874556.831753,
    "2318-09-01T00:00:00Z": None,  # it stays
    "0001-01-01T00:00:00Z": None,
    "99999-01-01T00:00:00Z": None,
    "soon": None,
    "": None,
    5: None,
    None: None,
}


@pytest.mark.parametrize("said", EXPIRIES)
def test_expiries(said: object) -> None:
    facts = facts_of([], [running("m:1b", expires_at=said)])
    assert facts.residency["m:1b"].expires_at == EXPIRIES[said]  # type: ignore[index]


ODD = (None, True, -1, 0, 0.5, "4096", 10**30, [], {}, [4096], {"a": 1}, "x" * 10_000)


@pytest.mark.parametrize("value", ODD)
def test_odd_values_cost_the_fact(value: object) -> None:
    tags = {
        "models": [
            value,
            listed("plain:1b", A),
            {**dict.fromkeys(listed("x"), value), "name": "odd:1b", "remote_host": None},
            listed("details:1b", details={"context_length": value}),
            listed("words:1b", capabilities=[value, "tools"]),
        ]
    }
    facts = OllamaFacts(lambda _: None, lambda: True)
    facts.learn_list(tags)
    for name in ("odd:1b", "plain:1b"):
        facts.learn_descriptions({name: dict.fromkeys(("modelfile", "parameters", "model_info"), value)})
        facts.learn_descriptions(
            {name: {"model_info": {"general.architecture": value, f"{value}.context_length": value}}}
        )
    odd = {**dict.fromkeys(running("x"), value), "name": "odd:1b", "expires_at": value}
    facts.learn_loaded({"models": [value, odd, running("plain:1b", digest=A)]})
    assert facts.by_model["plain:1b"].window == 4096
    assert facts.by_model["odd:1b"] == ModelFacts(loaded=True, refuses=True)
    assert facts.residency["odd:1b"] in (Residency(), Residency(gpu_bytes=0))
    assert facts.by_model["details:1b"].trained is None
    assert facts.by_model["words:1b"].capabilities == frozenset({"tools"})


@pytest.mark.parametrize("document", [{}, *({"models": value} for value in ODD if not isinstance(value, list))])
def test_a_list_that_is_none(document: dict[str, Any]) -> None:
    facts = facts_of([listed("m:1b")])
    facts.learn_loaded(document)
    assert facts.by_model["m:1b"].loaded is None
    facts.learn_list(document)
    assert facts.by_model == {}


def test_ten_thousand_models() -> None:
    many = [listed(f"m{number}:1b", f"{number:064x}") for number in range(20_000)]
    facts = facts_of(many, [running("m7:1b")])
    assert len(facts.by_model) == 10_000
    assert facts.by_model["m7:1b"].loaded is True
    assert len(list(facts.to_describe([]))) == 10_000


def test_a_server_that_lists_no_loaded_model_although_models_answer() -> None:
    facts = facts_of([listed("m:1b")], [])
    facts.doubt_loaded()
    assert (facts.by_model["m:1b"].loaded, facts.tells_loaded) == (None, False)
    facts.learn_loaded({"models": []})
    assert facts.by_model["m:1b"].loaded is None
    facts.learn_loaded({"models": [running("other:1b")]})
    assert facts.by_model["m:1b"].loaded is False
    facts.doubt_loaded()
    assert facts.by_model["m:1b"].loaded is False, "it does list what is loaded"


def test_a_model_that_still_loads_is_not_loaded() -> None:
    """/api/ps lists it from the begin of its load."""
    facts = facts_of([listed("m:1b")], [])
    facts.begin_load("m:1b")
    facts.learn_loaded({"models": [running("m:1b")]})
    assert facts.by_model["m:1b"].loaded is False
    facts.end_load("m:1b")
    assert facts.by_model["m:1b"].loaded is True

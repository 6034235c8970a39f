"""The facts that llama.cpp, vLLM and LM Studio tell: tables of documents, good and odd, from a real HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

import pytest

from app.backends import BACKEND_TYPES
from app.backends.base import Backend
from app.errors import BackendError
from app.types import BackendConfig, ModelFacts, Timeouts
from tests.fakes.replies import Step, reply
from tests.fakes.upstream import Upstream

CHAT = frozenset({"completion", "tools"})
ODD = (None, True, -1, 0, 0.5, "4096", 10**30, [], {}, [4096], {"a": 1})
Make = Callable[..., tuple[Backend, Upstream]]


@pytest.fixture
def make() -> Iterator[Make]:
    opened: list[Any] = []

    def backend(kind: str, answers: Mapping[str, object], path: str = "", **config: Any) -> tuple[Backend, Upstream]:
        up = Upstream().__enter__()
        opened.append(up)
        for end, answer in answers.items():
            steps: list[Step] = answer if isinstance(answer, list) else reply(200, answer)
            up.script(steps, path=end, repeat=True)
        known = {"name": "b", "type": kind, "timeouts": Timeouts(2, 0.5, 0.5), "local": True}
        entry = BackendConfig(**{**known, "endpoint": up.url + path, **config})
        made = BACKEND_TYPES[kind](entry, {})
        opened.append(made)
        return made, up

    yield backend
    for one in reversed(opened):
        one.close() if isinstance(one, Backend) else one.__exit__(None, None, None)


def facts_of(backend: Backend) -> Mapping[str, ModelFacts]:
    for ask in (backend.discover, backend.ask_for_facts, backend.look):
        with suppress(BackendError):
            ask()
    return backend.facts


META = {"n_ctx_train": 8192, "size": 96_576_768, "n_params": 134_515_008}
SERVED = {"object": "list", "data": [{"id": "smollm2:135m", "aliases": ["small"], "meta": META}]}
PROPS = {
    "default_generation_settings": {"n_ctx": 2048, "params": {}},
    "total_slots": 2,
    "modalities": {"vision": False, "audio": False},
    "chat_template_caps": {"supports_tools": False},
}
FULL = ModelFacts(window=2048, refuses=True, capabilities=CHAT, size_bytes=96_576_768, trained=8192, places=2)
BARE = ModelFacts(refuses=True)

LLAMACPP: dict[str, tuple[dict[str, object], ModelFacts]] = {
    "all": ({"/v1/models": SERVED, "/props": PROPS}, FULL),
    "it sees": (
        {"/v1/models": {"data": [{"id": "small"}]}, "/props": {"modalities": {"vision": True}}},
        ModelFacts(refuses=True, capabilities=CHAT | {"vision"}),
    ),
    "no properties": (
        {
            "/v1/models": {"data": [{"id": "small", "meta": {**META, "n_ctx": 4096}}]},
            "/props": reply(404, {"error": {}}),
        },
        ModelFacts(window=4096, refuses=True, size_bytes=96_576_768, trained=8192),
    ),
    "properties that hang": (
        {"/v1/models": SERVED, "/props": [5.0]},
        ModelFacts(refuses=True, size_bytes=96_576_768, trained=8192),
    ),
    "properties in HTML": (
        {"/v1/models": {"data": [{"id": "small"}]}, "/props": reply(200, b"<html>", content_type="text/html")},
        BARE,
    ),
    "it sleeps": (
        {"/v1/models": {"data": [{"id": "small"}]}, "/props": {**PROPS, "is_sleeping": True}},
        ModelFacts(loaded=False, window=2048, refuses=True, capabilities=CHAT, places=2),
    ),
    **{
        f"odd: {value!r}": (
            {
                "/v1/models": {"data": [value, {"id": "small", "aliases": value, "meta": dict.fromkeys(META, value)}]},
                "/props": {
                    "default_generation_settings": {"n_ctx": value},
                    "total_slots": value,
                    "modalities": {"vision": value} if value is not True else value,
                    "is_sleeping": value or False,
                }
                if value is not True
                else dict.fromkeys(PROPS, value),
            },
            BARE,
        )
        for value in ODD
    },
}


@pytest.mark.parametrize("case", LLAMACPP)
def test_llamacpp(make: Make, case: str) -> None:
    """It serves one model, under every name."""
    answers, facts = LLAMACPP[case]
    backend, _ = make("llamacpp", answers, models=("Any/Name.gguf",), families={"qwen": "q"})
    told = facts_of(backend)
    assert told["small:latest"] == facts
    assert told["any/name.gguf:latest"] == facts
    assert told["q:latest"] == facts
    assert facts_of(backend) is told


def test_llamacpp_that_loads_models_on_demand(make: Make) -> None:
    states = {"a": "loaded", "b": "unloaded", "c": "loading", "d": "sleeping", "e": 5}
    data = [{"id": name, "status": {"value": state}} for name, state in states.items()]
    backend, _ = make("llamacpp", {"/v1/models": {"data": data}, "/props": PROPS}, models=("x",))
    loaded = {name.removesuffix(":latest"): facts.loaded for name, facts in facts_of(backend).items()}
    assert loaded == {"a": True, "b": False, "c": False, "d": False, "e": None}


def test_llamacpp_was_started_again_with_another_window(make: Make) -> None:
    backend, up = make("llamacpp", {"/v1/models": SERVED})
    for window in (2048, 8192):
        up.script(reply(200, {"default_generation_settings": {"n_ctx": window}}), path="/props")
        assert facts_of(backend)["small:latest"].window == window


VLLM: dict[str, tuple[object, dict[str, int | None]]] = {
    "one": ({"data": [{"id": "Qwen/Qwen3-32B", "max_model_len": 40_960}]}, {"qwen/qwen3-32b:latest": 40_960}),
    "an adapter": (
        {"data": [{"id": "base", "max_model_len": 8192}, {"id": "lora", "parent": "base", "max_model_len": None}]},
        {"base:latest": 8192, "lora:latest": 8192},
    ),
    "not told": ({"data": [{"id": "m"}]}, {"m:latest": None}),
    "HTML": (reply(200, b"<html>", content_type="text/html"), {}),
    "hanging": ([5.0], {}),
    "no list": ({"data": {"id": "m"}}, {}),
    **{
        f"odd: {value!r}": (
            {"data": [value, {"id": value}, {"id": "m", "parent": value, "max_model_len": value}]},
            {"m:latest": None, "4096:latest": None} if value == "4096" else {"m:latest": None},
        )
        for value in ODD
    },
}


@pytest.mark.parametrize("case", VLLM)
def test_vllm(make: Make, case: str) -> None:
    answer, windows = VLLM[case]
    backend, _ = make("vllm", {"/v1/models": answer})
    told = facts_of(backend)
    assert all(facts.refuses and facts.loaded is None for facts in told.values())
    assert {key: facts.window for key, facts in told.items()} == windows
    assert facts_of(backend) is told


def studio(name: str, state: str = "loaded", **more: object) -> dict[str, object]:
    return {"id": name, "object": "model", "type": "llm", "state": state, "max_context_length": 131_072, **more}


def studio_facts(loaded: bool = True, window: int | None = None, lacks: str = "", **more: Any) -> ModelFacts:
    known = {"capabilities": CHAT - {lacks}, "trained": 131_072}
    return ModelFacts(loaded=loaded, window=window, **{**known, **more})


STUDIO: dict[str, tuple[object, dict[str, ModelFacts]]] = {
    "loaded": (
        {"data": [studio("Qwen/Qwen3-8B", loaded_context_length=8192, capabilities=["tool_use"])]},
        {"qwen/qwen3-8b:latest": studio_facts(window=8192)},
    ),
    "not loaded": ({"data": [studio("m", "not-loaded")]}, {"m:latest": studio_facts(False)}),
    "loading": ({"data": [studio("m", "loading", loaded_context_length=5)]}, {"m:latest": studio_facts(False)}),
    "without tools": ({"data": [studio("m", capabilities=[])]}, {"m:latest": studio_facts(lacks="tools")}),
    "older": ({"data": [studio("m")]}, {"m:latest": studio_facts()}),
    "it sees": (
        {"data": [studio("m", type="vlm", capabilities=["tool_use"])]},
        {"m:latest": studio_facts(capabilities=CHAT | {"vision"})},
    ),
    "embeddings": (
        {"data": [studio("m", type="embeddings")]},
        {"m:latest": studio_facts(capabilities=frozenset({"embedding"}))},
    ),
    "another server": ({"data": [{"id": "m", "object": "model"}]}, {}),
    "no such path": (reply(404, {"error": "Unexpected endpoint"}), {}),
    "HTML": (reply(200, b"<html>", content_type="text/html"), {}),
    "hanging": ([5.0], {}),
    **{
        f"odd: {value!r}": (
            {
                "data": [
                    value,
                    studio(value),
                    studio("n", value),
                    {
                        **dict.fromkeys(studio("m"), value),
                        "id": "m",
                        "state": "loaded",
                        "loaded_context_length": value,
                        "capabilities": value,
                    },
                ]
            },
            {"m:latest": ModelFacts(loaded=True)},
        )
        for value in ODD
        if not isinstance(value, str)
    },
}


@pytest.mark.parametrize("path", ["/v1", ""])
@pytest.mark.parametrize("case", STUDIO)
def test_lm_studio(make: Make, case: str, path: str) -> None:
    answer, facts = STUDIO[case]
    backend, up = make("openai", {"/api/v0/models": answer}, path=path)
    facts_of(backend)
    assert backend.facts == facts
    assert backend.tells_loaded is bool(facts)
    assert {request.path for request in up.requests} >= {"/api/v0/models"}


def test_lm_studio_believes_the_last_window(make: Make) -> None:
    backend, up = make("openai", {})
    for entry, window in (
        (studio("m", loaded_context_length=8192), 8192),
        (studio("m", "not-loaded"), 8192),
        (studio("m", loaded_context_length=4096), 4096),
    ):
        up.script(reply(200, {"data": [entry]}), path="/api/v0/models")
        backend.look()
        assert backend.facts["m:latest"].window == window


@pytest.mark.parametrize("kind", ["openai", "sarmalink"])
@pytest.mark.parametrize("local", [None, False])
def test_hosted_servers_are_not_asked(make: Make, kind: str, local: bool | None) -> None:
    backend, up = make(kind, {}, local=local)
    backend.ask_for_facts()
    assert (dict(backend.facts), up.requests, backend.changes) == ({}, [], None)


@pytest.mark.parametrize("version", ["0.11.0", "0.33.0"])
def test_a_server_that_may_cut_is_asked_for_its_window_when_the_answer_is_old(make: Make, version: str) -> None:
    """It may have started again while no request came; a server that refuses long prompts need not be asked."""
    answers = {"/api/version": {"version": version}, "/api/tags": {"models": [{"name": "m:1b"}]}}
    backend, up = make("ollama", {**answers, "/api/ps": {"models": [{"name": "m:1b", "context_length": 4096}]}})
    backend.discover()
    backend.look()
    up.reset()
    up.script(reply(200, {"models": []}), path="/api/ps", repeat=True)
    backend.get_ready()
    assert backend.facts["m:1b"].loaded is True
    backend._facts.told_at -= 2  # type: ignore[attr-defined]
    backend.get_ready()
    assert backend.facts["m:1b"].loaded is (version == "0.33.0")

"""The first policy: where Ollama is, which model serves what, and a text that is always fit to serve."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from app import policy
from app.cli import surroundings
from app.cli.first_policy import describe, families, write
from app.cli.surroundings import Model, Server, Surroundings, explore, ollama_endpoint
from app.pipeline import detect
from app.routing.classify import classify
from app.routing.decide import decide
from app.routing.detect import Detectors
from app.settings import Settings
from app.types import Observations
from tests import build
from tests.documents import ROOT
from tests.e2e.server import Router
from tests.fakes.ollama import Model as Held
from tests.fakes.ollama import Ollama
from tests.fakes.replies import Step, html, reply
from tests.fakes.upstream import Upstream, refused_url


@pytest.mark.parametrize(
    "host, endpoint",
    [
        ("", "http://localhost:11434"),
        ("  ", "http://localhost:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://localhost:11434"),
        ("0.0.0.0:8080", "http://localhost:8080"),
        (":8080", "http://localhost:8080"),
        ("::", "http://localhost:11434"),
        ("[::]:8080", "http://localhost:8080"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("gpu.lan", "http://gpu.lan:11434"),
        ("http://gpu.lan", "http://gpu.lan"),
        ("http://gpu.lan:11434/", "http://gpu.lan:11434"),
        ("https://gpu.lan/ollama/", "https://gpu.lan/ollama"),
        ("http://0.0.0.0:11434", "http://localhost:11434"),
        ("http://10.0.0.0.example", "http://10.0.0.0.example"),
        ("gpu.lan:port", "http://localhost:11434"),
    ],
)
def test_the_address_of_ollama(host: str, endpoint: str) -> None:
    assert ollama_endpoint(host) == endpoint


GB = 10**9


def held(*names: str, **sizes: int) -> tuple[Model, ...]:
    return tuple(Model(name) for name in names) + tuple(Model(name, size * GB) for name, size in sizes.items())


def able(*models: str) -> tuple[Model, ...]:
    """Models that chat, each as `name:SIZEb capability …`: the server tells all of it."""
    words = [model.split() for model in models]
    return tuple(
        Model(name, int(name[-2]) * GB, capabilities=frozenset({"completion", *more})) for name, *more in words
    )


@pytest.mark.parametrize(
    "models, chosen",
    [
        ((), {}),
        (held("llama3.2:3b"), {"llama": "llama3.2:3b"}),
        (held("qwen2.5-coder:7b", "codellama:7b"), {"qwen-coder": "qwen2.5-coder:7b"}),
        (held("deepseek-coder", "gemma3:12b", "mistral"), {
            "qwen-coder": "deepseek-coder", "gemma": "gemma3:12b", "llama": "mistral",
        }),
        (held("Qwen2-VL:7b", "MiniCPM-V"), {"gemma": "Qwen2-VL:7b"}),
        (held("qwen2.5vl:7b", "devstral:24b", "qwen3:8b"), {
            "gemma": "qwen2.5vl:7b", "qwen-coder": "devstral:24b", "llama": "qwen3:8b",
        }),
        (held("gemma3:1b", "gemma3:270m", "gemma3n:e4b"), {"llama": "gemma3:1b"}),
        ((Model("secret:1b", reads_images=True), Model("plain:1b")), {"gemma": "secret:1b", "llama": "plain:1b"}),
        (held(small=2, middling=9, large=40), {"llama": "middling"}),
        (held(huge=80, large=40), {"llama": "large"}),
        (held("coder:x", coder_large=14, coder_small=4), {"qwen-coder": "coder_large"}),
        (able("eyes:1b vision", "plain:1b tools"), {"gemma": "eyes:1b", "llama": "plain:1b"}),
        (able("llava:7b tools", "gemma3:4b"), {"llama": "llava:7b"}),  # the server's word counts, not the name
        (able("big:9b", "small:3b tools"), {"llama": "small:3b"}),
        (able("big:9b", "small:3b"), {"llama": "big:9b"}),
        ((*able("big-coder:9b"), Model("coder:3b")), {"qwen-coder": "coder:3b"}),  # of it nothing is known
    ],
)  # fmt: skip
def test_which_model_serves_which_family(models: tuple[Model, ...], chosen: dict[str, str]) -> None:
    assert families(models) == chosen


MODELS = [(), ("llama3:8b",), ("qwen2.5-coder:7b", "llava:7b"), ("hf.co/org/Model-GGUF:Q4_K_M", "a", "b:c")]
HOSTED = [(), ("openai",), ("sarmalink",), ("openai", "sarmalink")]
ENDPOINTS = ["http://localhost:11434", "http://192.168.1.5:11434", "http://8.8.8.8:11434", "https://[2001:db8::1]"]
OTHERS = [(), (Server("vllm", "vllm", "vLLM", "http://127.0.0.1:8000", held("Qwen/Qwen3-Coder-30B", "llava")),), (
    Server("llamacpp", "llamacpp", "llama.cpp", "http://127.0.0.1:8080", held("/models/x.gguf")),
    Server("lmstudio", "openai", "LM Studio", "http://127.0.0.1:1234/v1", held("qwen3-4b")),
)]  # fmt: skip


@pytest.mark.parametrize("models, hosted, endpoint, others", list(itertools.product(MODELS, HOSTED, ENDPOINTS, OTHERS)))
def test_whatever_was_found_the_text_is_fit_to_serve(
    models: tuple[str, ...], hosted: tuple[str, ...], endpoint: str, others: tuple[Server, ...]
) -> None:
    ollama = (Server("local", "ollama", "Ollama", endpoint, held(*models)),) if models else ()
    text = write(Surroundings((*ollama, *others), hosted))
    loaded = policy.load(text, "policy.yaml", Settings())
    assert loaded.warnings == ()
    types = [config.type for config in loaded.policy.backends.values()]
    assert types == ([server.type for server in (*ollama, *others)] + list(hosted) or ["echo"])
    default = loaded.policy.routes[-1]
    assert (default.backend, *default.fallbacks) == tuple(loaded.policy.backends)
    private = [(route.backend, *route.fallbacks) for route in loaded.policy.routes if route.label == "sensitivity=high"]
    public = "8.8.8.8" in endpoint or "2001" in endpoint
    local = tuple(server.backend for server in ((*others,) if public else (*ollama, *others)))
    assert private == ([local] if local else [] if models or hosted else [("echo",)])
    assert max(map(len, text.splitlines())) <= 120
    assert loaded.policy.sensitivity.detect, "detectors are on"
    priced = {name for name, config in loaded.policy.backends.items() if config.price}
    assert priced == set(local), "what is not known is unknown"
    said = describe(Surroundings((*ollama, *others), hosted))
    flat = " ".join(text.replace("\n#", "").split())
    assert all(sentence in flat for sentence in said)
    outside = ("127.0.0.1", "localhost", "192.168")
    away = [one.endpoint.partition("://")[2] for one in ollama if not any(inside in one.endpoint for inside in outside)]
    for host in (*away, *(f"api.{kind}." for kind in hosted)):
        assert any("your network, for " in sentence and host in sentence for sentence in said), host
    nothing = any(sentence.startswith("No prompt leaves your network") for sentence in said)
    assert nothing == (not away and not hosted)


HARD = "Design a lock-free concurrent hash map in C++ with linearizable resize and prove its progress guarantees"


def goes_to(text: str, prompt: str | list[dict[str, object]], model: str = "auto") -> tuple[str, str]:
    """Backend and model that a prompt gets first."""
    rules = policy.load(text, "policy.yaml", Settings()).policy
    request = build.request({"messages": [{"role": "user", "content": prompt}]}, model=model)
    request = detect(request, Detectors(rules.sensitivity))
    local = frozenset(name for name, config in rules.backends.items() if config.local is not False)
    target = decide(request, classify(request), rules, Observations(local=local)).targets[0]
    return target.backend, target.model


CODE = "Fix this Python function: def f(x): retrun x + 1"
IMAGE = [
    {"type": "text", "text": "What is this?"},
    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
]


def test_five_models_each_get_what_they_are_for() -> None:
    five = held("llama3.2:1b", "llama3.1:8b", "qwen2.5-coder:7b", "gemma3:12b", "gemma3:1b")
    text = write(Surroundings((Server("local", "ollama", "Ollama", "http://localhost:11434", five),)))
    assert goes_to(text, "Why is the sky blue?") == ("local", "llama3.2:1b")
    assert goes_to(text, CODE) == ("local", "qwen2.5-coder:7b")
    assert goes_to(text, IMAGE) == ("local", "gemma3:12b")


def test_prompts_of_programs_go_to_the_smallest_local_model() -> None:
    ollama = Server("local", "ollama", "Ollama", "http://localhost:11434", held("llama3.1:8b", "qwen3:30b"))
    vllm = Server("vllm", "vllm", "vLLM", "http://127.0.0.1:8000", held("small-1b"))
    title = "Find a heading for this chat, at most five words, as JSON.\nUSER: hello\nASSISTANT: hi\nUSER: bread?"
    smallest = min((*ollama.models, *vllm.models), key=lambda model: model.size_bytes)
    target = next((server.backend, smallest.name) for server in (ollama, vllm) if smallest in server.models)
    assert goes_to(write(Surroundings((ollama, vllm), ("openai",))), title) == target
    alone = Server("local", "ollama", "Ollama", "http://localhost:11434", held("llama3.1:8b"))
    assert "purpose" not in write(Surroundings((alone,)))


def test_what_the_first_server_has_no_model_for_goes_to_another() -> None:
    ollama = Server("local", "ollama", "Ollama", "http://localhost:11434", held("llama3.1:8b"))
    vllm = Server("vllm", "vllm", "vLLM", "http://127.0.0.1:8000", held("Qwen/Qwen3-Coder-30B"))
    text = write(Surroundings((ollama, vllm), ("openai",)))
    assert goes_to(text, "Why is the sky blue?") == ("local", "llama3.1:8b")
    assert goes_to(text, CODE) == ("vllm", "Qwen/Qwen3-Coder-30B")
    assert goes_to(text, IMAGE) == ("openai", "gpt-4o-mini")
    assert goes_to(text, HARD) == ("openai", "gpt-4o-mini")


@pytest.mark.parametrize("hosted", [(), ("openai",), ("sarmalink", "openai")])
def test_what_a_first_policy_keeps_here(hosted: tuple[str, ...]) -> None:
    """Easy prompts, secrets, private requests that name a hosted model, and names that clients have built in."""
    ollama = Server("local", "ollama", "Ollama", "http://localhost:11434", held("llama3.1:8b", "llava:7b"))
    text = write(Surroundings((ollama,), hosted))
    assert goes_to(text, "Why is the sky blue?")[0] == "local"
    assert goes_to(text, HARD)[0] == (hosted[0] if hosted else "local")
    assert goes_to(text, HARD + " for sk-proj-abcdefghij0123456789XYZ")[0] == "local"
    for model in ("gpt-4o", "gpt-4o-mini", "GPT-4o-mini"):
        assert goes_to(text, "Why is the sky blue?", model)[0] == "local"
    for kind in hosted:
        assert goes_to(text, "My card is 4111 1111 1111 1111", kind)[0] == "local"
        assert goes_to(text, "Why is the sky blue?", kind)[0] == kind


# --- looking around -----------------------------------------------------------------------------


def at(port_of: Upstream, kind: str) -> Server:
    known = {"llamacpp": "llama.cpp", "vllm": "vLLM", "openai": "LM Studio"}
    name = "lmstudio" if kind == "openai" else kind
    return Server(name, kind, known[kind], port_of.url + ("/v1" if kind == "openai" else ""))


def owned(owner: str, *names: str) -> list[Step]:
    return reply(200, {"object": "list", "data": [{"id": name, "owned_by": owner} for name in names]})


def test_servers_on_their_usual_ports(upstream: Callable[..., Upstream]) -> None:
    llama, vllm, studio = upstream(), upstream(), upstream(models=["qwen3-4b", "text-embedding-nomic"])
    llama.script(owned("llamacpp", "/models/x.gguf"), path="/v1/models", repeat=True)
    vllm.script(owned("vllm", "Qwen/Qwen3-32B"), path="/v1/models", repeat=True)
    with refused_url() as nobody:
        found = explore({"OLLAMA_HOST": nobody}, [at(llama, "llamacpp"), at(vllm, "vllm"), at(studio, "openai")])
    assert [(one.backend, one.type, [model.name for model in one.models]) for one in found.servers] == [
        ("llamacpp", "llamacpp", ["/models/x.gguf"]),
        ("vllm", "vllm", ["Qwen/Qwen3-32B"]),
        ("lmstudio", "openai", ["qwen3-4b"]),
    ]
    assert f"vLLM at {vllm.url} has 1 model" in found.notes
    assert {request.path for request in studio.requests} <= {"/v1/models", "/api/v0/models"}, "nothing is loaded"


def test_a_server_is_what_it_says_not_what_its_port_says(upstream: Callable[..., Upstream]) -> None:
    up = upstream()
    up.script(owned("llamacpp", "x.gguf"), path="/v1/models", repeat=True)
    with refused_url() as nobody:
        (server,) = explore({"OLLAMA_HOST": nobody}, [at(up, "vllm")]).servers
    assert (server.backend, server.type, server.endpoint) == ("llamacpp", "llamacpp", up.url)


@pytest.mark.parametrize(
    "answer",
    [
        html(), reply(404, {"detail": "Not Found"}), reply(401, {"error": "key"}), reply(200, {"data": []}),
        reply(200, {"data": "no"}), reply(200, {"data": [1]}), owned("router", "auto", "local"),
    ],
)  # fmt: skip
def test_something_else_on_such_a_port(upstream: Callable[..., Upstream], answer: list[Step]) -> None:
    up = upstream()
    up.script(answer, path="/v1/models", repeat=True)
    with refused_url() as nobody:
        assert explore({"OLLAMA_HOST": nobody}, [at(up, "llamacpp")]).servers == ()


def test_what_ollama_tells_of_its_models(upstream: Callable[..., Upstream]) -> None:
    up = upstream()
    tags = [
        {"name": "a:8b", "size": 5 * GB, "details": {"families": ["llama"]}},
        {"name": "b:7b", "size": 4 * GB, "details": {"families": ["llama", "clip"]}},
        {"name": "c:cloud", "size": 0},
        {"name": "nomic-embed-text", "size": 1},
    ]
    up.script(reply(200, {"models": tags}), path="/api/tags")
    up.script(loaded("a:8b", 32768), path="/api/ps", repeat=True)
    found = explore(
        {"OLLAMA_HOST": up.url, "OPENAI_API_KEY": "sk-x", "ANTHROPIC_API_KEY": "none", "SARMALINK_API_KEY": " "}, []
    )
    assert found.servers[0].models == (Model("a:8b", 5 * GB, window=32768), Model("b:7b", 4 * GB, reads_images=True))
    assert found.hosted == ("openai",)
    assert windows(found) == {"a:8b": 32768}, "of the others nothing is known"


def loaded(name: str, window: int) -> list[Step]:
    return reply(200, {"models": [{"name": name, "context_length": window}]})


def windows(found: Surroundings) -> dict[str, int]:
    return dict(policy.load(write(found), "p", Settings()).policy.backends["local"].context_windows)


def test_models_that_ollama_hands_on_are_named_and_left_out(upstream: Callable[..., Upstream]) -> None:
    remote = {"llama3:latest": "https://ollama.com:443", "qwen-coder:7b": "https://box.example"}
    up = upstream(models=["llama3:latest", "qwen-coder:7b", "phi4:14b", "kimi:cloud"], remote=remote)
    found = explore({"OLLAMA_HOST": up.url}, [])
    elsewhere = "llama3:latest at ollama.com:443, qwen-coder:7b at box.example"
    assert found.notes == (f"Ollama at {up.url} has 4 models; other hosts run {elsewhere}",)
    text = write(found)
    config = policy.load(text, "p", Settings()).policy.backends["local"]
    assert (config.models, dict(config.families)) == (("phi4:14b",), {})
    assert [line.strip() for line in text.splitlines() if "left out" in line] == [
        "# llama3:latest is left out: it runs at ollama.com:443",
        "# qwen-coder:7b is left out: it runs at box.example",
        "# kimi:cloud is left out: it runs at its maker's cloud",
    ]


def test_an_ollama_that_only_hands_on_is_no_backend(upstream: Callable[..., Upstream]) -> None:
    up = upstream(models=["llama3:latest"], remote={"llama3:latest": "https://ollama.com:443"})
    found = explore({"OLLAMA_HOST": up.url}, [])
    assert found.servers == () and "llama3:latest at ollama.com:443" in found.notes[0]


@pytest.mark.parametrize(
    "addresses, local",
    [(None, True), (("127.0.0.1",), True), (("192.168.1.5", "fd00::5"), True), (("93.184.216.34",), False),
     (("10.0.0.1", "93.184.216.34"), False)],
)  # fmt: skip
@pytest.mark.parametrize("host", ["localhost", "gpu.example"])
def test_a_name_that_leads_outside_is_not_local(host: str, addresses: tuple[str, ...] | None, local: bool) -> None:
    ollama = Server("local", "ollama", "Ollama", f"http://{host}:11434", held("llama3:8b"), addresses=addresses)
    routes = policy.load(write(Surroundings((ollama,))), "p", Settings()).policy.routes
    assert ("sensitivity=high" in [route.label for route in routes]) is local


def test_the_address_of_ollama_is_looked_up(upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    up = upstream(models=["m:1"])
    asked: list[str] = []
    monkeypatch.setattr(surroundings, "resolve", lambda host: asked.append(host) or ["93.184.216.34"])
    found = explore({"OLLAMA_HOST": f"http://localhost:{up.port}"}, [])
    assert (asked, found.servers[0].addresses) == (["localhost"], ("93.184.216.34",))
    assert "sensitivity: high" not in write(found).replace("X-LLR-Sensitivity: high", "")


def test_the_windows_of_ollama(upstream: Callable[..., Upstream]) -> None:
    """Loaded, given in the Modelfile, not told.  The variable of this shell is not that of the server."""
    two = ["llama3.1:8b", "qwen2.5-coder:7b"]
    up = upstream(models=two)
    environ = {"OLLAMA_HOST": up.url}
    assert windows(explore(environ, [])) == {}
    assert windows(explore({**environ, "OLLAMA_CONTEXT_LENGTH": "16384"}, [])) == {}
    up.script(loaded(two[0], 32768), path="/api/ps", repeat=True)
    assert windows(explore(environ, [])) == {two[0]: 32768}
    up.script(reply(200, {"parameters": 'stop "<s>"\nnum_ctx  8192'}), path="/api/show", repeat=True)
    assert windows(explore(environ, [])) == {two[0]: 32768, two[1]: 8192}


def test_a_scripted_ollama_gives_its_facts() -> None:
    """Windows in force, of the Modelfile and small ones; what models can use; what is no model for a chat."""
    held = [
        Held("chat:8b", capabilities=("completion", "tools")),
        Held("poem:9b", capabilities=("completion",), size_bytes=9 * GB),
        Held("look:12b", capabilities=("completion", "vision"), num_ctx=16384),
        Held("search:1b", capabilities=("embedding",)),
    ]
    with Ollama(held, window=4096) as server:
        urlopen(Request(f"{server.url}/api/generate", data=b'{"model": "chat:8b"}')).read()
        found = explore({"OLLAMA_HOST": server.url, "OLLAMA_CONTEXT_LENGTH": "32768"}, [])
        assert server.loads == ["chat:8b"], "to look around loads nothing"
    text = write(found)
    config = policy.load(text, "p", Settings()).policy.backends["local"]
    assert dict(config.families) == {"llama": "chat:8b", "gemma": "look:12b"}
    assert dict(config.context_windows) == {"look:12b": 16384}
    assert "# Ollama runs chat:8b with 4096 tokens; it was trained for 131072. `numCtx: 16384` asks for more." in text
    assert "search:1b" not in text and "32768" not in text
    assert goes_to(text, IMAGE) == ("local", "look:12b")


@pytest.mark.parametrize("told, number", [({"total_slots": 4}, 4), ({"total_slots": 0}, 0), ({}, 0)])
def test_the_places_of_llama_cpp(upstream: Callable[..., Upstream], told: dict[str, int], number: int) -> None:
    llama = upstream()
    llama.script(owned("llamacpp", "/models/x.gguf"), path="/v1/models", repeat=True)
    llama.script(reply(200, {"default_generation_settings": {"n_ctx": 32768}, **told}), path="/props", repeat=True)
    with refused_url() as nobody:
        text = write(explore({"OLLAMA_HOST": nobody}, [at(llama, "llamacpp")]))
    config = policy.load(text, "p", Settings()).policy.backends["llamacpp"]
    assert config.max_concurrency == ({"*": number} if number else {})
    assert ("maxConcurrency" in text) is bool(number)


@pytest.mark.parametrize("name", ["C:\\models\\new.gguf", 'the "best" one', "x: {y}", "#1", "größer:1b"])
def test_any_name_of_a_model_can_be_written(upstream: Callable[..., Upstream], name: str) -> None:
    llama = upstream()
    llama.script(owned("llamacpp", name, "two\nlines: {}"), path="/v1/models", repeat=True)
    with refused_url() as nobody:
        text = write(explore({"OLLAMA_HOST": nobody}, [at(llama, "llamacpp")]))
    assert policy.load(text, "p", Settings()).policy.backends["llamacpp"].models == (name,)


def test_lm_studio_gives_its_facts(upstream: Callable[..., Upstream]) -> None:
    studio = upstream(models=["qwen3-4b", "look-7b", "unused-8b"])
    known = {"max_context_length": 32768, "state": "not-loaded"}
    told = [
        {"id": "qwen3-4b", "type": "llm", **known, "state": "loaded", "loaded_context_length": 8192},
        {"id": "look-7b", "type": "vlm", **known},
        {"id": "unused-8b", "type": "llm", **known},
    ]
    studio.script(reply(200, {"object": "list", "data": told}), path="/api/v0/models", repeat=True)
    with refused_url() as nobody:
        text = write(explore({"OLLAMA_HOST": nobody}, [at(studio, "openai")]))
    config = policy.load(text, "p", Settings()).policy.backends["lmstudio"]
    assert (config.families["gemma"], config.context_window("qwen3-4b")) == ("look-7b", 8192)
    assert goes_to(text, IMAGE) == ("lmstudio", "look-7b")


def test_a_first_policy_names_no_window_that_nobody_told(upstream: Callable[..., Upstream]) -> None:
    text = write(explore({"OLLAMA_HOST": upstream(models=["llama3.1:8b"]).url}, []))
    assert "\n    contextWindow" not in text and "# contextWindow: 16384       # is not needed" in text


def test_an_ollama_that_falls_silent(upstream: Callable[..., Upstream], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "_TIMEOUT_S", 0.05)
    up = upstream(models=["llama3.1:8b", "qwen2.5-coder:7b"])
    up.script([10.0], path="/api/ps", repeat=True)
    (server,) = explore({"OLLAMA_HOST": up.url}, []).servers
    assert [model.window for model in server.models] == [None, None]
    assert [request.path for request in up.requests] == ["/api/tags", "/api/ps"], "it is not asked again"


def test_the_window_of_other_servers(upstream: Callable[..., Upstream]) -> None:
    llama, vllm = upstream(), upstream()
    llama.script(owned("llamacpp", "/models/x.gguf"), path="/v1/models", repeat=True)
    llama.script(reply(200, {"default_generation_settings": {"n_ctx": 32768}}), path="/props", repeat=True)
    served = {"data": [{"id": "Qwen/Qwen3-32B", "owned_by": "vllm", "max_model_len": 40960}]}
    vllm.script(reply(200, served), path="/v1/models", repeat=True)
    with refused_url() as nobody:
        found = explore({"OLLAMA_HOST": nobody}, [at(llama, "llamacpp"), at(vllm, "vllm")])
    assert [model.window for server in found.servers for model in server.models] == [32768, 40960]


@pytest.mark.e2e
def test_from_five_models_of_ollama_to_the_right_answers(
    upstream: Callable[..., Upstream], router: Callable[..., Router], tmp_path: Path
) -> None:
    """`flask init`, `flask policy check`, and a router that sends code, an image and a question to the right model."""
    up = upstream(models=["llama3.1:8b", "qwen2.5-coder:7b", "gemma3:12b", "nomic-embed-text", "gpt-oss:120b-cloud"])
    environ = {"PATH": "", "LLR_POLICY": str(tmp_path / "policy.yaml"), "OLLAMA_HOST": up.url}
    for command in (["init"], ["policy", "check"]):
        whole = [sys.executable, "-m", "flask", *command]
        done = subprocess.run(whole, cwd=ROOT, env=environ, text=True, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    running = router((tmp_path / "policy.yaml").read_text("utf-8"))
    for asked in ("Why is the sky blue?", CODE, IMAGE):
        answer = running.post("/v1/chat/completions", {"messages": [{"role": "user", "content": asked}]})
        assert answer.status == 200
    assert [chat.model for chat in up.chats] == ["llama3.1:8b", "qwen2.5-coder:7b", "gemma3:12b"]
    private = running.chat("hello", headers={"X-LLR-Sensitivity": "high"})
    assert (private.status, private.headers["X-LLR-Model"]) == (200, "llama3.1:8b")

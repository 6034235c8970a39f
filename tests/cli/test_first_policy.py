"""The first policy: where Ollama is, which model serves what, and a text that is always fit to serve."""

from __future__ import annotations

import itertools

import pytest

from app import policy
from app.cli.first_policy import Found, families, ollama_endpoint, write
from app.settings import Settings


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


@pytest.mark.parametrize(
    "models, chosen",
    [
        ((), {}),
        (("llama3.2:3b",), {"llama": "llama3.2:3b"}),
        (("qwen2.5-coder:7b", "codellama:7b"), {"qwen-coder": "qwen2.5-coder:7b"}),
        (("deepseek-coder", "gemma3:12b", "mistral"), {
            "qwen-coder": "deepseek-coder", "gemma": "gemma3:12b", "llama": "mistral",
        }),
        (("Qwen2-VL:7b", "MiniCPM-V"), {"gemma": "Qwen2-VL:7b"}),
    ],
)  # fmt: skip
def test_which_model_serves_which_family(models: tuple[str, ...], chosen: dict[str, str]) -> None:
    assert families(models) == chosen


MODELS = [(), ("llama3:8b",), ("qwen2.5-coder:7b", "llava:7b"), ("hf.co/org/Model-GGUF:Q4_K_M", "a", "b:c")]
HOSTED = [(), ("openai",), ("sarmalink",), ("openai", "sarmalink")]
ENDPOINTS = ["http://localhost:11434", "http://192.168.1.5:11434", "http://8.8.8.8:11434", "https://[2001:db8::1]"]


@pytest.mark.parametrize("models, hosted, endpoint", list(itertools.product(MODELS, HOSTED, ENDPOINTS)))
def test_whatever_was_found_the_text_is_fit_to_serve(
    models: tuple[str, ...], hosted: tuple[str, ...], endpoint: str
) -> None:
    text = write(Found(endpoint, models, hosted, ""))
    loaded = policy.load(text, "policy.yaml", Settings())
    assert loaded.warnings == ()
    types = [config.type for config in loaded.policy.backends.values()]
    assert types == (["ollama"] if models else [] if hosted else ["echo"]) + list(hosted)
    default = loaded.policy.routes[-1]
    assert (default.backend, *default.fallbacks) == tuple(loaded.policy.backends)
    private = [route.backend for route in loaded.policy.routes if route.label == "sensitivity=high"]
    public = "8.8.8.8" in endpoint or "2001" in endpoint
    assert private == (["local"] if models and not public else [] if models or hosted else ["echo"])
    assert max(map(len, text.splitlines())) <= 120

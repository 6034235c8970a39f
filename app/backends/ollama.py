"""Ollama's OpenAI-compatible API.  Facts: https://github.com/ollama/ollama/blob/main/docs/api.md and openai.md."""

import re
from collections.abc import Mapping
from typing import Any

from app.backends.base import Backend, entries_of
from app.types import Dialect

_NUM_CTX = re.compile(r"^num_ctx\s+(\d+)", re.MULTILINE)


class OllamaBackend(Backend):
    type = "ollama"
    hosted = False
    default_endpoint = "http://localhost:11434"
    chat_path = "/v1/chat/completions"
    models_path = "/api/tags"
    hint = " (is Ollama running?)"
    dialect = Dialect(
        reasoning_field="reasoning",
        max_tokens_only=True,
        system_first=True,
        efforts={"minimal": "low", "xhigh": "high"},
    )

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        """People also write the `/v1` that their SDK settings have."""
        return endpoint.rstrip("/").removesuffix("/v1")

    def model_names(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(entry["name"]) for entry in entries_of(document, "models") if entry.get("name"))

    def runs_with(self, model: str) -> int | None:
        """Of a loaded model what it was loaded with, else what its Modelfile says."""
        for entry in entries_of(self.ask("/api/ps"), "models"):
            if entry.get("name") == model and isinstance(entry.get("context_length"), int):
                return int(entry["context_length"])
        found = _NUM_CTX.search(str(self.ask("/api/show", {"model": model}).get("parameters") or ""))
        return int(found[1]) if found else None

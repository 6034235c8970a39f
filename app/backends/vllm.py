"""vLLM's OpenAI-compatible server.  Facts: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html."""

from __future__ import annotations

from collections.abc import Mapping

from app.backends.base import V1_PATHS, Backend, entries_of
from app.backends.fact_values import tokens
from app.routing.locality import model_key
from app.types import BackendConfig, Dialect, JsonObject, ModelFacts


class VllmBackend(Backend):
    type = "vllm"
    hosted = False
    default_endpoint = "http://localhost:8000"
    paths = V1_PATHS
    models_path = "/v1/models"
    hint = " (is vLLM running?)"
    dialect = Dialect(reasoning_field="reasoning", system_first=True, efforts={"minimal": "low", "xhigh": "high"})

    logprob_members = {"logprobs": True}  # noqa: RUF012 - never changed
    absent_logprobs = "null"

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        self._facts: Mapping[str, ModelFacts] = {}

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

    def learn_list(self, document: JsonObject) -> None:
        entries = [entry for entry in entries_of(document, "data") if isinstance(entry.get("id"), str)]
        windows = {entry["id"]: tokens(entry.get("max_model_len")) for entry in entries}
        facts = {}
        for entry in entries:
            base = entry.get("parent")  # of an adapter, whose own window is not told
            window = windows[entry["id"]] or (windows.get(base) if isinstance(base, str) else None)
            facts[model_key(entry["id"])] = ModelFacts(window=window, refuses=True)
        if facts != self._facts:
            self._facts = facts

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        return self._facts

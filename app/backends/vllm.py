"""vLLM's OpenAI-compatible server.  Facts: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html."""

from app.backends.base import V1_PATHS, Backend, entries_of
from app.types import Dialect


class VllmBackend(Backend):
    type = "vllm"
    hosted = False
    default_endpoint = "http://localhost:8000"
    paths = V1_PATHS
    models_path = "/v1/models"
    hint = " (is vLLM running?)"
    dialect = Dialect(reasoning_field="reasoning", system_first=True, efforts={"minimal": "low", "xhigh": "high"})

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

    def runs_with(self, model: str) -> int | None:
        for entry in entries_of(self.ask(self.models_path), "data"):
            if entry.get("id") == model and isinstance(entry.get("max_model_len"), int):
                return int(entry["max_model_len"])
        return None

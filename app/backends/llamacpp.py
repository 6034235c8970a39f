"""llama.cpp's servers: llama-server, and the Python one of llama-cpp-python.

Facts: https://github.com/ggml-org/llama.cpp/tree/master/tools/server.  Both read json_object with a schema; only the
first reads json_schema (the second was tried).
"""

from app.backends.base import V1_PATHS, Backend
from app.types import Dialect


class LlamaCppBackend(Backend):
    type = "llamacpp"
    hosted = False
    default_endpoint = "http://localhost:8080"
    paths = V1_PATHS
    models_path = "/v1/models"
    hint = " (is llama-server running?)"
    # Only llama-server of 2026 reads max_completion_tokens (https://github.com/ggml-org/llama.cpp/pull/19831).
    dialect = Dialect(json_schema=False, max_tokens_only=True, system_first=True)

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

    def runs_with(self, model: str) -> int | None:  # noqa: ARG002 - it serves one
        settings = self.ask("/props").get("default_generation_settings")
        size = settings.get("n_ctx") if isinstance(settings, dict) else None
        return size if isinstance(size, int) else None

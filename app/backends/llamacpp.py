"""llama.cpp's own server.  Facts: https://github.com/ggml-org/llama.cpp/tree/master/tools/server."""

from app.backends.base import Backend


class LlamaCppBackend(Backend):
    type = "llamacpp"
    hosted = False
    default_endpoint = "http://localhost:8080"
    chat_path = "/v1/chat/completions"
    models_path = "/v1/models"
    hint = " (is llama-server running?)"

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

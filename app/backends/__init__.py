"""Register the backend types, one line for each."""

from collections.abc import Mapping

from app.backends.anthropic import AnthropicBackend
from app.backends.base import Backend
from app.backends.echo import EchoBackend
from app.backends.llamacpp import LlamaCppBackend
from app.backends.ollama import OllamaBackend
from app.backends.openai import OpenAIBackend
from app.backends.sarmalink import SarmalinkBackend
from app.backends.vllm import VllmBackend

BACKEND_TYPES: Mapping[str, type[Backend]] = {
    kind.type: kind
    for kind in (
        OllamaBackend,
        LlamaCppBackend,
        VllmBackend,
        OpenAIBackend,
        AnthropicBackend,
        SarmalinkBackend,
        EchoBackend,
    )
}

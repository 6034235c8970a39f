"""OpenAI, and any hosted or home server that speaks its API under an endpoint of its own."""

from app.backends.base import Backend
from app.types import Dialect


class OpenAIBackend(Backend):
    type = "openai"
    default_endpoint = "https://api.openai.com/v1"
    default_key_env = "OPENAI_API_KEY"
    dialect = Dialect(max_tokens_field="max_completion_tokens", developer_role=True, verbosity=True)

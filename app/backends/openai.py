"""Call OpenAI, or another server that speaks its API at another endpoint."""

import dataclasses
import re
from collections.abc import Mapping

from app.backends.base import Backend
from app.types import BackendConfig, Dialect

# OpenAI's reasoning models, also behind a gateway (`openai/gpt-5`): they refuse `max_tokens`.
_REASONING = re.compile(r"(?:.*[/:])?(?:o[1-9]|gpt-(?:[5-9]|[1-9]\d))(?![a-z0-9])", re.IGNORECASE)


class OpenAIBackend(Backend):
    type = "openai"
    default_endpoint = "https://api.openai.com/v1"
    default_key_env = "OPENAI_API_KEY"
    responses_at_default = True

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        if config.endpoint == self.default_endpoint:  # other servers get only the parameters that every server reads
            self.dialect = Dialect(
                reasoning_field="", max_tokens_field="max_completion_tokens", developer_role=True, verbosity=True
            )
        reasoning = dataclasses.replace(self.dialect, max_tokens_field="max_completion_tokens", max_tokens_only=True)
        self._dialects = (self.dialect, reasoning)

    def dialect_for(self, model: str) -> Dialect:
        return self._dialects[_REASONING.match(model) is not None]

"""Call OpenAI, or another server that speaks its API at another endpoint."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from gevent.event import Event

from app.backends import lm_studio
from app.backends.base import Backend
from app.backends.pool import ConnectionPool
from app.types import BackendConfig, Dialect, ModelFacts

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
        self._facts: Mapping[str, ModelFacts] = {}
        self._changes = Event() if config.local else None
        root = config.endpoint.removesuffix("/v1")
        self._root_connections = ConnectionPool(root, config.timeouts, self._authorities)

    def dialect_for(self, model: str) -> Dialect:
        return self._dialects[_REASONING.match(model) is not None]

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        return self._facts

    @property
    def changes(self) -> Event | None:
        return self._changes

    @property
    def tells_loaded(self) -> bool:
        return bool(self._facts)

    def ask_for_facts(self, models: Sequence[str] = ()) -> None:  # noqa: ARG002 - it lists all of them
        """Ask a server that the policy calls local whether it is an LM Studio."""
        if self.config.local:
            self.look()

    def look(self) -> None:
        facts: Mapping[str, ModelFacts] = {}
        try:
            facts = lm_studio.read_models(self.ask(lm_studio.PATH, via=self._root_connections), self._facts)
        finally:
            if facts != self._facts:
                self._facts = facts

    def close(self) -> None:
        super().close()
        self._root_connections.close()

"""Call Anthropic, which speaks the Messages API.  Facts: https://docs.claude.com/en/api/overview."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from app.backends.base import V1_PATHS, Backend
from app.fields import Number
from app.types import BackendConfig, ChatRequest, Dialect, Outgoing, StoredRequest, Target

_VERSION = {"anthropic-version": "2023-06-01"}  # of clients of other APIs, which send none


class AnthropicBackend(Backend):
    type = "anthropic"
    default_endpoint = "https://api.anthropic.com"
    default_key_env = "ANTHROPIC_API_KEY"
    paths = V1_PATHS
    models_path = "/v1/models"
    messages_only = True
    policy_fields = {  # noqa: RUF012 - never changed
        "max_tokens": Number(
            1,
            whole=True,
            data_key="maxTokens",
            metadata={"help": "the longest reply in tokens for clients that name no limit", "default": "8192"},
        )
    }

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        self.dialect = Dialect(is_anthropic=True)
        if most := config.own.get("max_tokens"):
            self.dialect = dataclasses.replace(self.dialect, most_tokens=int(most))

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

    def prepare(self, request: ChatRequest | StoredRequest, target: Target, *, stream: bool) -> Outgoing:
        outgoing = super().prepare(request, target, stream=stream)
        return dataclasses.replace(outgoing, headers={**_VERSION, **outgoing.headers})

    def _headers(self, body: bytes | None) -> dict[str, str]:
        headers = super()._headers(body)
        if "Authorization" in headers:
            headers["x-api-key"] = headers.pop("Authorization").removeprefix("Bearer ")
        return {**_VERSION, **headers}

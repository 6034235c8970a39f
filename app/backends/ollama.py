"""Ollama's OpenAI-compatible API.  Facts: https://github.com/ollama/ollama/blob/main/docs/api.md and openai.md, and
server/routes.go of 0.17."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.backends.base import V1_PATHS, Backend, entries_of
from app.backends.model_hosts import ModelHosts
from app.errors import BackendDenied, BackendRejected, PrivacyViolation
from app.routing.locality import host_of, is_cloud_model, model_key
from app.types import BackendConfig, Dialect

_NUM_CTX = re.compile(r"^num_ctx\s+(\d{1,12})\b", re.MULTILINE)
_MOST_HOST_CHARS = 100
_UNNAMED = "an unnamed host"


class OllamaBackend(Backend):
    type = "ollama"
    hosted = False
    default_endpoint = "http://localhost:11434"
    paths = V1_PATHS
    models_path = "/api/tags"
    hint = " (is Ollama running?)"
    dialect = Dialect(
        reasoning_field="reasoning",
        max_tokens_only=True,
        system_first=True,
        efforts={"minimal": "low", "xhigh": "high"},
    )

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        self._hosts = ModelHosts(self._ask_for_host)

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        """People also write the `/v1` that their SDK settings have."""
        return endpoint.rstrip("/").removesuffix("/v1")

    @property
    def model_hosts(self) -> Mapping[str, str]:
        return self._hosts.known

    def host_of_model(self, model: str) -> str:
        return self._hosts.confirm(model)

    def discover(self) -> tuple[str, ...]:
        """Put the models first that the server runs itself: where nobody names one, the first is taken."""
        document = self.ask(self.models_path)
        hosts = {model_key(str(entry["name"])): host_said(entry) for entry in _named(document)}
        self._hosts.learn(hosts)
        names = self.model_names(document)
        return tuple(sorted(names, key=lambda name: is_cloud_model(name) or bool(hosts[model_key(name)])))

    def model_names(self, document: Mapping[str, Any]) -> tuple[str, ...]:
        return tuple(str(entry["name"]) for entry in _named(document))

    def runs_with(self, model: str) -> int | None:
        """Of a loaded model what it was loaded with, else what its Modelfile says."""
        for entry in entries_of(self.ask("/api/ps"), "models"):
            if entry.get("name") == model and isinstance(entry.get("context_length"), int):
                return int(entry["context_length"])
        found = _NUM_CTX.search(str(self.ask("/api/show", {"model": model}).get("parameters") or ""))
        return int(found[1]) if found else None

    def _ask_for_host(self, model: str) -> str:
        """Ask where a model runs.  A version that answers 404, or names no host, hands no model on."""
        try:
            return host_said(self.ask("/api/show", {"model": model}, private=True))
        except BackendDenied as error:
            if error.kind != "http_404":
                raise
        if self._has_aliases():
            raise PrivacyViolation("it does not hold this model, and an alias may lead to another host")
        return ""

    def _has_aliases(self) -> bool:
        """Some versions (0.17 is one) lead a name that they do not hold to another model, but not in /api/show."""
        try:
            return bool(entries_of(self.ask("/api/experimental/aliases", private=True), "aliases"))
        except (BackendDenied, BackendRejected):  # it knows no such thing
            return False


def _named(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [entry for entry in entries_of(document, "models") if entry.get("name")]


def host_said(said: Mapping[str, Any]) -> str:
    """Return host:port where a model runs by what /api/tags or /api/show says of it; "" = at the server itself."""
    host = said.get("remote_host")
    if not host and not said.get("remote_model"):
        return ""
    url = host.strip() if isinstance(host, str) else ""
    name = host_of(url if "://" in url else f"http://{url}").rpartition("@")[2][:_MOST_HOST_CHARS]
    return name if name.isascii() and name.isprintable() and name.strip() else _UNNAMED

"""Ollama's OpenAI-compatible API.  Facts: https://github.com/ollama/ollama/blob/main/docs/api.md and openai.md, and
server/routes.go of 0.17."""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.backends.base import V1_PATHS, Backend, entries_of
from app.backends.model_hosts import ModelHosts
from app.errors import BackendDenied, BackendRejected, PrivacyViolation
from app.routing.locality import host_of, is_cloud_model, model_key
from app.types import BackendConfig, Dialect, JsonObject

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
        return self._hosts.by_model

    def host_of_model(self, model: str) -> str:
        return self._hosts.confirm(model)

    def discover(self) -> tuple[str, ...]:
        """Put the models first that the server runs itself: a request that names none gets the first."""
        document = self.ask(self.models_path)
        hosts = {model_key(str(entry["name"])): host_said(entry) for entry in _named(document)}
        self._hosts.learn(hosts)
        names = self.model_names(document)
        return tuple(sorted(names, key=lambda name: is_cloud_model(name) or bool(hosts[model_key(name)])))

    def model_names(self, document: JsonObject) -> tuple[str, ...]:
        return tuple(str(entry["name"]) for entry in _named(document))

    def runs_with(self, model: str) -> int | None:
        """Return the size with which a loaded model was loaded, else the size in its Modelfile."""
        for entry in entries_of(self.ask("/api/ps"), "models"):
            if entry.get("name") == model and isinstance(entry.get("context_length"), int):
                return int(entry["context_length"])
        parameter = _NUM_CTX.search(str(self.ask("/api/show", {"model": model}).get("parameters") or ""))
        return int(parameter[1]) if parameter else None

    def _ask_for_host(self, model: str) -> str:
        """Ask where a model runs.  A version that answers 404, or names no host, runs all models itself."""
        try:
            return host_said(self.ask("/api/show", {"model": model}, private=True))
        except BackendDenied as error:
            if error.kind != "http_404":
                raise
        if self._has_aliases():
            raise PrivacyViolation("it does not hold this model, and an alias may lead to another host")
        return ""

    def _has_aliases(self) -> bool:
        """Return True when an unknown name may be an alias of another model.  Versions with aliases (such as 0.17)
        use them in the chat API, but not in /api/show.
        """
        try:
            return bool(entries_of(self.ask("/api/experimental/aliases", private=True), "aliases"))
        except (BackendDenied, BackendRejected):  # this version has no aliases
            return False


def _named(document: JsonObject) -> list[JsonObject]:
    return [entry for entry in entries_of(document, "models") if entry.get("name")]


def host_said(description: JsonObject) -> str:
    """Return host:port of the host that runs a model, by its description in /api/tags or /api/show; "" = the server
    itself."""
    host = description.get("remote_host")
    if not host and not description.get("remote_model"):
        return ""
    url = host.strip() if isinstance(host, str) else ""
    name = host_of(url if "://" in url else f"http://{url}").rpartition("@")[2][:_MOST_HOST_CHARS]
    return name if name.isascii() and name.isprintable() and name.strip() else _UNNAMED

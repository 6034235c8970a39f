"""llama.cpp's servers: llama-server, and the Python one of llama-cpp-python.

Facts: https://github.com/ggml-org/llama.cpp/tree/master/tools/server.  Both read json_object with a schema; only the
first reads json_schema (the second was tried).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from app.backends.base import V1_PATHS, Backend, entries_of
from app.backends.fact_values import places, size_bytes, tokens
from app.routing.locality import model_key
from app.types import BackendConfig, Dialect, JsonObject, ModelFacts

# Templates without tools get them described by the server itself, in most versions, so none is known to lack them.
_CAPABILITIES = {  # by `modalities.vision`
    False: frozenset(("completion", "tools")),
    True: frozenset(("completion", "tools", "vision")),
}


class LlamaCppBackend(Backend):
    type = "llamacpp"
    hosted = False
    default_endpoint = "http://localhost:8080"
    paths = V1_PATHS
    models_path = "/v1/models"
    hint = " (is llama-server running?)"
    # Only llama-server of 2026 reads max_completion_tokens (https://github.com/ggml-org/llama.cpp/pull/19831).
    dialect = Dialect(json_schema=False, max_tokens_only=True, system_first=True)
    # Without `top_logprobs` llama-server sends the 20 most likely tokens too.
    logprob_members = {"logprobs": True, "top_logprobs": 1}  # noqa: RUF012 - never changed

    def __init__(self, config: BackendConfig, environ: Mapping[str, str]) -> None:
        super().__init__(config, environ)
        self._models: tuple[JsonObject, ...] = ()  # entries of the list
        self._props: JsonObject = {}
        self._facts: Mapping[str, ModelFacts] = {}

    @classmethod
    def normal_endpoint(cls, endpoint: str) -> str:
        return endpoint.rstrip("/").removesuffix("/v1")

    @property
    def facts(self) -> Mapping[str, ModelFacts]:
        return self._facts

    def learn_list(self, document: JsonObject) -> None:
        self._models = tuple(entry for entry in entries_of(document, "data") if isinstance(entry.get("id"), str))
        self._renew()

    def ask_for_facts(self, models: Sequence[str] = ()) -> None:  # noqa: ARG002 - it is about all of them
        """Ask for the properties of the server.  The Python server has none."""
        self._props = {}
        try:
            self._props = self.ask("/props")
        finally:
            self._renew()

    def _renew(self) -> None:
        if any("status" in entry for entry in self._models):  # it loads models on demand, and /props is not about them
            facts = {model_key(str(entry["id"])): _switched(entry) for entry in self._models}
        else:  # it serves one model, whatever name a request has
            served = self._served()
            names = [*self.config.models, *self.config.families.values(), *_names(self._models)]
            facts = {model_key(name): served for name in names}
        if facts != self._facts:
            self._facts = facts

    def _served(self) -> ModelFacts:
        """Return the facts about the only model."""
        meta = _member(self._models[0], "meta") if self._models else {}
        settings, modalities = _member(self._props, "default_generation_settings"), _member(self._props, "modalities")
        sees = modalities.get("vision")
        return ModelFacts(
            loaded=False if self._props.get("is_sleeping") is True else None,
            window=tokens(settings.get("n_ctx")) or tokens(meta.get("n_ctx")),
            refuses=True,
            capabilities=_CAPABILITIES.get(sees) if isinstance(sees, bool) else None,
            size_bytes=size_bytes(meta.get("size")),
            trained=tokens(meta.get("n_ctx_train")),
            places=places(self._props.get("total_slots")),
        )


def _switched(entry: JsonObject) -> ModelFacts:
    """Return the facts about a model of a server that loads models on demand."""
    state = _member(entry, "status").get("value")
    return ModelFacts(loaded=state == "loaded" if isinstance(state, str) else None, refuses=True)


def _names(entries: Iterable[JsonObject]) -> Iterator[str]:
    """Return the names of models, and their other names."""
    for entry in entries:
        yield entry["id"]
        aliases = entry.get("aliases")
        yield from (name for name in aliases if isinstance(name, str)) if isinstance(aliases, list) else ()


def _member(document: JsonObject, name: str) -> JsonObject:
    """Return an object in a document; an empty one when there is none."""
    value = document.get(name)
    return value if isinstance(value, Mapping) else {}

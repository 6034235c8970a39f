"""Read the facts in an LM Studio's own list of models, /api/v0/models.

Facts: https://lmstudio.ai/docs/developer/rest/endpoints and https://lmstudio.ai/docs/developer/api-changelog.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

from app.backends.base import entries_of
from app.backends.fact_values import tokens
from app.types import JsonObject, ModelFacts, model_key

PATH = "/api/v0/models"  # beside /v1
_MOST_MODELS = 10_000
_CAPABILITIES = {
    "llm": frozenset(("completion", "tools")),
    "vlm": frozenset(("completion", "tools", "vision")),
    "embeddings": frozenset(("embedding",)),
}


def read_models(document: JsonObject, before: Mapping[str, ModelFacts]) -> dict[str, ModelFacts]:
    """Return the facts by model_key; none for the list of another server.  A model that is not loaded is believed to
    get the window that it had `before`."""
    return {key: _facts(entry, before.get(key)) for key, entry in _entries(document)}


def _entries(document: JsonObject) -> Iterator[tuple[str, JsonObject]]:
    for entry in islice(entries_of(document, "data"), _MOST_MODELS):
        if isinstance(entry.get("id"), str) and isinstance(entry.get("state"), str):
            yield model_key(entry["id"]), entry


def _facts(entry: JsonObject, before: ModelFacts | None) -> ModelFacts:
    is_loaded = entry["state"] == "loaded"
    window = tokens(entry.get("loaded_context_length")) if is_loaded else None
    return ModelFacts(
        loaded=is_loaded,
        window=window or (before.window if before else None),
        capabilities=_capabilities(entry),
        trained=tokens(entry.get("max_context_length")),
    )


def _capabilities(entry: JsonObject) -> frozenset[str] | None:
    """Return the capabilities by the type of the model.  Newer versions also list the models that use tools."""
    kind, words = entry.get("type"), entry.get("capabilities")
    own = _CAPABILITIES.get(kind) if isinstance(kind, str) else None
    if own is not None and isinstance(words, list) and "tool_use" not in words:
        return own - {"tools"}
    return own

"""Recognize the refusals of a server whose model cannot serve a request, though another model may.

The prompt is longer than the context window, or the model lacks a capability that the request needs.  Servers word this
in many ways; the words are compared in lower case, as parts of the message.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.errors import BackendRejected, CannotServe, CapabilityMissing, PromptTooLong
from app.types import JsonDict, JsonObject
from app.wire.error_document import error_fields

_REFUSALS = (400, 413, 422)
_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded")
_TOO_LONG = (
    "maximum context length",  # OpenAI, vLLM, OpenRouter, Mistral
    "exceeds the available context size",  # llama.cpp, Ollama
    "exceed context window",  # llama-cpp-python
    "longer than the context length",  # Ollama
    "longer than the model's context length",  # SGLang
    "longer than the maximum model length",  # vLLM
    "exceeds the max_model_len",
    "greater than max_seq_len",  # TabbyAPI
    "maximum prompt length",  # xAI
    "`inputs` must have less than",  # text-generation-inference
    "exceeds maximum context length",
    "context length of only",  # LM Studio
    "greater than the context length",
    "context window exceeded",
    "exceeds the context window",
    "exceed the context window",
    "prompt is too long",  # Anthropic
    "input is too long for requested model",  # Bedrock
    "exceeds the maximum number of tokens",  # Gemini
    "`max_new_tokens` must be <=",
    "reduce the length of the messages",  # Groq
)
_MISSING = (  # (part of the message, the capability)
    ("does not support tools", "tools"),
    ("does not support function calling", "tools"),
    ("tool choice requires --enable-auto-tool-choice", "tools"),  # vLLM
    ("tools param requires --jinja", "tools"),  # llama.cpp
    ("does not support vision", "vision"),
    ("does not support image", "vision"),
    ("image input is not supported", "vision"),  # llama.cpp
    ("is not a multimodal model", "vision"),  # vLLM
    ("does not support thinking", "thinking"),
    ("does not support chat", "completion"),  # Ollama: an embedding model
)


def unfit(refusal: BackendRejected, model: str) -> BackendRejected:
    """Return the error for a refusal that says why this model cannot serve the request; any other refusal as it is."""
    if refusal.status not in _REFUSALS:
        return refusal
    return cannot_serve(refusal.document or {}, refusal.message, refusal.backend_text, model) or refusal


def cannot_serve(document: JsonObject, message: str, text: str | None, model: str) -> CannotServe | None:
    """Return the error for an error document that says why a model cannot serve a request; None when it says
    something else.  `text` is the message of the document, without keys."""
    if is_too_long(document):
        coded = _coded(document, PromptTooLong.code)
        return PromptTooLong(message, document=coded, backend_text=text, **_counts(document))
    words = (text or "").lower()
    missing = next((capability for part, capability in _MISSING if part in words), None)
    if missing is None:
        return None
    coded = _coded(document, CapabilityMissing.code)
    if model not in (text or ""):
        text = coded["error"]["message"] = f"{model} does not support {missing}: {text}"
    return CapabilityMissing(message, document=coded, backend_text=text, lacks=[(model, missing)])


def is_too_long(document: JsonObject) -> bool:
    """Return whether an error says that the prompt is longer than the context window."""
    fields = error_fields(document)
    if fields["code"] in _TOO_LONG_CODES or fields["type"] in _TOO_LONG_CODES:
        return True
    words = (fields["message"] or "").lower()
    return any(part in words for part in _TOO_LONG)


def _coded(document: JsonObject, code: str) -> JsonDict:
    """Return the error document with the code by which clients know what happened, and all that the server told."""
    error = document.get("error")
    fields = dict(error) if isinstance(error, Mapping) else {}
    return {**document, "error": {"param": None, **fields, "type": "invalid_request_error", "code": code}}


def _counts(document: JsonObject) -> dict[str, int | None]:
    """Return the tokens of the prompt and of the window, where the server counted them (llama.cpp, Ollama)."""
    error = document.get("error")
    fields = error if isinstance(error, Mapping) else {}
    counts = {"tokens": fields.get("n_prompt_tokens"), "window": fields.get("n_ctx")}
    return {name: count if type(count) is int else None for name, count in counts.items()}

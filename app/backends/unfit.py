"""Recognize the refusals of a server whose model cannot serve a request, though another model may.

The prompt is longer than the context window, or the model lacks a capability that the request needs.  Servers word this
in many ways; the words are compared in lower case, as parts of the message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from app.errors import BackendRejected, CannotServe, CapabilityMissing, PromptTooLong
from app.types import JsonDict, JsonObject
from app.wire.error_document import error_fields

_REFUSALS = (400, 413, 422)
_TOO_LONG_CODES = (
    *("context_length_exceeded", "exceed_context_size_error", "context_window_exceeded"),
    "model_context_window_exceeded",  # Z.ai
)
_TOO_LONG = (
    "maximum context length",  # OpenAI, vLLM, OpenRouter, Mistral
    "exceeds the available context size",  # llama.cpp, Ollama
    "exceed context window",  # llama-cpp-python
    "longer than the context length",  # Ollama
    "exceeds the context length",  # Ollama before 0.30
    "exceeded max context length",  # Ollama's cloud
    "longer than the model's context length",  # SGLang
    "longer than the maximum model length",  # vLLM
    "exceeds the max_model_len",
    "greater than max_seq_len",  # TabbyAPI
    "maximum prompt length",  # xAI
    "exceeded model token limit",  # Kimi
    "context window exceeds limit",  # MiniMax
    "range of input length should be",  # DashScope
    "prompt exceeds max length",  # Zhipu
    "exceeds the context limit",
    "context length exceeded",
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
_MOST_WORDS = 1000
_N = r"(\d{1,9})(?!\d)"
_TOKENS = re.compile(
    rf"(?:resulted in |you requested \d{{1,9}} tokens \(|request contains |too long: |request has |prompt contains "
    rf"|request \(|input \(|tokens \(|count \(|\(length |prompt length ){_N}",
    re.IGNORECASE,
)
_WINDOW = re.compile(
    rf"(?:context length is |prompt length is |context window of |context size \(|context length \(|model length of "
    rf"|max_model_len |max_seq_len |tokens allowed |tokens allowed \(|tokens > |model with ){_N}",
    re.IGNORECASE,
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
    """Return the tokens of the prompt and of the window, as the server counted them: in members (llama.cpp, Ollama),
    or in its words."""
    error = document.get("error")
    fields = error if isinstance(error, Mapping) else {}
    counts = {"tokens": fields.get("n_prompt_tokens"), "window": fields.get("n_ctx")}
    if type(counts["tokens"]) is not int or type(counts["window"]) is not int:
        words = error_fields(document)["message"] or ""
        counts = {"tokens": _number(_TOKENS, words), "window": _number(_WINDOW, words)}
    is_sure = counts["tokens"] and counts["window"] and counts["tokens"] > counts["window"]
    return counts if is_sure else {"tokens": None, "window": None}


def _number(pattern: re.Pattern[str], words: str) -> int | None:
    match = pattern.search(words[:_MOST_WORDS])
    return int(match[1]) if match else None
